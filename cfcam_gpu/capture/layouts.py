"""How a layer's output holds its map, and how to read the map from it.

A convolution puts out channels first, (B,C,h,w). Some transformers put out channels last, (B,h,w,C),
others a sequence of tokens (B,prefix+h·w,C): class, distillation and register tokens first, then the
patches of the picture, row by row. `LAYOUTS` is the table of them; `readings` lists the ways in which an
output of some shape can be read, given the size of the image and the map sizes of the model.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from cfcam_gpu._utils.messages import unknown
from cfcam_gpu._utils.precision import widest_dtype
from cfcam_gpu.config import LAYOUT_NAMES
from cfcam_gpu.errors import CaptureError, ConfigError

#: Most class, distillation and register tokens before those of the picture.
MOST_PREFIX_TOKENS = 16

MapShape = tuple[int, int]


@dataclass(frozen=True)
class Geometry:
    """What is known about the sizes of a model's maps.

    Attributes:
        image: (H,W) of the image.
        grids: (h,w) of maps that the model names or makes, such as the grid of its patches.
        prefix: number of tokens before those of the picture, if the model names it.
    """

    image: MapShape
    grids: tuple[MapShape, ...] = ()
    prefix: int | None = None


class Layout(ABC):
    """How an output holds its map: `maps` reads it, `put_back` writes it.

    Both keep the batch axis and are differentiable.

    Attributes:
        name: its key in `LAYOUTS`.
        form: the axes of an output, in words, and axes: their number; None: any.
        image: (H,W) of the images to which it applies; None: any.
    """

    name: ClassVar[str]
    form: ClassVar[str]
    axes: ClassVar[int | None] = None
    image: MapShape | None = None

    @abstractmethod
    def maps(self, output: Tensor) -> Tensor:
        """(B,C,h,w) of a layer's output, or of its gradient."""

    @abstractmethod
    def sizes(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """(C,h,w) of the map in an output of this shape."""

    @abstractmethod
    def put_back(self, maps: Tensor, output: Tensor) -> Tensor:
        """The layer's output with other maps (B,C,h,w).

        Args:
            output: what the layer put out for the same images, or for one image; what is no map in it,
                such as a class token, stays.
        """

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether an output of this shape can be read."""
        return self.axes in (None, len(shape))

    @classmethod
    def readings(cls, shape: Sequence[int], geometry: Geometry) -> Iterator[Layout]:  # noqa: ARG003
        """The ways to read an output of this shape that suit the image, the likeliest first; of the table's layouts."""
        return iter(())

    @property
    def about(self) -> str:
        """The layout in a few words, for people."""
        return self.name


@dataclass(frozen=True)
class ChannelsFirst(Layout):
    """(B,C,h,w), as convolutions put it out."""

    name: ClassVar[str] = "nchw"
    form: ClassVar[str] = "(B,C,h,w)"
    axes: ClassVar[int | None] = 4

    def maps(self, output: Tensor) -> Tensor:
        return output

    def sizes(self, shape: Sequence[int]) -> tuple[int, int, int]:
        return shape[1], shape[2], shape[3]

    def put_back(self, maps: Tensor, output: Tensor) -> Tensor:
        return maps.to(output.dtype)

    @classmethod
    def readings(cls, shape: Sequence[int], geometry: Geometry) -> Iterator[Layout]:
        if len(shape) == 4 and _proportional((shape[2], shape[3]), geometry.image):
            yield cls()


@dataclass(frozen=True)
class ChannelsLast(Layout):
    """(B,h,w,C), as Swin transformers put it out."""

    name: ClassVar[str] = "nhwc"
    form: ClassVar[str] = "(B,h,w,C)"
    axes: ClassVar[int | None] = 4

    def maps(self, output: Tensor) -> Tensor:
        return output.permute(0, 3, 1, 2)

    def sizes(self, shape: Sequence[int]) -> tuple[int, int, int]:
        return shape[3], shape[1], shape[2]

    def put_back(self, maps: Tensor, output: Tensor) -> Tensor:
        return maps.to(output.dtype).permute(0, 2, 3, 1)

    @classmethod
    def readings(cls, shape: Sequence[int], geometry: Geometry) -> Iterator[Layout]:
        if len(shape) == 4 and _proportional((shape[1], shape[2]), geometry.image):
            yield cls()


@dataclass(frozen=True)
class Tokens(Layout):
    """(B,prefix+h·w,C): `prefix` tokens that are no place in the picture, then the map, row by row."""

    map_shape: MapShape
    prefix: int = 0
    image: MapShape | None = None
    name: ClassVar[str] = "tokens"
    form: ClassVar[str] = "(B,tokens,C)"
    axes: ClassVar[int | None] = 3

    def maps(self, output: Tensor) -> Tensor:
        return output[:, self.prefix :].transpose(1, 2).unflatten(2, self.map_shape)

    def sizes(self, shape: Sequence[int]) -> tuple[int, int, int]:
        return shape[2], *self.map_shape

    def put_back(self, maps: Tensor, output: Tensor) -> Tensor:
        tokens = maps.to(output.dtype).flatten(2).transpose(1, 2)
        return torch.cat([output[:, : self.prefix].expand(len(tokens), -1, -1), tokens], dim=1)

    def fits(self, shape: Sequence[int]) -> bool:
        return len(shape) == 3 and shape[1] == self.prefix + math.prod(self.map_shape)

    @property
    def about(self) -> str:
        first = f"{self.prefix} + " if self.prefix else ""
        return f"tokens ({first}{self.map_shape[0]}x{self.map_shape[1]})"

    @classmethod
    def readings(cls, shape: Sequence[int], geometry: Geometry) -> Iterator[Layout]:
        if len(shape) == 3:
            yield from (
                cls(grid, prefix, geometry.image) for grid, prefix in _token_grids(shape[1], geometry)
            )


@dataclass(frozen=True)
class Reshaped(Layout):
    """What a function of the user makes of the output: pytorch-grad-cam's `reshape_transform`."""

    function: Callable[[Tensor], Tensor]
    name: ClassVar[str] = "reshape_transform"
    form: ClassVar[str] = "any"

    def maps(self, output: Tensor) -> Tensor:
        maps = self.function(output)
        if not (isinstance(maps, Tensor) and maps.ndim == 4):
            shape = (
                f"a tensor of shape {tuple(maps.shape)}" if isinstance(maps, Tensor) else type(maps).__name__
            )
            raise CaptureError(
                f"reshape_transform must return a tensor (B,C,h,w), for an output of shape "
                f"{tuple(output.shape)} it returned {shape}"
            )
        return maps

    def sizes(self, shape: Sequence[int]) -> tuple[int, int, int]:
        maps = self.maps(torch.empty(tuple(shape)))
        return maps.shape[1], maps.shape[2], maps.shape[3]

    def put_back(self, maps: Tensor, output: Tensor) -> Tensor:
        """As `Layout.put_back`, where the function only moves values; their places show how.

        Raises:
            CaptureError: the function changes values.
        """
        places = torch.arange(
            math.prod(output.shape[1:]), dtype=widest_dtype(output.device), device=output.device
        )
        moved = self._moved(places.view(1, *output.shape[1:])).round().long()
        values = torch.rand(places.shape, generator=torch.Generator().manual_seed(0)).to(output.device)
        inside = bool(((moved >= 0) & (moved < len(places))).all()) and len(moved.unique()) == len(moved)
        if not (inside and torch.equal(self._moved(values.view(1, *output.shape[1:])), values[moved])):
            raise CaptureError(
                "this method puts changed maps back into the model, and reshape_transform does more than "
                "move values, so that there is no way back; pass layout, or choose another method"
            )
        rows = output.expand(len(maps), *output.shape[1:]).flatten(1)
        values = maps.to(output.dtype).flatten(1)
        return rows.index_copy(1, moved, values).unflatten(1, output.shape[1:])

    def _moved(self, output: Tensor) -> Tensor:
        """The values of the map of an output (1,…), (C·h·w,)."""
        return self.maps(output).flatten()


#: The layouts that are recognised by themselves, in the order in which they are tried.
LAYOUTS: dict[str, type[Layout]] = {layout.name: layout for layout in (ChannelsFirst, ChannelsLast, Tokens)}


def check_layout(layout: str) -> None:
    """Raises ConfigError unless `layout` is `auto` or a key of `LAYOUTS`.

    Example:
        >>> check_layout("tokens")
    """
    if layout not in LAYOUT_NAMES:
        raise ConfigError(unknown("layout", layout, LAYOUT_NAMES))


def layout_named(name: str, shape: Sequence[int], geometry: Geometry) -> Layout:
    """The layout that the caller names, for an output of this shape.

    Raises:
        CaptureError: the output does not have it.

    Example:
        >>> layout_named("nhwc", (1, 7, 7, 768), Geometry((224, 224)))
        ChannelsLast()
    """
    kind = LAYOUTS[name]
    if len(shape) != kind.axes:
        raise CaptureError(
            f"layout {name!r} needs an output {kind.form}, this layer's has the shape {tuple(shape)}; "
            "choose another layer or layout, or pass reshape_transform"
        )
    if kind is not Tokens:
        return kind()
    for layout in kind.readings(shape, geometry):
        return layout
    height, width = geometry.image
    raise CaptureError(
        f"{shape[1]} tokens are no map of a {height}x{width} image with up to {MOST_PREFIX_TOKENS} tokens "
        "before it; pass reshape_transform, a function from the layer's output to (B,C,h,w)"
    )


def readings(shape: Sequence[int], geometry: Geometry) -> list[Layout]:
    """All ways to read an output of this shape as a map larger than 1×1 of the image.

    Example:
        >>> readings((1, 197, 192), Geometry((224, 224)))
        [Tokens(map_shape=(14, 14), prefix=1, image=(224, 224))]
        >>> readings((1, 7, 7, 768), Geometry((224, 224)))
        [ChannelsLast()]
    """
    return [layout for kind in LAYOUTS.values() for layout in kind.readings(shape, geometry)]


def is_channels_first(shape: Sequence[int], image: MapShape) -> bool:
    """Whether the shape of an output with four axes speaks for (B,C,h,w) and against (B,h,w,C).

    Where both have the ratio of the image's sides, up to a cell, the one that has it exactly counts.

    Example:
        >>> is_channels_first((1, 8, 6, 5), (12, 10)), is_channels_first((1, 8, 8, 8), (16, 16))
        (True, False)
    """
    if len(shape) != 4:
        return False
    first, last = (shape[2], shape[3]), (shape[1], shape[2])
    if not _proportional(last, image):
        return True
    exact, other = (h * image[1] == w * image[0] for h, w in (first, last))
    return exact and not other


def geometry_of(model: nn.Module, image: MapShape) -> Geometry:
    """What the model itself says about its maps: patch size and prefix tokens of its modules or its `config`.

    timm's models have `patch_embed.patch_size` and `num_prefix_tokens`, torchvision's `VisionTransformer`
    `patch_size` and `class_token`, those of transformers a `config` with `patch_size`.
    """
    config = getattr(model, "config", None)
    owners = [model, getattr(model, "patch_embed", None), config]
    grids = [
        (image[0] // size[0], image[1] // size[1])
        for owner in owners
        if (size := _pair(getattr(owner, "patch_size", None)))
    ]
    prefix = getattr(model, "num_prefix_tokens", None)
    return Geometry(image, tuple(dict.fromkeys(grids)), prefix if isinstance(prefix, int) else None)


def _pair(value: Any) -> MapShape | None:
    if isinstance(value, int) and value > 0:
        return value, value
    if (
        isinstance(value, (tuple, list))
        and len(value) == 2
        and all(isinstance(n, int) and n > 0 for n in value)
    ):
        return value[0], value[1]
    return None


def _token_grids(tokens: int, geometry: Geometry) -> Iterator[tuple[MapShape, int]]:
    """(map shape, prefix tokens) of a number of tokens, the likeliest first: grids of the model before others."""
    prefixes = list(range(MOST_PREFIX_TOKENS + 1))
    if geometry.prefix is not None and geometry.prefix in prefixes:
        prefixes.sort(key=lambda prefix: prefix != geometry.prefix)
    of_model = set(_halved(geometry.grids))
    pairs = [
        (grid, prefix)
        for prefix in prefixes
        for grid in _grids(tokens - prefix, geometry.image, of_model)
        if math.prod(grid) > 1
    ]
    yield from sorted(pairs, key=lambda pair: pair[0] not in of_model)


def _grids(count: int, image: MapShape, of_model: Iterable[MapShape]) -> list[MapShape]:
    """Shapes with `count` cells: those of the model, else the one with the sides' ratio of the image."""
    if count < 1:
        return []
    same = [grid for grid in of_model if math.prod(grid) == count]
    near = round(math.sqrt(count * image[0] / image[1]))
    shapes = [(h, count // h) for h in (near, near - 1, near + 1) if h > 0 and count % h == 0]
    return same or [shape for shape in shapes if _is_strided(shape, image)][:1]


def _is_strided(grid: MapShape, image: MapShape) -> bool:
    """Whether one whole stride gives a map of this shape, rounded down or up."""
    height, width = image
    strides = range(max(1, height // (grid[0] + 1)), height // max(1, grid[0] - 1) + 1)
    return any(
        grid in ((height // n, width // n), (math.ceil(height / n), math.ceil(width / n))) for n in strides
    )


def _halved(grids: Iterable[MapShape]) -> Iterator[MapShape]:
    """The grids, and those that halving them again and again gives, rounded up or down."""
    for h, w in grids:
        yield h, w
        while max(h, w) > 1:
            if h % 2 or w % 2:
                yield max(1, h // 2), max(1, w // 2)
            h, w = (h + 1) // 2, (w + 1) // 2
            yield h, w


def _proportional(grid: MapShape, image: MapShape) -> bool:
    """Whether a map of this shape covers the image with one stride, up to a cell: 7x7 of 224x224, 3x5 of 96x160."""
    (h, w), (height, width) = grid, image
    if max(h, w) < 2 or h > height or w > width:
        return False
    if height == width:
        return h == w  # tokens by size of a head, 26x27, are no map
    return abs(h - w * height / width) <= 1 or abs(w - h * width / height) <= 1
