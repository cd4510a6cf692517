"""A method as an entry of the table `METHODS`: what it needs, what it reads, and the function that runs it."""

from __future__ import annotations

import dataclasses
import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cfcam_gpu.config import CFCAMConfig
from cfcam_gpu.engines import resolve_engine
from cfcam_gpu.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from cfcam_gpu.cfcam.maps import Maps
    from cfcam_gpu.methods.features import Features


@dataclass(frozen=True)
class Method:
    """A way to make saliency maps.

    The function is named, not held: it is imported with PyTorch when it first runs, so that the
    command line lists the methods without either.

    Attributes:
        name: its key in `METHODS`.
        function: `module:function` in this package: `Features`, or `CapturedFeatures` where
            `needs_model` is set -> saliency map (B,K,h,w) float32, not negative, or `Maps`.
        about: one line for people.
        source: where it was published; empty for a method of this package.
        uses_gradients: whether it reads `Features.gradients`.
        needs_model: whether it needs the model, not just what was captured of it.
        needs_finer: whether it looks at an earlier layer as well.
        contrasts: whether it explains a class's score against all others, `CapturedFeatures.contrasted`.
        many_passes: whether it runs the model, or the layers behind the target layer, dozens of times for each image.
        is_cfcam: whether it clusters channels; only these have labels and presets.
        has_engines: whether `cfcam_gpu.engines.ENGINES` implement it; others run in PyTorch.
        engines: names of the engines that have kernels for steps of a method which runs in PyTorch.
        is_whole: whether an engine that has `explain` computes all of it there.
        reads_config: fields of `CFCAMConfig` that it reads.
        weights: `module:function` in this package, of the weights that its map sums the activations with: features ->
            (B,K,C), or (B,K,C,h,w) with one for every cell. Empty where the map is no such sum.
        is_smoothed: whether `function` gives these weights, and the map is their contributions' first principal
            component, see `smoothed`.

    Example:
        >>> from cfcam_gpu.methods import METHODS
        >>> [name for name, method in METHODS.items() if method.many_passes]
        ['scorecam', 'ablationcam', 'groupcam', 'reciprocam']
    """

    name: str
    function: str
    about: str
    source: str = ""
    uses_gradients: bool = False
    needs_model: bool = False
    needs_finer: bool = False
    contrasts: bool = False
    many_passes: bool = False
    is_cfcam: bool = False
    has_engines: bool = False
    engines: tuple[str, ...] = ()
    is_whole: bool = False
    reads_config: tuple[str, ...] = ()
    weights: str = ""
    is_smoothed: bool = False

    def __call__(self, features: Features) -> Maps:
        """The maps of B images for K targets.

        Raises:
            ConfigError: the features lack what the method needs.
        """
        from cfcam_gpu.cfcam.maps import Maps, maps_of
        from cfcam_gpu.methods.features import CapturedFeatures

        if self.needs_model and not isinstance(features, CapturedFeatures):
            raise ConfigError(f"method {self.name!r} runs the model again; use CFCAM(model, method=...)")
        if self.uses_gradients and not features.gradients.shape[1]:
            raise ConfigError(f"method {self.name!r} needs gradients; capture or pass them")
        maps = self._function()(features)
        if self.is_smoothed:
            from cfcam_gpu.methods.smoothing import eigen_smoothed

            maps = eigen_smoothed(features.activations, maps)
        return maps if isinstance(maps, Maps) else maps_of(maps, features.size)

    def _function(self) -> Any:
        module, _, function = self.function.partition(":")
        return getattr(importlib.import_module(f"cfcam_gpu.methods.{module}"), function)

    def engine(self, name: str, device: torch.device) -> str:
        """The engine that runs on a device when `name` was asked for; `torch` where there is no choice.

        Raises:
            BackendError: an engine that is unknown or cannot run there.
            ConfigError: another engine than PyTorch's, of a method that has no other.
        """
        if self.has_engines:
            return resolve_engine(name, device)
        if name in ("auto", "torch"):  # kernels of steps are asked for by name until they have run on a GPU
            return "torch"
        resolved = resolve_engine(name, device)
        if not self.takes(name):
            smoothed = " with eigen_smooth" if self.is_smoothed else ""
            raise ConfigError(
                f"engine {name!r} is one of cfcam's; {self.name}{smoothed} runs in PyTorch, engine "
                + " or ".join(("auto", *self.engines))
            )
        return resolved

    def takes(self, engine: str) -> bool:
        """Whether the engine may be asked for by this name; `auto` and `torch` always may.

        Example:
            >>> Method("plain", "gradient:gradcam", "").takes("triton")
            False
        """
        return self.has_engines or engine in ("auto", "torch", *self.engines)

    def config_read(self, config: CFCAMConfig) -> dict[str, Any]:
        """The fields of a configuration that decide this method's maps, with their values.

        Example:
            >>> Method("sharp", "sharpened:sharp", "", reads_config=("fine_share",)).config_read(CFCAMConfig())
            {'fine_share': 0.4}
        """
        return {name: getattr(config, name) for name in self.reads_config}

    def check_config(self, config: CFCAMConfig) -> None:
        """Refuses a configuration that changes a parameter which this method does not read.

        CF-CAM's own methods may share one configuration, whatever they read of it.

        Raises:
            ConfigError: with the parameters.

        Example:
            >>> Method("plain", "gradient:gradcam", "").check_config(CFCAMConfig(eps_percentile=5))
            Traceback (most recent call last):
            cfcam_gpu.errors.ConfigError: presets and parameters are cfcam's, plain has none; leave them out
        """
        default = dataclasses.asdict(CFCAMConfig())
        changed = [name for name, value in dataclasses.asdict(config).items() if value != default[name]]
        unread = [name for name in changed if name not in self.reads_config]
        if self.is_cfcam or not unread:
            return
        if not self.reads_config:
            raise ConfigError(f"presets and parameters are cfcam's, {self.name} has none; leave them out")
        raise ConfigError(
            f"method {self.name!r} reads only {', '.join(self.reads_config)}, got {', '.join(unread)}; "
            "leave these parameters, or the preset that sets them, out"
        )
