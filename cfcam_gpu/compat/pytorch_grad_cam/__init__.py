"""pytorch-grad-cam's classes: the same constructor, the same call, the same numbers as a NumPy array.

    from cfcam_gpu.compat.pytorch_grad_cam import GradCAM
    from cfcam_gpu.compat.pytorch_grad_cam.utils.image import show_cam_on_image
    from cfcam_gpu.compat.pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

What differs: as many targets as images are needed, where that package leaves out the images without one; errors
inside a `with` block are raised; the model comes back as it was given; Eigen-CAM has a sign of its own choice, and
Score-CAM upsamples its masks by half-pixel centres.
"""

from cfcam_gpu.compat.pytorch_grad_cam.cams import (
    CFCAM,
    AblationCAM,
    BaseCAM,
    CFCAMSharp,
    EigenCAM,
    EigenGradCAM,
    GradCAM,
    GradCAMPlusPlus,
    HiResCAM,
    LayerCAM,
    ScoreCAM,
    XGradCAM,
)

__all__ = [
    "CFCAM",
    "AblationCAM",
    "BaseCAM",
    "CFCAMSharp",
    "EigenCAM",
    "EigenGradCAM",
    "GradCAM",
    "GradCAMPlusPlus",
    "HiResCAM",
    "LayerCAM",
    "ScoreCAM",
    "XGradCAM",
]

#: What that package has and this one does not.
_MISSING = (
    "AblationLayer", "AblationLayerFasterRCNN", "AblationLayerVit", "ActivationsAndGradients",
    "DeepFeatureFactorization", "FEM", "FinerCAM", "FullGrad", "GradCAMElementWise", "GuidedBackpropReLUModel",
    "KPCA_CAM", "RandomCAM", "RefineCAM", "SESS", "SegEigenCAM", "ShapleyCAM", "run_dff_on_image",
)  # fmt: skip


def __getattr__(name: str) -> object:
    if name in _MISSING:
        raise ImportError(
            f"cfcam_gpu.compat.pytorch_grad_cam has no {name}; keep importing it from pytorch_grad_cam, "
            f"or take one of {', '.join(__all__)}"
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
