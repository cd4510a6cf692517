"""The tasks of worker processes: decode images for the model, and write overlays. Imports no PyTorch."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from cfcam_gpu.dataset.execution.shared_memory import Progress, Slot
from cfcam_gpu.dataset.sources.masks import open_mask
from cfcam_gpu.dataset.sources.open_image import open_stream
from cfcam_gpu.dataset.store.atomic_files import os_reason, write_atomically
from cfcam_gpu.errors import ImageError, PlaceError
from cfcam_gpu.images.bands import read_bands
from cfcam_gpu.images.decode import decode as read_image
from cfcam_gpu.images.decoders import DECODERS
from cfcam_gpu.images.encode import encode_image
from cfcam_gpu.images.masks import MaskError
from cfcam_gpu.images.overlay import draw_overlay, fit_heatmap, upsample_grid
from cfcam_gpu.images.preprocess import Preprocess
from cfcam_gpu.images.read_options import ReadOptions
from cfcam_gpu.images.views import FileView, View

#: The first message of a worker: it takes tasks now.
READY = "ready"

#: Seconds after which a worker sends the results it has, though it has more tasks.
_ANSWER_INTERVAL = 0.05

_DEFAULT_OPTIONS = ReadOptions()

#: A task: its name, and the arguments.
Task = tuple[Any, ...]


class PlacedView(NamedTuple):
    """A view whose pixels are in their slot; the other attributes of `View`, in its order."""

    width: int
    height: int
    decoding: str | None
    warning: str | None
    mask: npt.NDArray[np.bool_] | None


@dataclass(frozen=True)
class Failure:
    """Why a task failed: the columns `stage`, `error_type` and `message` of an error row.

    Attributes:
        stage: read, decode, mask or write; None: the worker died or was ended before it could tell.
        code: the operating system's error number, where there is one.
    """

    stage: str | None
    error_type: str
    message: str
    code: int | None = None


@dataclass(frozen=True)
class OverlayStyle:
    """How overlays look.

    Attributes:
        kind: file format, a key of `IMAGE_FORMATS`.
        cmap: colour map of the heatmap.
        alpha: weight of the heatmap over the image, from 0 to 1.
    """

    kind: str
    cmap: str
    alpha: float


def read_view(
    uri: str,
    preprocess: Preprocess,
    mask: str | None = None,
    decode: str = "full",
    options: ReadOptions = _DEFAULT_OPTIONS,
    slot: Slot | None = None,
) -> View | FileView | PlacedView:
    """Decodes an image, and its mask where one is named, to the model's input size.

    Args:
        decode: a key of `DECODERS`.
        slot: where in shared memory the pixels go; None: they stay in the result.

    Raises:
        ImageError: the image cannot be read or decoded. MaskError, a subclass: the mask cannot.
    """
    with open_stream(uri) as (stream, name):
        view = DECODERS[decode].read(stream, name, preprocess, options)
    if mask is not None:
        view = replace(view, mask=open_mask(mask, (view.width, view.height), preprocess))
    return view if slot is None or isinstance(view, FileView) else _placed(view, slot)


def _placed(view: View, slot: Slot) -> PlacedView:
    slot.pixels(view.pixels.shape)[:] = view.pixels
    return PlacedView(view.width, view.height, view.decoding, view.warning, view.mask)


def write_overlay(
    uri: str,
    preprocess: Preprocess,
    saliency_map: np.ndarray,
    out: Path,
    name: str,
    temporary: Path,
    style: OverlayStyle,
    options: ReadOptions = _DEFAULT_OPTIONS,
) -> None:
    """Writes the heatmap over the original image, at the image's own size, to the file `out/name`.

    Args:
        saliency_map: (h, w) float32, raw scale.
        temporary: folder in which the file lies until it is complete.

    Raises:
        ImageError: the image cannot be decoded or encoded, or `name` leads out of `out`.
        OSError: the file cannot be written.
    """
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise ImageError(f"the name {name!r} leads out of the output folder")
    image = _picture(uri, preprocess.channels, options)
    heatmap = upsample_grid(saliency_map, preprocess.size)
    fitted = fit_heatmap(heatmap, preprocess.visible_box(*image.size), *image.size)
    content = encode_image(draw_overlay(np.asarray(image), fitted, style.cmap, style.alpha), style.kind)
    write_atomically(out / name, content, temporary / f"{os.getpid()}-{threading.get_ident()}.part")


def _picture(uri: str, channels: int, options: ReadOptions) -> Image.Image:
    """The image in RGB; of one that a model of other than one or three channels takes, the first three bands."""
    with open_stream(uri) as (stream, name):
        if channels in (1, 3):
            return read_image(stream, name, options).image
        bands = read_bands(stream, channels, options.max_pixels).split()
    return Image.merge("RGB", bands[:3] if channels > 3 else bands[:1] * 3)


_TASKS: dict[str, Callable[..., Any]] = {"view": read_view, "overlay": write_overlay}


def perform(task: str, *arguments: Any) -> Any:
    """The result of a task, or a `Failure` for whatever exception it raised.

    Args:
        task: `view` or `overlay`; arguments: those of `read_view` or `write_overlay`.

    Example:
        >>> from cfcam_gpu.images.preprocess import Preprocess
        >>> preprocess = Preprocess((8, 8), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        >>> perform("view", "missing.png", preprocess).message
        'the file does not exist'
    """
    try:
        return _TASKS[task](*arguments)
    except Exception as error:
        return _failure(task, error)


def _failure(task: str, error: Exception) -> Failure:
    cause = error.__cause__ if isinstance(error, ImageError) and error.__cause__ else error
    code = cause.errno if isinstance(cause, OSError) else None
    if task == "overlay":
        message = os_reason(error) if isinstance(error, OSError) else str(error)
        return Failure("write", type(cause).__name__, message, code)
    if isinstance(error, MaskError):
        return Failure("mask", type(cause).__name__, str(error), code)
    stage = "decode" if code is None and not isinstance(cause, PlaceError) else "read"
    return Failure(stage, type(cause).__name__, str(error) or type(error).__name__, code)


def serve(descriptor: int, parent: int) -> None:
    """Performs tasks until the parent process closes the pipe or ends.

    The first message is the file descriptor of the shared memory and this process's place in it (see `Progress`).
    The later ones are lists of tasks; their results are sent in lists too, in the same order.

    Args:
        descriptor: file descriptor of the pipe to the parent; parent: its process id.
    """
    os.nice(5)
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()
    connection = Connection(descriptor)
    try:
        progress = Progress(*connection.recv())
        connection.send(READY)
        while True:
            _perform_all(connection.recv(), progress, connection)
    except (EOFError, OSError):
        sys.exit(0)


def _perform_all(tasks: list[Task], progress: Progress, connection: Connection) -> None:
    results: list[Any] = []
    sent_at = time.monotonic()
    for task in tasks:
        progress.begin()
        results.append(perform(*task))
        if time.monotonic() - sent_at > _ANSWER_INTERVAL:
            connection.send(results)
            results, sent_at = [], time.monotonic()
    if results:
        connection.send(results)


def _end_with_parent(parent: int) -> None:
    """Ends this process when its parent has ended, even in the middle of a task that hangs."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(0)
