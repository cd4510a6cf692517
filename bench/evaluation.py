"""Is CF-CAM better than Grad-CAM and other methods? On real photos and composites that no parameter was tuned on.

    python -m bench.evaluation   (make evaluate)

- photos: the half `UNSEEN` of `bench/photos.py`, with boxes; faithfulness, localisation, sanity;
- composites: two cut-out objects of that half on one background; localisation, class sensitivity, stability;
- earlier: the composites at an earlier layer, where gradients differ from place to place.

A class of an image is used only if it is among the model's five likeliest. `cfcam_gpu.evaluation.evaluate`
computes everything; its pages stay in the folder `--out`, if one is given.
"""

from __future__ import annotations

import csv
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from bench.common import command, print_table
from bench.photos import PHOTOS, UNSEEN, compose
from cfcam_gpu.cli.demo_photos import MODEL
from cfcam_gpu.evaluation.run import evaluate
from cfcam_gpu.metrics.options import MetricOptions
from cfcam_gpu.models import LoadedModel, load_model

#: A question (an image and a class) is used if the class is among this many likeliest.
LIKELIEST = 5

#: Without Score-CAM, whose 1,280 forward passes per map would take longer than everything else. At the last layer
#: the gradient is constant over each map: there HiResCAM and XGrad-CAM equal Grad-CAM, and Smooth Grad-CAM++ is
#: nearly Grad-CAM++.
METHODS = (
    "gradcam", "gradcam++", "layercam", "ablationcam", "eigencam", "random", "cfcam", "cfcam:upstream",
    "cfcam-fine", "gradcam-fine",
)  # fmt: skip
#: The methods that are fast enough to make a new map for every draw of noise.
FAST = tuple(name for name in METHODS if name != "ablationcam")
EARLIER = (
    "gradcam", "gradcam++", "hirescam", "layercam", "xgradcam", "random", "cfcam", "cfcam:upstream",
    "cfcam:spatial",
)  # fmt: skip

#: A row of a manifest.
Row = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """One table: its images, layer (None: the last), methods and metrics."""

    images: str
    layer: str | None
    methods: Any
    metrics: tuple[str, ...]


@dataclass(frozen=True)
class Questions:
    """Questions that the model can answer.

    Attributes:
        manifest: path of a manifest with one row for each of them.
        made: number of questions before those that the model cannot answer were left out.
        recognised: number of rows of the manifest.
    """

    manifest: str
    made: int
    recognised: int


PHOTO_METRICS = (
    "drop", "deletion", "insertion", "road", "localisation", "class_sensitivity", "randomisation", "edges",
)  # fmt: skip
PARTS = {
    "photos": Part("photos", None, METHODS, PHOTO_METRICS),
    "composites": Part("composites", None, FAST, ("localisation", "class_sensitivity", "input_noise")),
    "earlier": Part(
        "composites", "_blocks.9", EARLIER, ("localisation", "class_sensitivity", "gradient_noise")
    ),
}


@dataclass(frozen=True)
class Options:
    """Number of composites, with the unrecognised ones; steps of deletion and insertion; folder of the pages."""

    composites: int = 60
    steps: int = 11
    out: str = ""


def write_photos(folder: Path, half: str) -> list[Row]:
    """Writes the photos of a half as PNG files, with masks of their boxes. Returns the rows of their manifest."""
    rows = []
    for name, photo in PHOTOS.items():
        if photo.half != half:
            continue
        image = photo.open()
        image.save(folder / f"{name}.png")
        row = {"path": f"{name}.png", "sample_id": name, "target": photo.target}
        if photo.boxes:
            mask = Image.new("L", image.size)
            for left, top, right, bottom in photo.boxes:
                corners = [left * image.width, top * image.height, right * image.width, bottom * image.height]
                ImageDraw.Draw(mask).rectangle(corners, fill=255)
            mask.save(folder / f"{name}_mask.png")
            row["mask"] = f"{name}_mask.png"
        rows.append(row)
    return rows


def write_composites(folder: Path, half: str, count: int) -> list[Row]:
    """Writes composites of a half, with a mask of each object. Returns the rows of their manifest, two for each."""
    rows = []
    for number, composite in enumerate(compose(half, count)):
        Image.fromarray(composite.image).save(folder / f"{number:03}.png")
        for name, mask in zip(composite.names, composite.masks, strict=True):
            file = f"{number:03}_{PHOTOS[name].target}_mask.png"
            Image.fromarray(mask.astype(np.uint8) * 255).save(folder / file)
            rows.append(
                {
                    "path": f"{number:03}.png",
                    "sample_id": f"{number:03}: {name}",
                    "target": PHOTOS[name].target,
                    "mask": file,
                }
            )
    return rows


