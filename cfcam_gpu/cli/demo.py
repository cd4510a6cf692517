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

from cfcam_gpu.dataset.sources.open_image import open_image
from cfcam_gpu.dataset.sources.sample import Sample, path_uri
from cfcam_gpu.dataset.store.atomic_files import write_atomically
from cfcam_gpu.dataset.store.results import Results
from cfcam_gpu.dataset.store.schema import Row
from cfcam_gpu.dataset.store.store import Store
from cfcam_gpu.errors import InputError, ModelError
from cfcam_gpu.explainer import CFCAM
from cfcam_gpu.images.contact_sheet import Entry, Strip, draw_contact_sheet
from cfcam_gpu.images.encode import encode_image
from cfcam_gpu.images.overlay import colorize, draw_overlay
from cfcam_gpu.models import LoadedModel

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


def find_photos() -> tuple[list[Sample], list[str]]:
    """The photos found, and a sentence for each that is not where it used to be.

    Raises:
        ModelError: scikit-image is not installed.
    """
    found, missing = [], []
    for name, (package, inside) in PHOTOS.items():
        folder = package_folder(package)
        if folder is None:
            raise ModelError(
                f"the demo's photos come with the package {package}, which is not installed; "
                "run: pip install 'cfcam-gpu[demo]'"
            )
        path = folder / inside
        if path.is_file():
            found.append(Sample(inside, path_uri(str(path)), name=name))
        else:
            missing.append(f"{name}: the installed {package} does not contain {inside}")
    return found, missing


def package_folder(package: str) -> Path | None:
    """Where an installed package lies, without importing it; None: it is not installed."""
    spec = importlib.util.find_spec(package)
    return Path(spec.origin).parent if spec and spec.origin else None


def is_demo(out: Path) -> bool:
    """Whether the run in a folder is one of the demo's, which the next one may replace."""
    run = Store(out).read_run()
    photos = {path for _, path in PHOTOS.values()}
    return (
        run is not None
        and {row["sample_id"] for row in Store(out).read_plan().columns("sample_id")} <= photos
    )


def files(row: Row) -> dict[str, str]:
    """The pictures of an explained photo, below the output folder: kind -> path."""
    overlay = str(row["overlay"])
    stem = overlay.removesuffix("_cfcam.png")
    return {
        "overlay": overlay,
        "heatmap": f"{stem}_heatmap.png",
        "original": f"{stem}_original.png",
    }


def photo_name(row: Row) -> str:
    """The photo's file; the folder of the installed package tells nobody anything."""
    return Path(row["uri"]).name


def write_pictures(loaded: LoadedModel, results: Results) -> Path:
    """Writes each photo and its heatmap beside its overlay, and the contact sheet; gives the sheet's path.

    Raises:
        InputError: a file cannot be written.
    """
    out = results.store.out
    path = out / "contact_sheet.png"
    try:
        entries = [_entry(results, row) for row in results.rows() if row["status"] == "ok"]
        encoded = io.BytesIO()
        _sheet(loaded, results, entries).save(encoded, "PNG", optimize=True)
        write_atomically(path, encoded.getvalue())
    except OSError as error:
        raise InputError(f"cannot write into {out}: {error.strerror or error}") from error
    return path


def _sheet(loaded: LoadedModel, results: Results, entries: list[Entry]) -> Image.Image:
    paths = {PHOTOS[name][1]: name for name in QUESTION if name in PHOTOS}
    found = {paths.get(row["sample_id"]): row["uri"] for row in results.rows(["sample_id", "uri", "status"])}
    photos = [open_image(found[name]) for name in QUESTION if name in found]
    strip = None
    if len(photos) == len(QUESTION):
        with CFCAM(loaded.model) as cam:
            strip = two_questions(loaded, cam, photos)
    return draw_contact_sheet(
        entries,
        strip,
        title="What EfficientNet-Lite0 looks at",
        subtitle="CF-CAM heatmaps for the class the model predicts, with its probability",
    )


def _entry(results: Results, row: Row) -> Entry:
    names = {kind: results.store.out / file for kind, file in files(row).items()}
    pixels = {
        "original": np.asarray(open_image(row["uri"])),
        "heatmap": colorize(results.heatmap(row, "original")),
    }
    for kind, picture in pixels.items():
        write_atomically(names[kind], encode_image(picture, "png"))
    return Entry(
        photo=Image.fromarray(pixels["original"]),
        heatmap=Image.fromarray(pixels["heatmap"]),
        overlay=Image.open(names["overlay"]),
        title=f"{row['target_name']}, {row['target_prob']:.0%}",
        detail=f"{plural(row['n_clusters'] or 0, 'cluster')}, {row['noise_fraction']:.0%} noise",
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
        (Image.fromarray(draw_overlay(composite, heatmap)), f"Where is the {name}?")
        for name, heatmap in zip(QUESTION.values(), heatmaps, strict=True)
    ]
    return Strip(
        "One picture, two questions: the map follows the class asked for",
        [(Image.fromarray(composite), "The picture"), *answers],
    )


def plural(count: int, noun: str) -> str:
    """`1 cluster`, `2 clusters`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
