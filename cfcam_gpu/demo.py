"""The demo: the packaged model explains photos that ship inside installed packages."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from cfcam_gpu.dataset.decode import load_image
from cfcam_gpu.dataset.sources import Source
from cfcam_gpu.errors import InputError, ModelError
from cfcam_gpu.explainer import CFCAM
from cfcam_gpu.job import Row, write_whole
from cfcam_gpu.models import LoadedModel
from cfcam_gpu.overlay import overlay
from cfcam_gpu.sheet import Entry, Strip, contact_sheet

MODEL = "efficientnet-lite0"

#: Name -> package and path of the file inside it.
PHOTOS = {
    "cat": ("skimage", "data/chelsea.png"),
    "espresso": ("skimage", "data/coffee.png"),
    "motorcycle": ("skimage", "data/motorcycle_left.png"),
    "cameraman": ("skimage", "data/camera.png"),
    "rocket": ("skimage", "data/rocket.jpg"),
    "astronaut": ("skimage", "data/astronaut.png"),
    "temple": ("sklearn", "datasets/images/china.jpg"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
}

#: The two photos pasted side by side, and the class asked for in each.
QUESTION = {"cat": "Egyptian cat", "espresso": "espresso"}


def find_photos() -> tuple[list[Source], list[str]]:
    """The photos found, and a sentence for each that is not where it used to be.

    Raises:
        ModelError: scikit-image is not installed.
    """
    found, missing = [], []
    for name, (package, inside) in PHOTOS.items():
        path = _package_folder(package) / inside
        if path.is_file():
            found.append(Source(path, name))
        else:
            missing.append(f"{name}: the installed {package} does not contain {inside}")
    return found, missing


def _package_folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ModelError(
            f"the demo's photos come with the package {package}, which is not installed; "
            "run: pip install 'cfcam-gpu[demo]'"
        )
    return Path(spec.origin).parent


def write_sheet(
    path: Path, loaded: LoadedModel, cam: CFCAM, sources: Sequence[Source], rows: Sequence[Row]
) -> None:
    """Writes the contact sheet of explained photos; `rows` need the outputs original, heatmap and overlay.

    Raises:
        InputError: the file cannot be written.
    """
    by_name = {source.name: source for source in sources}
    photos = [load_image(by_name[name].path) for name in QUESTION if name in by_name]
    sheet = contact_sheet(
        [_entry(row) for row in rows if row.status == "ok"],
        two_questions(loaded, cam, photos) if len(photos) == len(QUESTION) else None,
        title="What EfficientNet-Lite0 looks at",
        subtitle="CF-CAM heatmaps for the class the model predicts, with its probability",
    )
    encoded = io.BytesIO()
    sheet.save(encoded, "PNG", optimize=True)
    try:
        write_whole(path, encoded.getvalue())
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


def _entry(row: Row) -> Entry:
    pictures = {kind: Image.open(row.outputs[kind]) for kind in ("original", "heatmap", "overlay")}
    return Entry(
        photo=pictures["original"],
        heatmap=pictures["heatmap"],
        overlay=pictures["overlay"],
        title=f"{row.class_name}, {row.probability:.0%}",
        detail=f"{plural(row.n_clusters or 0, 'cluster')}, {row.noise_fraction:.0%} noise",
    )


def two_questions(loaded: LoadedModel, cam: CFCAM, photos: Sequence[Image.Image]) -> Strip:
    """Both photos side by side as one image, explained for one class of each in a single call."""
    h, w = loaded.preprocess.size
    squares = [np.asarray(ImageOps.fit(photo, (w, h), Image.Resampling.BICUBIC)) for photo in photos]
    composite = np.concatenate(squares, axis=1)
    preprocess = replace(loaded.preprocess, size=composite.shape[:2], resize=None)
    batch = preprocess(Image.fromarray(composite))[None].to(next(loaded.model.parameters()).device)
    targets = torch.tensor([[loaded.class_index(name) for name in QUESTION.values()]])
    heatmaps = cam(batch, targets=targets).heatmap[0].cpu().numpy()
    answers = [
        (Image.fromarray(overlay(composite, heatmap)), f"Where is the {name}?")
        for name, heatmap in zip(QUESTION.values(), heatmaps, strict=True)
    ]
    return Strip(
        "One picture, two questions: the map follows the class asked for",
        [(Image.fromarray(composite), "The picture"), *answers],
    )


def plural(count: int, noun: str) -> str:
    """`1 cluster`, `2 clusters`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
