"""Which method's maps lie on the object in real scenes, and hold what the model needs? Real photos, three models.

    python -m bench.scenes --coco DIR --photos DIR --out DIR   (make evaluate-photos COCO=DIR PHOTOS=DIR)

COCO/images holds photos and COCO/masks a PNG of the same name whose pixels are COCO category ids (0: none): from the
public repository lightly-ai/coco128_yolo, `images/train2017` and `semantic_segmentation/masks/train2017`. PHOTOS holds
photos `NNNN_name.jpg`, NNNN the ImageNet class: from the public repository EliSchwartz/imagenet-sample-images, the
index in the order of the file names. `bench/scene_questions.py` says what is asked. cfcam-sharp was tuned with
EfficientNet-Lite0 on one half of both: figures of Lite0 are of COCO's other half, those of photos without masks of the
other half for every model.

A row for each question and method is added to `rows.jsonl` in `--out` as it is measured; the same command does what is
missing. After `--minutes` no further photos are begun, and the figures are of the questions that every method answered.
`bench/scene_statistics.py`: intervals and p by photo and by object, of the difference from Grad-CAM and from the best
rival, after Holm for all columns of our methods, and for those of the others.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from statistics import median
from typing import Any

from bench.common import command, print_table
from bench.scene_controls import CONTROLS
from bench.scene_questions import ALL, UNSEEN, Question, photo_questions, scene_questions
from bench.scene_rows import NOISE, Key, Row, Rows, digest, forward_seconds, measure
from bench.scene_statistics import summary
from cfcam_gpu import CFCAM
from cfcam_gpu.errors import ConfigError
from cfcam_gpu.metrics import METRICS
from cfcam_gpu.models import LoadedModel, load_model

SCALES = (1.0, 1.43, 2.0)

#: Label -> method, and the arguments of `CFCAM`. HiResCAM and XGrad-CAM are Grad-CAM at a last layer that is pooled.
VARIANTS: dict[str, dict[str, Any]] = {
    "gradcam": {"method": "gradcam"},
    "cfcam": {"method": "cfcam"},
    "cfcam-fine": {"method": "cfcam-fine"},
    "gradcam-fine": {"method": "gradcam-fine"},
    "layercam": {"method": "layercam"},
    "gradcam++": {"method": "gradcam++"},
    "hirescam": {"method": "hirescam"},
    "xgradcam": {"method": "xgradcam"},
    "ablationcam": {"method": "ablationcam"},
    "groupcam": {"method": "groupcam"},
    "reciprocam": {"method": "reciprocam"},
    "refinecam": {"method": "refinecam"},
    "gradcam, three sizes": {"method": "gradcam", "scales": SCALES},
    "cfcam-sharp": {"method": "cfcam-sharp"},
    "cfcam-sharp, three sizes": {"method": "cfcam-sharp", "scales": SCALES},
    **{f"control: {name}": {"method": "cfcam-sharp"} for name in CONTROLS},
}

#: Part -> column -> the metric it comes from.
COLUMNS = {
    "scenes": {
        "pointing": "localisation", "energy_inside": "localisation", "iou_25": "localisation",
        "iou_50": "localisation", "average_precision": "average_precision", "average_drop": "drop",
        "increase": "drop",
    },
    "photos": {
        "average_drop": "drop", "increase": "drop", "deletion_black_auc": "deletion",
        "insertion_blur_auc": "insertion", "road_combined": "road", "adcc": "adcc", "coherency": "adcc",
        "complexity": "adcc", "arcc": "arcc", "similarity_second": "class_sensitivity",
        "similarity_least": "class_sensitivity", "input_noise_ssim": "input_noise",
    },
}  # fmt: skip

#: Not measured on `photos`, where each map costs dozens of passes: methods that need many, and what was found to
#: be steps of cfcam-sharp on scenes. Without groups is cfcam-sharp itself.
SCENES_ONLY = {"gradcam-fine", "ablationcam", "groupcam", *(f"control: {name}" for name in CONTROLS)} - {
    "control: groups of channels", "control: shuffled groups",
}  # fmt: skip

#: The model that cfcam-sharp was tuned with.
TUNED = "efficientnet-lite0"

#: Images explained at once.
BATCH = 4


@dataclass(frozen=True)
class Options:
    """Folders; models; labels of `VARIANTS`, all by default; photos of COCO, 0: all; photos of PHOTOS, 0: all; points
    of deletion and insertion curves; minutes after which no further photos are begun.
    """

    coco: str = ""
    photos: str = ""
    out: str = "cfcam-scenes"
    models: tuple[str, ...] = ("efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2")
    methods: tuple[str, ...] = tuple(VARIANTS)
    limit: int = 0
    photos_limit: int = 20
    steps: int = 6
    minutes: float = 30.0


class Asked:
    """A model, the questions of one part to it, and the methods that answer."""

    def __init__(self, loaded: LoadedModel, part: str, half: str, found: list[Question], options: Options):
        self.loaded, self.part, self.half, self.questions = loaded, part, half, found
        chosen = dict.fromkeys(("gradcam", *options.methods))
        self.labels = [label for label in chosen if part == "scenes" or label not in SCENES_ONLY]
        self.metrics = list(dict.fromkeys(COLUMNS[part].values()))
        self.steps = options.steps
        self.settings = digest(options.steps, NOISE, COLUMNS[part])
        self._cams: dict[str, CFCAM] = {}

    def key(self, question: Question, label: str) -> Key:
        """The key of the row of a question and a method."""
        return Key(self.settings, self.loaded.spec, self.part, question.photo, question.kind, label)

    def missing(self, rows: Rows, asked: Sequence[Question]) -> list[str]:
        """The methods that have not answered all these questions."""
        return [label for label in self.labels if any(rows.get(self.key(q, label)) is None for q in asked)]

    def answer(self, rows: Rows, asked: Sequence[Question]) -> None:
        """Adds what is missing of these questions."""
        missing = self.missing(rows, asked)
        forward = forward_seconds(self.loaded, asked) if missing else 0.0
        for label in missing:
            cam = self._explainer(label, asked[0])
            values, seconds = measure(self.loaded, cam, label, asked, self.metrics, self.steps)
            rows.add(
                [Row(self.key(q, label), seconds, forward, of) for q, of in zip(asked, values, strict=True)]
            )

    def _explainer(self, label: str, question: Question) -> CFCAM:
        """The method's explainer, which has chosen its layers: its first map costs no more than others."""
        if label not in self._cams:
            self._cams[label] = CFCAM(self.loaded.model, on_invalid="flag", **VARIANTS[label])
            self._cams[label].features(question.pixels[None], question.target)
        return self._cams[label]

    def result(self, rows: Rows) -> dict[str, Any]:
        """The figures of the questions that every method answered."""
        done = [q for q in self.questions if not self.missing(rows, [q])]
        found = {label: [row for q in done if (row := rows.get(self.key(q, label)))] for label in self.labels}
        about = {"half": self.half, "questions": len(done), "asked": len(self.questions)}
        return about | {"methods": _figures(found, self.part) if done else {}}