def recognised(loaded: LoadedModel, folder: Path, rows: list[Row]) -> list[Row]:
    """The rows whose class is among the model's `LIKELIEST` classes."""
    images = [loaded.preprocess(Image.open(folder / row["path"]).convert("RGB")) for row in rows]
    targets = torch.tensor([row["target"] for row in rows])
    with torch.inference_mode():
        logits = torch.cat([loaded.model(part) for part in torch.stack(images).split(16)])
    rank = (logits > logits.gather(1, targets[:, None])).sum(1)
    return [row for row, better in zip(rows, rank.tolist(), strict=True) if better < LIKELIEST]


def write_manifest(path: Path, rows: list[Row]) -> str:
    """Writes a CSV manifest. Returns its path."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ("path", "sample_id", "target", "mask"))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


@contextmanager
def _folder(out: str) -> Iterator[Path]:
    """The folder `out`; a temporary one if it is empty text."""
    if out:
        Path(out).mkdir(parents=True, exist_ok=True)
        yield Path(out)
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary)


def prepare(loaded: LoadedModel, folder: Path, half: str, composites: int) -> dict[str, Questions]:
    """Writes the photos and composites of a half with their manifests."""
    questions = {}
    for name in ("photos", "composites"):
        images = folder / name
        images.mkdir(exist_ok=True)
        rows = write_photos(images, half) if name == "photos" else write_composites(images, half, composites)
        answerable = recognised(loaded, images, rows)
        manifest = write_manifest(images / "manifest.csv", answerable)
        questions[name] = Questions(manifest, len(rows), len(answerable))
    return questions


def measure(
    loaded: LoadedModel, folder: Path, name: str, part: Part, questions: dict[str, Questions], steps: int
) -> dict[str, Any]:
    """The summary of `evaluate` for one part; its page stays in the folder."""
    start, of_part = time.perf_counter(), questions[part.images]
    out = evaluate(
        [of_part.manifest],
        folder / f"evaluation-{name}",
        loaded,
        methods=part.methods,
        metrics=part.metrics,
        layer=part.layer,
        measuring=MetricOptions(steps=steps, noise_draws=1),
        device="cpu",
        workers=1,
        overwrite=True,
    )
    return {
        "questions": of_part.made,
        "recognised": of_part.recognised,
        "layer": out.run.layer,
        "seconds": round(time.perf_counter() - start, 1),
        "found": _kept(out.summary),
    }


def run(options: Options) -> dict[str, Any]:
    """The benchmark's result: for each part the summary of `evaluate`, and the numbers of questions."""
    loaded = load_model(MODEL)
    with _folder(options.out) as folder:
        questions = prepare(loaded, folder, UNSEEN, options.composites)
        parts = {
            name: measure(loaded, folder, name, part, questions, options.steps)
            for name, part in PARTS.items()
        }
    return {"model": loaded.spec, "steps": options.steps, "parts": parts}


def _kept(summary: dict[str, Any] | None) -> dict[str, Any]:
    """The summary, rounded, without the curves, which are on the page."""
    assert summary is not None
    kept = {name: summary[name] for name in ("images", "methods", "paired", "baseline", "cost")}
    return json.loads(json.dumps(kept), parse_float=lambda text: round(float(text), 4))


def show(result: dict[str, Any]) -> None:
    """Prints one table for each part: methods × the means of its columns."""
    for name, part in result["parts"].items():
        methods = part["found"]["methods"]
        columns = list(next(iter(methods.values())))
        counts = f"{part['recognised']} of {part['questions']} questions"
        print_table(
            f"{name}, layer {part['layer']}, {counts}, {part['seconds']} s",
            ("method", *columns),
            [
                (label, *(_shown(figures.get(column)) for column in columns))
                for label, figures in methods.items()
            ],
        )


def _shown(figure: dict[str, Any] | None) -> str:
    return "-" if figure is None or figure["mean"] is None else f"{figure['mean']:.3f}"


if __name__ == "__main__":
    command("evaluation", Options, run, show, __doc__)
