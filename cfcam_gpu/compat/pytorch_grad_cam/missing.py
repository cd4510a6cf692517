"""What pytorch-grad-cam has and this package does not, and what to take in its place."""

from __future__ import annotations

import sys
from typing import Any

_PACKAGE = __name__.rpartition(".")[0]

_OTHER_LAYERS = "AblationCAM here takes layers of every kind without it"
_FACTORISATION = "there is no factorisation of concepts here"

#: Class, function or module, by its path below the package -> what to take in its place; empty where nothing is near.
_INSTEAD = {
    "AblationLayer": _OTHER_LAYERS,
    "AblationLayerFasterRCNN": _OTHER_LAYERS,
    "AblationLayerVit": _OTHER_LAYERS,
    "ActivationsAndGradients": "cfcam_gpu.CFCAM(model).features(images) has both",
    "DeepFeatureFactorization": _FACTORISATION,
    "FullGrad": "the nearest is LayerCAM of several target_layers",
    "GuidedBackpropReLUModel": "",
    "KPCA_CAM": "the nearest is EigenCAM",
    "RandomCAM": 'cfcam_gpu.CFCAM(model, method="random") is uniform noise',
    "SESS": "cfcam_gpu.CFCAM(model, scales=(1.0, 1.43, 2.0)) averages maps of several sizes",
    "ShapleyCAM": "the nearest is GradCAM with ClassifierOutputReST, a target of the same paper",
    "run_dff_on_image": _FACTORISATION,
    "feature_factorization": _FACTORISATION,
    "metrics": "those of pytorch_grad_cam take these maps and targets; cfcam_gpu.metrics has its own",
    **dict.fromkeys(
        ("ablation_cam_multilayer", "ablation_layer", "activations_and_gradients", "fullgrad_cam", "guided_backprop",
         "kpca_cam", "random_cam", "sess", "shapley_cam", "sobel_cam"), "",
    ),
    **dict.fromkeys(
        ("utils.find_layers", "utils.svd_on_activations", "utils.image.create_labels_legend",
         "utils.image.deprocess_image", "utils.image.scale_accross_batch_and_channels",
         "utils.image.show_factorization_on_image"), "",
    ),
    "utils.model_targets.FasterRCNNBoxScoreTarget": "detectors are not explained here",
    "utils.reshape_transforms.fasterrcnn_reshape_transform": "detectors are not explained here",
}  # fmt: skip

#: Their modules of one class, which is here: a script may import it from there.
_OF_ONE_CLASS = (
    "ablation_cam", "base_cam", "eigen_cam", "eigen_grad_cam", "fem", "finer_cam", "grad_cam", "grad_cam_elementwise",
    "grad_cam_plusplus", "hirescam", "layer_cam", "refine_cam", "score_cam", "seg_eigen_cam", "xgrad_cam",
)  # fmt: skip

#: Argument of their constructors -> why it is not taken.
_OPTIONS = {
    "ablation_layer": _OTHER_LAYERS,
    "batch_size": "the size of a pass follows the memory",
    "compute_input_gradient": "the method decides",
    "detach": "the method decides",
    "k": "FEM's is 2, as there by default",
    "ratio_channels_to_ablate": "every channel is ablated, as there by default",
    "tta_transforms": "aug_smooth has the six views that are the default there",
    "use_cuda": "the maps are computed where the model is",
    "uses_gradients": "the method decides",
}


def missing(module: str, name: str) -> Exception:
    """The error for a name that a module of this package has not: it says what to do where pytorch-grad-cam has it.

    Example:
        >>> print(missing("cfcam_gpu.compat.pytorch_grad_cam", "KPCA_CAM"))
        cfcam_gpu.compat.pytorch_grad_cam has no KPCA_CAM (the nearest is EigenCAM); keep importing it from \
pytorch_grad_cam, or see the table in docs/coming-from.md
        >>> missing("cfcam_gpu.compat.pytorch_grad_cam", "__wrapped__")
        AttributeError("module 'cfcam_gpu.compat.pytorch_grad_cam' has no attribute '__wrapped__'")
    """
    hint = _INSTEAD.get(f"{module}.{name}".removeprefix(f"{_PACKAGE}."))
    if hint is None:
        return AttributeError(f"module {module!r} has no attribute {name!r}")
    return ImportError(
        f"{module} has no {name}{f' ({hint})' if hint else ''}; keep importing it from pytorch_grad_cam, "
        "or see the table in docs/coming-from.md"
    )


def not_taken(name: str, options: dict[str, Any]) -> str:
    """The message for arguments that a class does not take.

    Example:
        >>> not_taken("GradCAM", {"use_cuda": True})
        'GradCAM takes model, target_layers and reshape_transform; leave out use_cuda (the maps are computed where the \
model is)'
    """
    reasons = (f"{option} ({_OPTIONS[option]})" if option in _OPTIONS else option for option in options)
    return f"{name} takes model, target_layers and reshape_transform; leave out {', '.join(reasons)}"


class _Absent:
    """Asked last for every module: for one that only pytorch-grad-cam has, it raises the error that says what to do."""

    @staticmethod
    def find_spec(name: str, _path: object = None, _target: object = None) -> None:
        if name.startswith(f"{_PACKAGE}.") and name.removeprefix(f"{_PACKAGE}.") in _INSTEAD:
            raise missing(*name.rsplit(".", 1))


def answer_for_their_modules() -> None:
    """From now on this package stands for their modules of one class, and what it lacks raises an error that helps."""
    package = sys.modules[_PACKAGE]
    sys.modules.update({f"{_PACKAGE}.{name}": package for name in _OF_ONE_CLASS})
    if _Absent not in sys.meta_path:
        sys.meta_path.append(_Absent)
