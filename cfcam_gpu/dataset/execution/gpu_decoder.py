"""Decoding JPEG files on a GPU: nvJPEG through torchvision, then turned upright and resized on the device."""

from __future__ import annotations

import functools
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cfcam_gpu._utils.messages import one_line
from cfcam_gpu._utils.precision import full_float32
from cfcam_gpu.errors import BackendError
from cfcam_gpu.images.decoders import DECODERS
from cfcam_gpu.images.preprocess import Preprocess
from cfcam_gpu.images.views import FileView, View

log = logging.getLogger("cfcam_gpu")

#: From the bytes of JPEG files to their pixels, (3, height, width) uint8 RGB on the device, as they are stored.
#: Raises RuntimeError when one of the files cannot be decoded.
DecodeJpegs = Callable[[Sequence[bytes]], list[Tensor]]

#: Most pixels that are decoded together: about 200 MB, and four times as much for the image that is being resized.
_PIXELS_AT_ONCE = 64_000_000

#: Largest difference, of 255 levels, between two right decoders' pixels of a flat JPEG.
_PROBE_TOLERANCE = 4


def check_decoder(name: str, device: torch.device) -> None:
    """Checks that a decoder can run with the model on a device.

    Args:
        name: a key of `DECODERS`.

    Raises:
        BackendError: the decoder needs a CUDA device. Another decoder never takes its place.

    Example:
        >>> check_decoder("scaled", torch.device("cpu"))
        >>> check_decoder("gpu", torch.device("cpu"))
        Traceback (most recent call last):
        cfcam_gpu.errors.BackendError: --decode gpu needs an NVIDIA GPU, and this run's device is cpu; ...
    """
    if DECODERS[name].needs_cuda and device.type != "cuda":
        raise BackendError(
            f"--decode {name} needs an NVIDIA GPU, and this run's device is {device}; use --decode full or "
            "scaled, or --device cuda on a machine that has one"
        )


class GpuDecoder:
    """Decodes JPEG files and makes the model's views of them, on one device.

    From the same pixels, the views are those of `Preprocess.view` but for single levels of 0 to 255 (see
    `resize_view`). nvJPEG's own pixels may differ from libjpeg's by a few levels: not measured.

    Args:
        device: of the views.
        preprocess: what makes the views.
        decode_jpegs: see `DecodeJpegs`; None: nvJPEG.

    Raises:
        BackendError: nvJPEG does not work here.
    """

    def __init__(
        self, device: torch.device, preprocess: Preprocess, decode_jpegs: DecodeJpegs | None = None
    ) -> None:
        self.device = device
        self.preprocess = preprocess
        self.decode_jpegs = decode_jpegs or nvjpeg(device)
        self._reported = False

    def views(self, files: Sequence[FileView]) -> list[View | None]:
        """The view of each file; None where the GPU cannot make it."""
        views: list[View | None] = []
        for group in _groups(files):
            decoded = self._decoded([file.content for file in group])
            for file, pixels in zip(group, decoded, strict=True):
                views.append(None if pixels is None else self._view(file, pixels))
        return views

    def _decoded(self, contents: Sequence[bytes]) -> list[Tensor | None]:
        """All files at once; in halves where that fails, since the error does not say which file it was.

        A file that is cut off would fail, so it is not tried.
        """
        whole = [content for content in contents if _ends(content)]
        decoded = iter(self._in_halves(whole) if whole else [])
        return [next(decoded) if _ends(content) else None for content in contents]

    def _in_halves(self, contents: Sequence[bytes]) -> list[Tensor | None]:
        try:
            return list(self.decode_jpegs(contents))
        except RuntimeError as error:
            if len(contents) == 1:
                self._report(error)
                return [None]
        middle = len(contents) // 2
        return [*self._in_halves(contents[:middle]), *self._in_halves(contents[middle:])]

    def _report(self, error: RuntimeError) -> None:
        if not self._reported:
            log.warning("the GPU cannot decode a file (%s); the CPU decodes such files", one_line(error))
            self._reported = True

    def _view(self, file: FileView, pixels: Tensor) -> View | None:
        upright = turn_upright(pixels, file.orientation)
        if upright.shape != (3, file.height, file.width):
            return None
        try:
            view = resize_view(upright, self.preprocess)
        except RuntimeError as error:  # the memory does not hold such a large image
            self._report(error)
            return None
        return View(view, file.width, file.height, mask=file.mask)


