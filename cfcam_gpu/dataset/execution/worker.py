"""What worker processes do: decode images for the model, and write pictures. Imports no PyTorch."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np

from cfcam_gpu.dataset.sources.find import open_image
from cfcam_gpu.dataset.sources.masks import open_mask
from cfcam_gpu.dataset.store.atomic_files import reason, write_whole
from cfcam_gpu.errors import ImageError
from cfcam_gpu.images.masks import MaskError
from cfcam_gpu.images.overlay import fit_heatmap, overlay, upsample_grid
from cfcam_gpu.images.preprocess import Preprocess

#: Kind of picture -> its extension, and OpenCV's parameters.
PICTURES: dict[str, tuple[str, list[int]]] = {
    "png": (".png", []),
    "jpeg": (".jpg", [cv2.IMWRITE_JPEG_QUALITY, 90]),
    "webp": (".webp", [cv2.IMWRITE_WEBP_QUALITY, 85]),
}

READY = "ready"


@dataclass(frozen=True)
class Failure:
    """Why a task failed; stage None where the worker could not tell, code the system's error number."""

    stage: str | None
    error_type: str
    message: str
    code: int | None = None


@dataclass(frozen=True)
class View:
    """What the model sees of an image, (H,W,3) uint8, and the upright original's width and height.

    `decoding` tells what was chosen to get to 8 bits, where there was a choice (DICOM windows, 16-bit ranges).
    `mask` (H,W) bool: the object's pixels in the view, where they were asked for.
    """

    pixels: np.ndarray
    width: int
    height: int
    decoding: str | None = None
    mask: np.ndarray | None = None


@dataclass(frozen=True)
class Style:
    """Pictures to write: kind (a key of `PICTURES`), colour map, share of the heatmap."""

    kind: str
    cmap: str
    alpha: float


def read_view(uri: str, preprocess: Preprocess, mask: str | None = None) -> View:
    """Decodes an image, and its mask, to the model's input size. Raises ImageError."""
    image = open_image(uri)
    objects = None if mask is None else open_mask(mask, image.size, preprocess)
    return View(preprocess.view(image), *image.size, image.info.get("cfcam"), objects)


def write_overlay(
    uri: str, preprocess: Preprocess, grid: np.ndarray, out: Path, name: str, temporary: Path, style: Style
) -> None:
    """Writes the heatmap over the original image as `out/name`. Raises ImageError, OSError."""
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise ImageError(f"the name {name!r} leads out of the output folder")
    image = open_image(uri)
    heatmap = upsample_grid(grid, preprocess.size)
    fitted = fit_heatmap(heatmap, preprocess.visible_box(*image.size), *image.size)
    content = encode(overlay(np.asarray(image), fitted, style.cmap, style.alpha), style.kind)
    write_whole(out / name, content, temporary / f"{os.getpid()}.part")


def encode(pixels: np.ndarray, kind: str) -> bytes:
    """(H,W,3) uint8 RGB or (H,W) gray as the bytes of a file. Raises ImageError."""
    extension, parameters = PICTURES[kind]
    try:
        as_stored = pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
        _, encoded = cv2.imencode(extension, as_stored, parameters)
    except cv2.error as error:
        h, w = pixels.shape[:2]
        raise ImageError(f"{kind} cannot hold {w} by {h} pixels; use png") from error
    return encoded.tobytes()


TASKS: dict[str, Callable[..., Any]] = {"view": read_view, "overlay": write_overlay}


def perform(task: str, *arguments: Any) -> Any:
    """The task's result, or a `Failure`; whatever a damaged file makes the decoder raise is one."""
    try:
        return TASKS[task](*arguments)
    except Exception as error:
        return _failure(task, error)


def _failure(task: str, error: Exception) -> Failure:
    cause = error.__cause__ if isinstance(error, ImageError) and error.__cause__ else error
    code = cause.errno if isinstance(cause, OSError) else None
    if task == "overlay":
        message = reason(error) if isinstance(error, OSError) else str(error)
        return Failure("write", type(cause).__name__, message, code)
    if isinstance(error, MaskError):
        return Failure("mask", type(cause).__name__, str(error), code)
    stage = "decode" if code is None else "read"
    return Failure(stage, type(cause).__name__, str(error) or type(error).__name__, code)


def main(descriptor: int, parent: int) -> None:
    """Serves one task after the other until the parent is gone."""
    os.nice(5)
    cv2.setNumThreads(1)
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()
    connection = Connection(descriptor)
    try:
        connection.send(READY)
        while True:
            connection.send(perform(*connection.recv()))
    except (EOFError, OSError):
        sys.exit(0)


def _follow(parent: int) -> None:
    """Ends this process when its parent has ended, also in the middle of a task that hangs."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(0)
