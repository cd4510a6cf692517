"""CF-CAM from end to end: a model and images in, heatmaps out. Read this first.

capture (one forward pass, the head's backward) -> cluster -> filter -> weight -> heatmap

Another method (see `methods`) replaces the three steps in the middle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from cfcam_gpu._utils.checks import Check, never_ends
from cfcam_gpu._utils.device import device_of, on_device
from cfcam_gpu._utils.precision import leave_inference_mode
from cfcam_gpu._utils.undo import Undo, end_contexts
from cfcam_gpu.activations import check_on_invalid, explained
from cfcam_gpu.capture import (
    TargetLayer,
    capture,
    choose_layer,
    find_layer,
    finer_layer,
    with_layout,
)
from cfcam_gpu.capture.arguments import check_call, check_reading, checked_images, listed_layers
from cfcam_gpu.capture.compiled import CompiledModel, backend_of
from cfcam_gpu.capture.failures import check_model
from cfcam_gpu.capture.hooks import keep_modes
from cfcam_gpu.capture.inputs import FurtherInputs, split_inputs
from cfcam_gpu.capture.model_runner import ModelRunner
from cfcam_gpu.capture.model_state import unwrapped
from cfcam_gpu.capture.scoring import Scoring, describe
from cfcam_gpu.capture.targets import Targets
from cfcam_gpu.capture.volumes import Slices, volume_layer
from cfcam_gpu.cfcam.volumes import volume_config
from cfcam_gpu.config import CFCAMConfig
from cfcam_gpu.errors import CaptureError, ConfigError, ModelFailedError
from cfcam_gpu.explanation import (
    Explanation,
    averaged,
    finished,
    unfolded,
    without_absent,
)
from cfcam_gpu.methods import find_method, smoothed
from cfcam_gpu.methods.features import CapturedFeatures
from cfcam_gpu.methods.views import ImageView, image_views, joined

#: A target layer: its name, its index among the model's children, or the module.
Layer = str | int | nn.Module


class CFCAM:
    """CF-CAM, or another method, of a layer of a classifier.

    Hooks exist only during a call, and the model comes back as it was given, also after an exception or
    an interrupt at any moment. Several threads may explain one model, which they do in turn; a thread that
    trains it meanwhile would find it frozen and in eval mode.

    Args:
        model: returns logits, or a dict, tuple or object that holds them. A model compiled or wrapped for data
            parallelism is explained through the module inside.
        target_layer: a module, its name, or `NAME:FUNCTION` for the output of the nonlinear function
            after it (`"features:relu"`); or the index of one of the model's children. None: the last module
            with maps larger than 1×1, after its nonlinearity, found at the first call. A list of several:
            the mean of their heatmaps, for which the model runs once a layer.
        config: parameters of CF-CAM; other methods read the fields in `Method.reads_config`.
        engine: `auto` or a key of `cfcam_gpu.engines.ENGINES`; only CF-CAM has engines.
        on_invalid: `raise` an error for images that cannot be explained, or `flag` them: a blank map
            and `Explanation.status`, without waiting for the device.
        method: a key of `cfcam_gpu.methods.METHODS`.
        finer_layer: the earlier layer of a method that looks at two layers (`cfcam-sharp`, `cfcam-fine`), given as
            `target_layer` is. None: the last one with maps of twice the target layer's resolution.
        layout: how the target layer's output holds its map: a key of `cfcam_gpu.capture.LAYOUTS`, or `auto`.
        reshape_transform: a function from the output of `target_layer` to (B,C,h,w), as pytorch-grad-cam
            takes it, for outputs in no such layout.
        compile: run the model in two halves compiled by `torch.compile`, down to the target layer and from
            there on; the same maps within 1e-4, after a first call that takes up to a minute. Where that
            is not possible, the log says why. A model compiled by `torch.compile` runs so anyway.
        activation: `softmax`, `sigmoid` or `auto`: see `cfcam_gpu.capture.Scoring`. What is explained is a class's
            logit in any case; of a model with one output the output itself for class 1, its negative for class 0.
        call: which run of the target layer is explained, where it runs more than once in a forward pass, as the
            shared backbone of a Siamese network does: -1 the last, 0 the first, 1 the second ...; `all`: the
            mean of the heatmaps of all of them, for which the model runs once for each.
        output: index, key or attribute of the logits in what the model returns; None: found by the usual names.
        scales: factors of the images' size at which they are explained, one forward pass each; the maps, each over
            its maximum, are averaged. Classes and logits are those of the images as given. The model must take
            images of these sizes, and nothing else of the images' height and width.
        flip: explain the images' mirror images as well, at each scale.
        eigen_smooth: the first principal component of the weighted channels in place of their sum, as in
            pytorch-grad-cam, with the sign that agrees with the sum; of methods with `Method.weights`, in PyTorch.
        aug_smooth: average over the images and their mirror images with 0.9, 1 and 1.1 times their values, as in
            pytorch-grad-cam: six forward passes.

    Raises:
        CaptureError: the model has no such layer.
        ConfigError, BackendError: an unknown method or engine, or one that does not fit the other arguments.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> with CFCAM(model, target_layer="1", engine="torch", on_invalid="flag") as cam:
        ...     result = cam(torch.rand(5, 3, 8, 8), targets=[0, 1, 2, 3, 0])
        >>> result.heatmap.shape, result.grid.shape
        (torch.Size([5, 8, 8]), torch.Size([5, 6, 6]))
    """

    def __init__(
        self,
        model: nn.Module,
        target_layer: Layer | Sequence[Layer] | None = None,
        config: CFCAMConfig | None = None,
        engine: str = "auto",
        on_invalid: str = "raise",
        method: str = "cfcam",
        finer_layer: Layer | None = None,
        layout: str = "auto",
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
        *,
        compile: bool = False,
        activation: str = "auto",
        output: int | str | None = None,
        call: int | str = -1,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        eigen_smooth: bool = False,
        aug_smooth: bool = False,
    ) -> None:
        check_on_invalid(on_invalid)
        check_call(call)
        first, *others = listed_layers(target_layer)
        check_reading(first, layout, reshape_transform)
        self.method = smoothed(find_method(method)) if eigen_smooth else find_method(method)
        check_model(model)
        self.model = unwrapped(model)
        self.config = config or CFCAMConfig()
        self.engine = engine
        self.on_invalid = on_invalid
        self._layer = self._find(first)
        if finer_layer is not None and not self.method.needs_finer:
            raise ConfigError(f"method {method!r} looks at one layer, target_layer; leave finer_layer out")
        self._finer = self._find(finer_layer)
        #: The finer layers that were chosen, by the label of the target layer.
        self._finers: dict[str, TargetLayer] = {}
        self.layout = layout
        self.reshape_transform = reshape_transform
        self.scoring = Scoring(activation, output).of_model(self.model)
        self.call = call
        self.scales, self.flip = tuple(scales), flip
        self.eigen_smooth, self.aug_smooth = eigen_smooth, aug_smooth
        self._views = image_views(self.scales, flip=flip, aug_smooth=aug_smooth)
        self._calls: int | None = None
        #: Makes an explainer of another layer, or of another run of the layer.
        self._another: Callable[..., CFCAM] = partial(
            CFCAM, model, config=config, engine=engine, on_invalid=on_invalid, method=method,
            finer_layer=finer_layer, layout=layout, reshape_transform=reshape_transform, compile=compile,
            activation=activation, output=output, scales=scales, flip=flip,
            eigen_smooth=eigen_smooth, aug_smooth=aug_smooth,
        )  # fmt: skip
        self._runs: dict[int, CFCAM] = {}
        self._others = [self._another(layer, call=call) for layer in others]
        backend = backend_of(model)
        self._compiled: CompiledModel | None = None
        if compile or backend is not None:
            self._compiled = CompiledModel(backend, explicit=compile)
        self.method.engine(engine, device_of(self.model))

    def _find(self, layer: Layer | None) -> TargetLayer | None:
        if layer is None:
            return None
        return find_layer(self.model, unwrapped(layer) if isinstance(layer, nn.Module) else layer)

    def __enter__(self) -> CFCAM:
        return self

    def __exit__(self, *exception: object) -> None:
        return None

    @property
    def layer_name(self) -> str | None:
        """Name of the target layer; None before the first call when it is chosen automatically.

        The names of several are separated by commas.
        """
        if self._layer is None:
            return None
        return ", ".join([self._layer.label, *(str(other.layer_name) for other in self._others)])

    @property
    def compiles(self) -> bool:
        """Whether the model is run in compiled halves where that is possible."""
        return self._compiled is not None

    @property
    def engine_name(self) -> str:
        """The engine that runs on the model's device."""
        return self.method.engine(self.engine, device_of(self.model))

    def __call__(
        self,
        images: Tensor | Mapping[str, Any] | None = None,
        targets: Targets = None,
        *,
        check: Check = never_ends,
        forward_args: Sequence[Any] = (),
        forward_kwargs: Mapping[str, Any] | None = None,
        **inputs: Any,
    ) -> Explanation:
        """Explain images (B,channels,H,W), preprocessed as the model takes them and on its device.

        Volumes (B,channels,D,H,W) are explained by every method that looks at one layer, in PyTorch.

        Args:
            images: or a mapping of all that the model takes, `cam(processor(...))`; it may be given as arguments
                too, `cam(**processor(...))` or `cam(pixel_values=...)`.
            targets: what to explain: None (each image's highest logit), a class, a list or (B,)
                tensor of classes, or functions of one image's logits. Several for each image share the
                forward pass and the clustering: (B,K) classes, a list of lists of classes (as many for each
                image or not) or functions, `TopK(3)` or `Above(0.5)`.
            check: called often; raises to end the call.
            forward_args, forward_kwargs: what the model takes after the images, and by name. A tensor as long as
                the batch has a row for each image.
            inputs: what the model takes by name, its images included.

        Raises:
            CaptureError, TargetError: the layer, the model's output or the targets do not fit.
            InvalidImagesError: images that cannot be explained (NaN, zero gradient), by index.
        """
        images, further = split_inputs(images, forward_args, forward_kwargs, inputs)
        undo = Undo()
        try:
            keep_modes(undo)
            results = [
                result
                for one in (self, *self._others)
                for result in one._explanations(images, targets, further, check)
            ]
        except BaseException as error:
            end_contexts(error)
            raise
        finally:
            undo.run()
        return results[0] if len(results) == 1 else averaged(results)

    def _explanations(
        self, images: Any, targets: Targets, further: FurtherInputs | None, check: Check
    ) -> list[Explanation]:
        """The explanation of the run of the layer that was asked for, or those of all its runs, the last one last."""
        differentiate = self.method.uses_gradients and self._views[0].is_plain
        features = self._capture(images, targets, differentiate=differentiate, check=check, further=further)
        earlier = features.runner.calls - 1 if self.call == "all" else 0
        results = [
            result
            for call in range(earlier)
            for result in self._of_run(features.runner.layer, call)._explanations(
                images, targets, further, check
            )
        ]
        return [*results, self.explain(features)]

    def _of_run(self, layer: TargetLayer, call: int) -> CFCAM:
        """An explainer of one run of the layer."""
        if call not in self._runs:
            self._runs[call] = self._another(layer.label or layer.module, call=call)
        return self._runs[call]

    def features(
        self, images: Tensor, targets: Targets = None, *, check: Check = never_ends
    ) -> CapturedFeatures:
        """The first half of a call: activations and gradients, which several methods may explain.

        Arguments and errors are those of a call. `explain` calls `check` as well.

        Raises:
            ConfigError: several layers, or all runs of one, which have no features in common.
        """
        if self._others or self.call == "all":
            raise ConfigError("features are those of one run of one layer; call the explainer for several")
        return self._capture(images, targets, differentiate=True, check=check)

    def explain(self, features: CapturedFeatures) -> Explanation:
        """The second half of a call: maps of the features that this or another `CFCAM` of the model captured.

        Raises:
            InvalidImagesError: as in a call.
            ConfigError: the features lack what the method needs.
        """
        expected = (*features.activations.shape[:1], features.k, *features.activations.shape[1:])
        if features.gradients.shape != expected and features.gradients.shape[1:2] != (0,):
            raise ConfigError(
                f"gradients must be (B,K,C,h,w), here {expected}, got {describe(features.gradients)}"
            )
        features = replace(features, config=self.config, engine=self.engine_name)
        slices = features.runner.layer.layout
        if isinstance(slices, Slices):
            features = self._of_volumes(features, slices)
        with on_device(features.activations.device):
            results = [self._at_view(features, view) for view in self._views]
            result = joined(results, self._views) if self.has_views else results[0]
            result = replace(
                result, logits=features.logits, activation=features.activation, targets=features.targets
            )
            if features.absent is not None:
                result = without_absent(result, features.absent)
            result = finished(result, single=features.single, on_invalid=self.on_invalid)
            return unfolded(result, slices.sides, slices.volume) if isinstance(slices, Slices) else result

    def _of_volumes(self, features: CapturedFeatures, slices: Slices) -> CapturedFeatures:
        """The features as PyTorch's engine takes those of volumes, with the slices of a map below each other."""
        self._check_volumes()
        if self.engine not in ("auto", "torch"):
            raise ConfigError(f"engine {self.engine!r} does not explain volumes; use engine 'torch'")
        config = volume_config(self.config, slices.sides[0]) if self.method.is_cfcam else self.config
        sides = features.activations.shape[2:]
        return replace(features, config=config, engine="torch", size=(sides[0], sides[1]))

    @property
    def has_views(self) -> bool:
        """Whether maps of several sizes or of mirror images are averaged."""
        return len(self._views) > 1 or not self._views[0].is_plain

    def _at_view(self, features: CapturedFeatures, view: ImageView) -> Explanation:
        """The explanation of a view of the images, with heatmaps of the images' size."""
        if not view.is_plain:
            features = self._captured_at(view, features)
        return explained(self._suited(features), self.method)

    def _captured_at(self, view: ImageView, features: CapturedFeatures) -> CapturedFeatures:
        """The same targets at the same run of the same layer, for a view of the images."""
        images, runner, finer = view.of(features.images), features.runner, None
        if runner.further is not None:
            runner.further.check_views(features.size)
        if self.method.needs_finer:
            finer = self._finer_layer(runner.layer, features.images, runner.model)
        try:
            captured = runner.capture(
                images,
                features.asked,
                calls=self._calls,
                differentiate=self.method.uses_gradients,
                finer=finer,
                contrast=self.method.contrasts,
                compiled=self._compiled,
                call=runner.asked,
            )
        except ModelFailedError as error:
            raise CaptureError(
                f"the model takes no images of {images.shape[2]}x{images.shape[3]}, scale {view.scale:g} of "
                f"{features.size[0]}x{features.size[1]} ({error.sentence}); leave scales out, or load a model that "
                "interpolates its positions, such as timm's with dynamic_img_size=True"
            ) from error
        return features.with_capture(captured, images)

    def _suited(self, features: CapturedFeatures) -> CapturedFeatures:
        """The features with what the method reads, captured anew where another method left it out."""
        method, finer = self.method, None
        if method.needs_finer:
            finer = self._finer_layer(features.runner.layer, features.images, features.runner.model)
        captured = finer is None or (features.finer is not None and features.finer.layer.label == finer.label)
        if captured and (features.contrasted == method.contrasts or not method.uses_gradients):
            return features
        return features.captured_again(finer, contrast=method.contrasts)

    def _capture(
        self,
        images: Any,
        targets: Targets,
        *,
        differentiate: bool,
        check: Check,
        further: FurtherInputs | None = None,
    ) -> CapturedFeatures:
        images = checked_images(images, self.model)
        model = self._bound(further, len(images))
        undo = Undo()
        try:
            leave_inference_mode(undo)
            with on_device(images.device):
                self._layer = self._ready_layer(model, images)
                finer = self._finer_layer(self._layer, images, model) if self.method.needs_finer else None
                captured = capture(
                    model,
                    self._layer,
                    images,
                    targets,
                    self._calls,
                    differentiate=differentiate,
                    finer=finer,
                    scoring=self.scoring,
                    contrast=self.method.contrasts,
                    check=check,
                    compiled=self._compiled,
                    call=-1 if isinstance(self.call, str) else self.call,
                )
        finally:
            undo.run()
        self._calls, self._layer = captured.calls, captured.layer
        kind, indices = images.device.type, captured.targets
        autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        return CapturedFeatures(
            activations=captured.activations.float(),
            gradients=captured.gradients,
            size=(images.shape[2], images.shape[3]),
            config=self.config,
            engine=self.engine,
            images=images.detach(),
            targets=None if indices is None else indices.view(len(images), -1),
            absent=captured.absent,
            functions=captured.functions,
            scores=captured.scores,
            logits=captured.logits,
            activation=captured.activation,
            out_of_range=captured.out_of_range,
            runner=ModelRunner(
                model,
                captured.layer,
                captured.call,
                autocast,
                check,
                self.scoring,
                raw=bool(captured.functions),
                asked=-1 if isinstance(self.call, str) else self.call,
                further=further,
            ),
            finer=captured.finer,
            contrasted=captured.contrasted,
            single=captured.single,
        )

    def _bound(self, further: FurtherInputs | None, batch: int) -> nn.Module:
        """The model as a function of the images alone."""
        if further is None:
            return self.model
        if further.of_each_image(batch) and self.method.needs_model and not self.method.needs_finer:
            raise CaptureError(
                f"method {self.method.name!r} runs the model on changed images, whose further inputs it cannot tell "
                "apart; explain one image at a time, or choose another method"
            )
        if self._compiled is not None:
            self._compiled.refuse("it takes further inputs")
            self._compiled = None
        return further.bound(self.model, batch)

    def _ready_layer(self, model: nn.Module, images: Tensor) -> TargetLayer:
        """The target layer, chosen if none was named, with its layout where the caller says anything of that."""
        if images.ndim == 5:
            return self._volume_layer(model, images)
        if self._layer is None:
            return choose_layer(model, images, self.layout, self.scoring)
        if self._layer.layout is None and (self.layout != "auto" or self.reshape_transform is not None):
            return with_layout(model, self._layer, images, self.layout, self.reshape_transform)
        return self._layer

    def _check_volumes(self) -> None:
        reasons = {
            f"method {self.method.name!r} looks at a second layer and": self.method.needs_finer,
            "an explainer of several sizes or mirror images": self.has_views,
            "an explainer with a layout or reshape_transform": self.layout != "auto"
            or self.reshape_transform is not None,
        }
        for reason in (reason for reason, holds in reasons.items() if holds):
            raise ConfigError(f"{reason} does not explain volumes; choose another method or leave that out")

    def _volume_layer(self, model: nn.Module, volumes: Tensor) -> TargetLayer:
        self._check_volumes()
        layout = self._layer.layout if self._layer else None
        if self._layer and isinstance(layout, Slices) and layout.volume == tuple(volumes.shape[2:]):
            return self._layer
        return volume_layer(model, self._layer, volumes, self.scoring)

    def _finer_layer(self, layer: TargetLayer, images: Tensor, model: nn.Module) -> TargetLayer:
        finer = self._finer or self._finers.get(layer.label)
        if finer is None:
            finer = self._finers[layer.label] = finer_layer(model, layer, images, self.scoring)
        if finer.label == layer.label:
            raise CaptureError(
                f"the finer layer is the explained layer {layer.label!r} itself; choose an earlier one, "
                "`cfcam layers` lists them in their order"
            )
        return finer

    @property
    def finer_layer_name(self) -> str | None:
        """Name of the earlier layer; None for methods with one layer, and before it is chosen at the first call."""
        chosen = self._finers.get(self._layer.label) if self._layer else None
        finer = self._finer or chosen
        return finer.label if finer else None