def _figures(found: dict[str, list[Row]], part: str) -> dict[str, dict[str, Any]]:
    answers = {
        label: {column: [row.values[column] for row in rows] for column in COLUMNS[part]}
        for label, rows in found.items()
    }
    figures: dict[str, dict[str, Any]] = dict(
        summary(
            answers,
            [row.key.photo for row in found["gradcam"]],
            [row.key.kind for row in found["gradcam"]],
            base="gradcam",
            better=_better(part),
            families={label: _family(label) for label in found},
            rivals={label: _rivals(label) for label in found if _family(label) == "ours"},
        )
    )
    for label, rows in found.items():
        figures[label]["seconds"] = median(row.seconds for row in rows)
        figures[label]["passes"] = median(row.seconds / row.forward_seconds for row in rows)
    return figures


def _better(part: str) -> dict[str, str]:
    """Column -> whether higher or lower values are better."""
    return {
        column.name: column.better
        for metric in {*COLUMNS[part].values()}
        for column in METRICS[metric].columns
    }


def _family(label: str) -> str:
    """The set of comparisons that are corrected together.

    Example:
        >>> _family("cfcam-sharp"), _family("layercam"), _family("control: no spread")
        ('ours', 'others', 'controls')
    """
    if label.startswith("control: "):
        return "controls"
    return "ours" if VARIANTS[label]["method"].startswith("cfcam") else "others"


