"""The pictures that the demo writes beside the overlays: photos, heatmaps, and the contact sheet."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from cfcam_gpu._utils.messages import plural
from cfcam_gpu.cli.demo_photos import PHOTOS, QUESTION
from cfcam_gpu.dataset.sources.open_image import open_image
from cfcam_gpu.dataset.store.atomic_files import write_atomically
from cfcam_gpu.dataset.store.results import Results
from cfcam_gpu.dataset.store.schema import Row
from cfcam_gpu.dataset.store.store import Store
from cfcam_gpu.errors import InputError
from cfcam_gpu.explainer import CFCAM
from cfcam_gpu.images.contact_sheet import Entry, Strip, draw_contact_sheet
from cfcam_gpu.images.encode import encode_image
from cfcam_gpu.images.overlay import Pixels, colorize, draw_overlay, fit_heatmap
from cfcam_gpu.models import LoadedModel

#: The method whose maps stand beside those of the run.
BESIDE = "cfcam-sharp"


def is_demo(out: Path) -> bool:
    """Whether all samples of the run in a folder are the demo's photos: then the next demo may replace it."""
    run = Store(out).read_run()
    photos = {path for _, path in PHOTOS.values()}
    return (
        run is not None
        and {row["sample_id"] for row in Store(out).read_plan().columns("sample_id")} <= photos
    )


def picture_files(row: Row) -> dict[str, str]:
    """The pictures of an explained photo, below the output folder: kind -> path."""
    overlay = str(row["overlay"])
    stem = overlay.removesuffix("_cfcam.png")
    return {
        "overlay": overlay,
        "heatmap": f"{stem}_heatmap.png",
        "original": f"{stem}_original.png",
    }


def file_name(row: Row) -> str:
    """The photo's file name; the folder of the installed package says nothing to a reader."""
    return Path(row["uri"]).name


def write_pictures(loaded: LoadedModel, results: Results) -> Path:
    """Writes each photo and its heatmap beside its overlay, and the contact sheet; returns the sheet's path.

    Raises:
        InputError: a file cannot be written.
    """
    out = results.store.out
    path = out / "contact_sheet.png"
    try:
        with CFCAM(loaded.model, method=BESIDE) as cam:
            entries = [_entry(loaded, cam, results, row) for row in results.rows() if row["status"] == "ok"]
        encoded = io.BytesIO()
        _sheet(loaded, results, entries).save(encoded, "PNG", optimize=True)
        write_atomically(path, encoded.getvalue())
    except OSError as error:
        raise InputError(f"cannot write into {out}: {error.strerror or error}") from error
    return path


def _sheet(loaded: LoadedModel, results: Results, entries: list[Entry]) -> Image.Image:
    paths = {PHOTOS[name][1]: name for name in QUESTION if name in PHOTOS}
    uris = {paths.get(row["sample_id"]): row["uri"] for row in results.rows(["sample_id", "uri"])}
    photos = [open_image(uris[name]) for name in QUESTION if name in uris]
    strip = None
    if len(photos) == len(QUESTION):
        with CFCAM(loaded.model) as cam:
            strip = two_questions(loaded, cam, photos)
    return draw_contact_sheet(
        entries,
        strip,
        title="What EfficientNet-Lite0 looks at",
        subtitle=f"Heatmaps of cfcam and {BESIDE} for the class the model predicts, with its probability",
        headings=("photo", "cfcam", BESIDE),
    )


def _entry(loaded: LoadedModel, cam: CFCAM, results: Results, row: Row) -> Entry:
    """Writes a photo and its heatmap; the entry has the overlays of the run and of another explainer."""
    paths = {kind: results.store.out / file for kind, file in picture_files(row).items()}
    photo = open_image(row["uri"])
    pixels = {
        "original": np.asarray(photo),
        "heatmap": colorize(results.heatmap(row, "original")),
    }
    for kind, picture in pixels.items():
        write_atomically(paths[kind], encode_image(picture, "png"))
    return Entry(
        photo=photo,
        heatmap=Image.open(paths["overlay"]),
        overlay=Image.fromarray(_overlay(loaded, cam, photo, row["target"])),
        title=f"{row['target_name']}, {row['target_prob']:.0%}",
        detail=f"{plural(row['n_clusters'] or 0, 'cluster')}, {row['noise_fraction']:.0%} noise",
    )


def _overlay(loaded: LoadedModel, cam: CFCAM, photo: Image.Image, target: int | None) -> Pixels:
    """The heatmap of a photo for a class over it, at the photo's size."""
    images = loaded.preprocess(photo)[None].to(next(loaded.model.parameters()).device)
    heatmap = cam(images, targets=target).heatmap[0].cpu().numpy()
    fitted = fit_heatmap(heatmap, loaded.preprocess.visible_box(*photo.size), *photo.size)
    return draw_overlay(np.asarray(photo), fitted)


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