def _ends(content: bytes) -> bool:
    """Whether a JPEG's end marker is there, before what some writers append."""
    return content.rfind(b"\xff\xd9") > 0


def _groups(files: Sequence[FileView]) -> Iterator[list[FileView]]:
    """The files in order, in groups of at most `_PIXELS_AT_ONCE` pixels, or of one file."""
    group: list[FileView] = []
    pixels = 0
    for file in files:
        if group and pixels + file.width * file.height > _PIXELS_AT_ONCE:
            yield group
            group, pixels = [], 0
        group.append(file)
        pixels += file.width * file.height
    if group:
        yield group


@functools.cache
def nvjpeg(device: torch.device) -> DecodeJpegs:
    """NVIDIA's JPEG decoder, as torchvision brings it.

    Raises:
        BackendError: it decodes a small JPEG with an error, or to other pixels than Pillow does.
    """

    def decode_jpegs(contents: Sequence[bytes]) -> list[Tensor]:
        from torchvision.io import ImageReadMode, decode_jpeg

        files = [torch.frombuffer(bytearray(content), dtype=torch.uint8) for content in contents]
        with warnings.catch_warnings():  # deprecated since torchvision 0.29, and without a successor there
            warnings.simplefilter("ignore")
            decoded: list[Tensor] = decode_jpeg(files, ImageReadMode.RGB, device)
        return decoded

    color = (200, 100, 50)
    probe = io.BytesIO()
    Image.new("RGB", (32, 16), color).save(probe, "jpeg", quality=95)
    try:
        (pixels,) = decode_jpegs([probe.getvalue()])
    except (ImportError, RuntimeError, AttributeError) as error:
        raise BackendError(
            f"--decode gpu needs torchvision's nvJPEG, which does not work on {device} ({one_line(error)}); "
            "use --decode full or scaled"
        ) from error
    expected = torch.tensor(color)[:, None, None].expand(3, 16, 32)
    if pixels.shape != expected.shape or (pixels.cpu().int() - expected).abs().max() > _PROBE_TOLERANCE:
        raise BackendError(
            f"torchvision's nvJPEG decodes a JPEG to wrong pixels on {device}; use --decode full or scaled"
        )
    return decode_jpegs


def turn_upright(pixels: Tensor, orientation: int) -> Tensor:
    """(3, height, width) as a file stores it -> the upright image, as Pillow's `exif_transpose` turns it.

    Args:
        orientation: of EXIF, 1 to 8; any other value changes nothing.

    Example:
        >>> turn_upright(torch.tensor([[[1, 2]]]), 6)  # the top is at the right
        tensor([[[1],
                 [2]]])
    """
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 2)
    mirrored = [dim for dim, values in ((2, (2, 3, 6, 7)), (1, (3, 4, 7, 8))) if orientation in values]
    return pixels.flip(mirrored) if mirrored else pixels


