"""A sheet of overlays: a row for each scene, a column for each method, and below each map its average precision.

    python -m bench.method_sheet --coco DIR --out sheet.jpg

The scenes are the first of COCO's half that cfcam-sharp was not tuned on, see `python -m bench.scenes`. The picture
shows these photos, so it stays outside the project; `bench.pictures` makes one of the package's own photos.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from bench.common import parse
from bench.photos import PHOTOS, compose
from bench.photos import UNSEEN as UNSEEN_PHOTOS
from bench.scene_questions import UNSEEN, Question, scene_questions
from bench.scenes import SCALES
from cfcam_gpu import CFCAM, CFCAMConfig
from cfcam_gpu.evaluation.maps import normaliser
from cfcam_gpu.images.overlay import draw_overlay
from cfcam_gpu.metrics.average_precision import average_precision
from cfcam_gpu.metrics.base import Case
from cfcam_gpu.metrics.options import MetricOptions
from cfcam_gpu.models import LoadedModel, load_model

SHARP: dict[str, dict[str, Any]] = {
    "cfcam-sharp": {"method": "cfcam-sharp"},
    "cfcam-sharp, 3 sizes": {"method": "cfcam-sharp", "scales": SCALES},
}

#: Heading -> arguments of `CFCAM`: of a sheet of scenes, and of composites.
SCENES: dict[str, dict[str, Any]] = {
    **{name: {"method": name} for name in ("gradcam", "layercam", "groupcam", "cfcam")},
    **SHARP,
}
COMPOSITES: dict[str, dict[str, Any]] = {
    **{name: {"method": name} for name in ("gradcam", "gradcam++", "layercam", "eigencam", "cfcam")},
    "cfcam:upstream": {"method": "cfcam", "config": CFCAMConfig.preset("upstream")},
    "cfcam-fine": {"method": "cfcam-fine"},
    **SHARP,
}

#: Composites that are shown, and the object that is asked for.
SHOWN = {1: "dung beetle", 15: "moped", 29: "bottlecap", 44: "espresso", 59: "dung beetle"}

#: Pixels: side of a picture, between two of them, and of a line of text.
SIDE, GAP, LINE = 150, 6, 20


@dataclass(frozen=True)
class Options:
    """Folder of the photos; file of the sheet; model; scenes."""

    coco: str = ""
    out: str = "cfcam-scenes.jpg"
    model: str = "efficientnet-lite0"
    count: int = 12


def composites() -> list[Question]:
    """Questions about the composites of `SHOWN`, of photos that installed packages hold."""
    made, found = compose(UNSEEN_PHOTOS, max(SHOWN) + 1), []
    for number, name in SHOWN.items():
        composite, target = made[number], PHOTOS[name].target
        pixels = torch.from_numpy(composite.image.copy()).permute(2, 0, 1) / 255
        mask = torch.from_numpy(composite.masks[composite.names.index(name)].copy())
        found.append(Question(name, str(target), pixels, target, mask))
    return found


def draw_sheet(
    loaded: LoadedModel, questions: Sequence[Question], methods: Mapping[str, dict[str, Any]]
) -> Image.Image:
    """The sheet. In the first column the picture, below it the class."""
    row, columns = SIDE + LINE + GAP, len(methods) + 1
    sheet = Image.new("RGB", (columns * (SIDE + GAP) + GAP, LINE + GAP + len(questions) * row), "white")
    for column, heading in enumerate(("picture", *methods)):
        _write(sheet, heading, column, 0)
    with contextlib.ExitStack() as stack:
        cams = [stack.enter_context(CFCAM(loaded.model, **of)) for of in methods.values()]
        for index, question in enumerate(questions):
            top = LINE + GAP + index * row
            picture = (question.pixels.permute(1, 2, 0) * 255).round().byte().numpy()
            _paste(sheet, picture, 0, top)
            _write(sheet, loaded.class_name(question.target), 0, top + SIDE)
            for column, cam in enumerate(cams, 1):
                heatmap, precision = _map(loaded, question, cam)
                _paste(sheet, draw_overlay(picture, heatmap), column, top)
                _write(sheet, f"{precision:.2f}", column, top + SIDE)
    return sheet


def _map(loaded: LoadedModel, question: Question, cam: CFCAM) -> tuple[np.ndarray[Any, Any], float]:
    """The heatmap of a question, and its average precision."""
    images = normaliser(loaded.preprocess)(question.pixels[None])
    heatmaps = cam(images, targets=question.target).heatmap
    assert question.mask is not None
    case = Case.of_heatmaps(
        lambda pixels: pixels[:, :2, 0, 0],  # average precision does not ask the model
        torch.zeros(1, 3, 1, 1),
        torch.tensor([0]),
        heatmaps,
        masks=question.mask[None],
    )
    return heatmaps[0].numpy(), average_precision(case, MetricOptions())["average_precision"].item()


def _paste(sheet: Image.Image, picture: np.ndarray[Any, Any], column: int, top: int) -> None:
    small = Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    sheet.paste(small, (GAP + column * (SIDE + GAP), top))


def _write(sheet: Image.Image, text: str, column: int, top: int) -> None:
    """The text, centred in the column and shortened to it."""
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    while draw.textlength(text, font) > SIDE:
        text = text[:-2] + "…"
    draw.text((GAP + column * (SIDE + GAP) + SIDE // 2, top + 2), text, "black", font, "ma")


def main() -> None:
    """Writes the sheet of scenes."""
    options = parse(Options, __doc__)
    loaded = load_model(options.model)
    questions = scene_questions(loaded, Path(options.coco), UNSEEN, 0)[: options.count]
    draw_sheet(loaded, questions, SCENES).save(options.out, quality=88)


if __name__ == "__main__":
    main()
