"""Explain a list of image files: decode, explain in batches, write pictures, report one row per file."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from cfcam_gpu.dataset.decode import load_image
from cfcam_gpu.dataset.sources import Source
from cfcam_gpu.errors import BackendError, CFCAMError, ConfigError, ImageError, InputError, OutOfMemory
from cfcam_gpu.explainer import CFCAM, Explanation
from cfcam_gpu.models import LoadedModel
from cfcam_gpu.overlay import check_style, colorize, fit_heatmap, overlay

log = logging.getLogger("cfcam_gpu")


@dataclass(frozen=True)
class Row:
    """What became of one input.

    Attributes:
        file: the input's path.
        name: what its outputs are called, without suffix.
        status: `ok` or `error`.
        stage: where it failed: `decode`, `explain` or `write`; None when ok.
        error: one sentence; None when ok.
        class_index, class_name, probability: the explained class, with its softmax probability.
        predicted_index, predicted_name, predicted_probability: the class the model prefers.
        n_clusters: clusters of channels; noise_fraction: share of the channels outside any, 0 to 1.
        blank: nothing speaks for the class; the heatmap is all zero.
        outputs: kind of file (a key of `SAVES`) -> path written.

    Fields that the input did not get far enough for are None.
    """

    file: str
    name: str
    status: str = "ok"
    stage: str | None = None
    error: str | None = None
    class_index: int | None = None
    class_name: str | None = None
    probability: float | None = None
    predicted_index: int | None = None
    predicted_name: str | None = None
    predicted_probability: float | None = None
    n_clusters: int | None = None
    noise_fraction: float | None = None
    blank: bool | None = None
    outputs: dict[str, str] = field(default_factory=dict)


@dataclass
class Tally:
    """Counts of rows: explained, skipped, and blank among the explained."""

    ok: int = 0
    skipped: int = 0
    blank: int = 0

    def add(self, row: Row) -> None:
        self.ok += row.status == "ok"
        self.skipped += row.status != "ok"
        self.blank += bool(row.blank)


@dataclass(frozen=True)
class Rendering:
    """One explained image: pixels (H, W, 3) uint8 RGB and heatmap (H, W) float32 in [0, 1], same size."""

    pixels: np.ndarray
    heatmap: np.ndarray
    cmap: str
    alpha: float


#: Kind of output -> what its file is called after the input's name, and its pixels (H, W, 3) uint8 RGB.
SAVES: dict[str, tuple[str, Callable[[Rendering], np.ndarray]]] = {
    "overlay": ("_cfcam.png", lambda r: overlay(r.pixels, r.heatmap, r.cmap, r.alpha)),
    "heatmap": ("_heatmap.png", lambda r: colorize(r.heatmap, r.cmap)),
    "original": ("_original.png", lambda r: r.pixels),
}


def explain_images(
    loaded: LoadedModel,
    cam: CFCAM,
    sources: Sequence[Source],
    out: Path,
    *,
    target: int | None = None,
    batch_size: int = 16,
    device: torch.device | str = "cpu",
    cmap: str = "inferno",
    alpha: float = 0.4,
    save: Sequence[str] = ("overlay",),
) -> Iterator[Row]:
    """Explains files and writes `OUT/NAME_cfcam.png`, one row per source, in the order given.

    An input that cannot be decoded, explained or written becomes an error row; the others go on.
    One batch of decoded images is in memory at a time. Files appear whole or not at all.

    Args:
        loaded: the model's preprocessing and class names; its model must be on `device`.
        cam: explainer of that model, made with `on_invalid="flag"`.
        sources: inputs from `find_images`.
        out: folder of the outputs, made when missing.
        target: index of the class to explain; None: the predicted one.
        batch_size: images per forward pass.
        device: where the images go.
        cmap: a key of `overlay.COLORMAPS`.
        alpha: share of the heatmap in the overlay, 0 to 1.
        save: keys of `SAVES`.

    Raises:
        ConfigError: a parameter out of range, before anything is read.
        InputError: the output folder cannot be made.
        CFCAMError: whatever concerns the whole run: layer, target, memory.
    """
    check_style(cmap, alpha)
    check_save(save)
    if batch_size < 1:
        raise ConfigError(f"batch size must be at least 1, got {batch_size}")
    _make_folder(out)

    explainer = _Explainer(loaded, cam, target, device, batch_size)

    def rows() -> Iterator[Row]:
        for start in range(0, len(sources), batch_size):
            batch = [_decode(source) for source in sources[start : start + batch_size]]
            images = [image for _, image in batch if image is not None]
            explained = iter(explainer(images))
            for row, image in batch:
                if image is None:
                    yield row
                    continue
                found, heatmap = next(explained)
                row = replace(row, **found)
                if row.status == "ok":
                    fitted = fit_heatmap(heatmap, loaded.preprocess.visible_box(*image.size), *image.size)
                    row = _write(row, Rendering(np.asarray(image), fitted, cmap, alpha), out, save)
                yield row

    return rows()


def check_save(save: Sequence[str]) -> None:
    """Raises ConfigError unless `save` names at least one key of `SAVES` and nothing else."""
    unknown = [kind for kind in save if kind not in SAVES]
    if unknown or not save:
        got = repr(unknown[0]) if unknown else "nothing"
        raise ConfigError(f"outputs to save must be among {', '.join(SAVES)}; got {got}")


def resolve_device(text: str) -> torch.device:
    """`auto` (the first CUDA device, else the CPU), `cpu`, `cuda` or `cuda:N`, checked to exist.

    Raises:
        ConfigError: not one of these.
        BackendError: a CUDA device that is not there; asking for one never falls back to the CPU.
    """
    if text == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", text):
        raise ConfigError(f"unknown device {text!r}; choose auto, cpu, cuda or cuda:N")
    device = torch.device(text)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        raise BackendError(
            f"device {text!r} was asked for, but PyTorch {torch.__version__} sees {count} CUDA devices; "
            "use --device cpu, or auto to take what there is"
        )
    return device


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the output folder {folder}: {error.strerror or error}") from error


def _decode(source: Source) -> tuple[Row, Image.Image | None]:
    row = Row(str(source.path), source.name)
    try:
        return row, load_image(source.path)
    except ImageError as error:
        return replace(row, status="error", stage="decode", error=str(error)), None


class _Explainer:
    """Explains decoded images; where the memory does not hold a batch it goes on with half as many at once."""

    def __init__(
        self, loaded: LoadedModel, cam: CFCAM, target: int | None, device: torch.device | str, batch_size: int
    ) -> None:
        self.loaded = loaded
        self.cam = cam
        self.target = target
        self.device = device
        self.at_once = batch_size

    def __call__(self, images: Sequence[Image.Image]) -> list[tuple[dict[str, Any], np.ndarray]]:
        """Per image: the row's fields and the heatmap (H, W) in the model's view."""
        done: list[tuple[dict[str, Any], np.ndarray]] = []
        while len(done) < len(images):
            part = images[len(done) : len(done) + self.at_once]
            try:
                done += self._explain(part)
            except OutOfMemory:
                if len(part) == 1:
                    raise
                self.at_once = len(part) // 2
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                log.warning("out of memory with %d images at once; going on with %d", len(part), self.at_once)
        return done

    def _explain(self, images: Sequence[Image.Image]) -> list[tuple[dict[str, Any], np.ndarray]]:
        batch = torch.stack([self.loaded.preprocess(image) for image in images])
        with model_errors(batch.shape):
            result = self.cam(batch.to(self.device), targets=self.target)
            heatmaps = result.heatmap.cpu().numpy()
        return list(zip(_fields(self.loaded, result), heatmaps, strict=True))


def _fields(loaded: LoadedModel, result: Explanation) -> list[dict[str, Any]]:
    # They are None only for callable targets and without a model.
    assert result.logits is not None
    assert result.targets is not None
    probabilities = result.logits.float().softmax(1).cpu()
    best, predicted = probabilities.max(1)
    targets = result.targets.cpu()
    columns = {
        "class_index": targets.tolist(),
        "class_name": [loaded.class_name(index) for index in targets.tolist()],
        "probability": probabilities.gather(1, targets[:, None])[:, 0].tolist(),
        "predicted_index": predicted.tolist(),
        "predicted_name": [loaded.class_name(index) for index in predicted.tolist()],
        "predicted_probability": best.tolist(),
        "n_clusters": result.n_clusters.tolist(),
        "noise_fraction": result.noise_fraction.tolist(),
        "blank": result.blank.tolist(),
    }
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return [
        row if problem is None else {"status": "error", "stage": "explain", "error": problem}
        for row, problem in zip(rows, result.problems, strict=True)
    ]


def _write(row: Row, rendering: Rendering, out: Path, save: Sequence[str]) -> Row:
    outputs: dict[str, str] = {}
    for kind in save:
        suffix, render = SAVES[kind]
        path = out / f"{row.name}{suffix}"
        try:
            write_png(path, render(rendering))
        except OSError as error:
            reason = f"cannot write {path}: {error.strerror or error}"
            return replace(row, status="error", stage="write", error=reason, outputs=outputs)
        outputs[kind] = str(path)
    return replace(row, outputs=outputs)


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Writes (H, W, 3) uint8 RGB; the file appears whole or not at all. Raises OSError."""
    _, encoded = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    write_whole(path, encoded.tobytes())


def write_whole(path: Path, content: bytes) -> None:
    """Writes beside `path` and renames, so that no reader meets half a file. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".cfcam-{os.getpid()}.part"
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def model_errors(shape: Sequence[int]) -> Iterator[None]:
    """Turns what a model raises on images of a shape (B, 3, H, W) into one line that says what to do."""
    try:
        yield
    except CFCAMError:
        raise
    except (RuntimeError, MemoryError, AssertionError, ValueError) as error:
        if _out_of_memory(error):
            raise OutOfMemory(
                f"out of memory with images {tuple(shape)}; use a smaller --size, another --precision "
                "or --device cpu"
            ) from error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CFCAMError(
            f"the model failed on images {tuple(shape)}: {reason}; check that --size is one it takes"
        ) from error


def _out_of_memory(error: Exception) -> bool:
    # On the CPU PyTorch raises a plain RuntimeError.
    text = str(error).lower()
    signs = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(sign in text for sign in signs)
