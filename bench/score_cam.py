"""Score-CAM beside Grad-CAM and cfcam-sharp, on few scenes: it runs the model once for each channel.

    python -m bench.score_cam --coco DIR --out DIR

The photos, questions and metrics are those of `python -m bench.scenes`, which leaves Score-CAM out; here one question
about each of the first photos of the half that cfcam-sharp was not tuned on. A row is added to `rows.jsonl` in `--out`
as it is measured; the same command does what is missing. Passes are counted: a pass over an image of another size
counts by its number of pixels.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.common import command, print_table
from bench.scene_questions import UNSEEN, Question, scene_questions
from bench.scene_rows import Key, Row, Rows, digest, measure
from bench.scene_statistics import compared
from bench.scenes import SCALES
from cfcam_gpu import CFCAM
from cfcam_gpu.models import LoadedModel, load_model

#: Label -> arguments of `CFCAM`. All are compared with the first.
METHODS: dict[str, dict[str, Any]] = {
    "scorecam": {"method": "scorecam"},
    "gradcam": {"method": "gradcam"},
    "cfcam-sharp": {"method": "cfcam-sharp"},
    "cfcam-sharp, three sizes": {"method": "cfcam-sharp", "scales": SCALES},
}
METRICS = ("localisation", "average_precision")
COLUMNS = ("average_precision", "pointing", "energy_inside")


@dataclass(frozen=True)
class Options:
    """Folders; models; how many questions to each of them; minutes after which no further map is begun."""

    coco: str = ""
    out: str = "cfcam-score-cam"
    models: tuple[str, ...] = ("efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2")
    questions: tuple[int, ...] = (12, 6, 6)
    minutes: float = 60.0


@contextlib.contextmanager
def counted(model: nn.Module, pixels: int) -> Iterator[list[float]]:
    """Counts in a list of one number how many images of so many pixels the model sees.

    Example:
        >>> with counted(model := nn.Identity(), 64) as passes:
        ...     _ = model(torch.rand(2, 3, 8, 8)), model(torch.rand(1, 3, 16, 16))
        >>> passes
        [6.0]
    """
    passes = [0.0]

    def count(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        passes[0] += inputs[0].shape[0] * inputs[0].shape[2:].numel() / pixels

    hook = model.register_forward_pre_hook(count)
    try:
        yield passes
    finally:
        hook.remove()


def first_questions(questions: Sequence[Question], count: int) -> list[Question]:
    """The first question about each of the first `count` photos."""
    by_photo: dict[str, Question] = {}
    for question in questions:
        by_photo.setdefault(question.photo, question)
    return list(by_photo.values())[:count]


def answer(loaded: LoadedModel, label: str, question: Question, key: Key) -> Row:
    """The row of a method's map."""
    with CFCAM(loaded.model, on_invalid="flag", **METHODS[label]) as cam:
        cam.features(question.pixels[None], question.target)  # chooses the layers
        with counted(loaded.model, question.pixels[0].numel()) as passes:
            (values,), seconds = measure(loaded, cam, label, [question], METRICS, steps=2)
    # One pass is the metrics', for the class's probability.
    return Row(key, seconds, 0.0, {**values, "passes": passes[0] - 1})


def run(options: Options) -> dict[str, Any]:
    """The benchmark's result: the figures of each model, and of all of them together."""
    begun, rows = time.perf_counter(), Rows(Path(options.out) / "rows.jsonl")
    settings = digest(METRICS, METHODS)
    found: dict[str, list[tuple[Question, dict[str, Row]]]] = {}
    for spec, count in zip(options.models, options.questions, strict=True):
        loaded = load_model(spec)
        found[spec] = []
        for question in first_questions(scene_questions(loaded, Path(options.coco), UNSEEN, 0), count):
            keys = {
                label: Key(settings, spec, "scenes", question.photo, question.kind, label)
                for label in METHODS
            }
            for label, key in keys.items():
                if rows.get(key) is None and time.perf_counter() - begun < options.minutes * 60:
                    rows.add([answer(loaded, label, question, key)])
            answers = {label: row for label, key in keys.items() if (row := rows.get(key))}
            if len(answers) == len(METHODS):
                found[spec].append((question, answers))
    every = [one for of in found.values() for one in of]
    return {
        "models": {spec: figures(of) for spec, of in found.items() if of},
        "together": figures(every) if every else {},
    }


def figures(found: Sequence[tuple[Question, Mapping[str, Row]]]) -> dict[str, Any]:
    """Means of each method, its passes an image, and its paired differences from Score-CAM by photo."""
    photos = [question.photo for question, _ in found]
    base = next(iter(METHODS))
    methods: dict[str, Any] = {}
    for label in METHODS:
        passes = [of[label].values["passes"] for _, of in found]
        methods[label] = {"passes": round(sum(passes) / len(passes), 1)}
        for column in COLUMNS:
            own, theirs = ([of[name].values[column] for _, of in found] for name in (label, base))
            difference = compared(own, theirs, photos, photos)
            kept = {
                name: None if difference[name] is None else round(difference[name], 4)
                for name in ("difference", "low", "high", "p")
            }
            methods[label][column] = {"mean": round(sum(own) / len(own), 4), **kept}
    return {"questions": len(found), "photos": len({*photos}), "methods": methods}


def show(result: dict[str, Any]) -> None:
    """Prints means and passes of each model, then of all."""
    for spec, of in (*result["models"].items(), ("together", result["together"])):
        rows = [
            (
                label,
                *(f"{one[column]['mean']:.3f} ({one[column]['difference']:+.3f})" for column in COLUMNS),
                f"{one['passes']:.1f}",
            )
            for label, one in of.get("methods", {}).items()
        ]
        title = f"{spec}, {of.get('questions', 0)} questions (less Score-CAM)"
        print_table(title, ("method", *COLUMNS, "passes"), rows)


if __name__ == "__main__":
    command("score_cam", Options, run, show, __doc__)