def resize_view(pixels: Tensor, preprocess: Preprocess) -> Tensor:
    """(3, height, width) uint8 RGB -> (H, W, 3) uint8, what `Preprocess.view` makes of the same image.

    The width is resized first, then the height, and the levels are rounded after each.

    Source: Pillow's `Resample.c`. Its weights have 22 bits and these are float32, so that a value halfway between
    two levels may be rounded the other way: a difference of one level in few pixels. Pillow 13 resizes the height
    first where that is reduced more than the width. Then more pixels differ: by one level with bilinear, and by
    more at sharp edges with bicubic and lanczos, whose overshoot is cut off after the first step.

    Example:
        >>> squash = Preprocess((1, 2), mean=(0, 0, 0), std=(1, 1, 1))
        >>> image = torch.tensor([10, 20, 30, 50], dtype=torch.uint8).expand(3, 2, 4)
        >>> resize_view(image, squash)[0, :, 0]
        tensor([17, 37], dtype=torch.uint8)
    """
    height, width = pixels.shape[1:]
    left, top, right, bottom = preprocess.visible_box(width, height)
    view_height, view_width = preprocess.size
    whole = preprocess.whole_size(width, height)
    if preprocess.interpolation == "nearest" and whole is not None:
        # As Pillow's steps over the whole image, of which the view is cropped.
        across, first_column = _nearest(0, width, width, whole[0], view_width)
        down, first_row = _nearest(0, height, height, whole[1], view_height)
    else:
        across, first_column = _weights(left, right, width, view_width, preprocess.interpolation)
        down, first_row = _weights(top, bottom, height, view_height, preprocess.interpolation)
    rows, columns = (
        slice(first_row, first_row + down.shape[1]),
        slice(first_column, first_column + across.shape[1]),
    )
    with full_float32(pixels.device):
        narrow = _levels(pixels[:, rows, columns].float() @ across.T.to(pixels.device))
        view = _levels(down.to(pixels.device) @ narrow)
    return view.permute(1, 2, 0).to(torch.uint8)


def _levels(values: Tensor) -> Tensor:
    return (values + 0.5).floor_().clamp_(0, 255)


def _weights(start: float, end: float, length: int, count: int, interpolation: str) -> tuple[Tensor, int]:
    """How `count` pixels that cover `start` to `end` of an axis are made of its `length` pixels.

    Returns:
        (count, used) float32 on the CPU, each row's sum 1; and the first pixel that is used.
    """
    if interpolation == "nearest":
        return _nearest(start, end, length, count, count)
    # As Pillow computes it, with a box in float32.
    scale = (np.float32(end) - np.float32(start)).item() / count
    start = np.float32(start).item()
    centers = start + (torch.arange(count, dtype=torch.float64) + 0.5) * scale
    kernel, radius = _KERNELS[interpolation]
    stretch = max(scale, 1.0)
    low = (centers - radius * stretch + 0.5).long().clamp_(min=0)
    high = (centers + radius * stretch + 0.5).long().clamp_(max=length)
    first, last = int(low[0]), int(high[-1])
    positions = torch.arange(first, last)
    weights = kernel((positions + 0.5 - centers[:, None]) / stretch)
    weights[(positions < low[:, None]) | (positions >= high[:, None])] = 0
    return (weights / weights.sum(1, keepdim=True)).float(), first


def _nearest(start: float, end: float, length: int, count: int, kept: int) -> tuple[Tensor, int]:
    """As `_weights` for the nearest pixels, of which the `kept` ones in the middle count."""
    scale = (np.float32(end) - np.float32(start)).item() / count
    # The sum of steps, as Pillow adds them: a product would differ where it lies between two pixels.
    steps = np.cumsum([np.float32(start).item() + scale * 0.5, *[scale] * (count - 1)])
    skipped = round((count - kept) / 2)
    nearest = torch.from_numpy(steps[skipped : skipped + kept]).long().clamp_(0, length - 1)
    first, last = int(nearest[0]), int(nearest[-1])
    return torch.nn.functional.one_hot(nearest - first, last - first + 1).float(), first


def _triangle(x: Tensor) -> Tensor:
    return (1 - x.abs()).clamp_(min=0)


def _cubic(x: Tensor) -> Tensor:
    """Keys' cubic with a = -0.5."""
    x = x.abs()
    inner, outer = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, inner, torch.where(x < 2, outer, torch.zeros_like(x)))


def _lanczos(x: Tensor) -> Tensor:
    return torch.where(x.abs() < 3, torch.sinc(x) * torch.sinc(x / 3), torch.zeros_like(x))


#: Interpolation -> its kernel, and the distance from which the kernel is 0.
_KERNELS: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "bilinear": (_triangle, 1),
    "bicubic": (_cubic, 2),
    "lanczos": (_lanczos, 3),
}