def _rivals(label: str) -> list[str]:
    """Others' methods, run at no more sizes."""
    sizes = len(VARIANTS[label].get("scales", (1,)))
    return [
        other
        for other, arguments in VARIANTS.items()
        if _family(other) == "others" and len(arguments.get("scales", (1,))) <= sizes
    ]


def ask(options: Options) -> list[Asked]:
    """The parts and models, with their questions.

    Raises:
        ConfigError: no folder, or a folder or a method that is not there.
    """
    unknown = {*options.methods} - {*VARIANTS}
    if unknown:
        raise ConfigError(f"unknown methods {sorted(unknown)}; known: {', '.join(VARIANTS)}")
    if not (options.coco or options.photos):
        raise ConfigError(
            "there are no questions; pass --coco DIR or --photos DIR, see python -m bench.scenes --help"
        )
    found = []
    for spec in options.models:
        loaded = load_model(spec)
        if options.coco:
            half = UNSEEN if spec == TUNED else ALL
            asked = scene_questions(loaded, Path(options.coco), half, options.limit)
            found.append(Asked(loaded, "scenes", half, asked, options))
        if options.photos:
            asked = photo_questions(loaded, Path(options.photos), UNSEEN, options.photos_limit)
            found.append(Asked(loaded, "photos", UNSEEN, asked, options))
    return sorted(found, key=lambda one: one.part != "scenes")


def batches(asked: Sequence[Asked]) -> Iterator[tuple[Asked, list[Question]]]:
    """All scenes, then all photos; the models take turns, so that a run that stops early has some of each."""
    for part in dict.fromkeys(one.part for one in asked):
        models = [one for one in asked if one.part == part]
        split = [
            [(one, one.questions[i : i + BATCH]) for i in range(0, len(one.questions), BATCH)]
            for one in models
        ]
        yield from (batch for turn in zip_longest(*split) for batch in turn if batch is not None)


def run(options: Options) -> dict[str, Any]:
    """The benchmark's result."""
    begun, longest = time.perf_counter(), 0.0
    asked, rows = ask(options), Rows(Path(options.out) / "rows.jsonl")
    for one, batch in batches(asked):
        started = time.perf_counter()
        if started - begun + longest > options.minutes * 60:
            print(f"stopped after {options.minutes:g} minutes; the same command goes on", flush=True)
            break
        one.answer(rows, batch)
        longest = max(longest, time.perf_counter() - started)
    models: dict[str, Any] = {spec: {} for spec in options.models}
    for one in asked:
        models[one.loaded.spec][one.part] = one.result(rows)
    return {"steps": options.steps, "models": _rounded(models)}


def _rounded(result: dict[str, Any]) -> dict[str, Any]:
    """Four decimals; NaN and infinities, which JSON lacks, are None."""
    text = json.dumps(result)
    rounded: dict[str, Any] = json.loads(
        text, parse_float=lambda number: round(float(number), 4), parse_constant=lambda _name: None
    )
    return rounded


def show(result: dict[str, Any]) -> None:
    """Prints a table for each model and part: means, * where Holm's p of the difference from Grad-CAM is below 0.05,
    and ! where that of the difference from the best rival is.
    """
    for spec, parts in result["models"].items():
        for part, of in parts.items():
            rows = [
                (label, *(_shown(one[name]) for name in COLUMNS[part]), f"{one['passes']:.1f}")
                for label, one in of["methods"].items()
            ]
            title = f"{spec}, {part}, {of['questions']} of {of['asked']} questions, photos: {of['half']}"
            print_table(title, ("method", *COLUMNS[part], "passes"), rows)


def _shown(figure: dict[str, Any]) -> str:
    if figure["mean"] is None or math.isnan(figure["mean"]):
        return "-"
    beats = figure.get("rival", {}).get("p_holm", 1) < 0.05
    return f"{figure['mean']:.3f}{'*' if figure.get('p_holm', 1) < 0.05 else ''}{'!' if beats else ''}"


if __name__ == "__main__":
    command("scenes", Options, run, show, __doc__)
