"""What does each constant of cfcam-sharp trade? On the half of the photos that no reported figure uses.

    python -m bench.sharp_search --coco DIR --photos DIR --out DIR

The photos are those of `python -m bench.scenes`, the model is EfficientNet-Lite0. A map that is tighter lies on the
object more, and the model keeps less of its class when it sees the map alone: average drop. Pointing, average
precision, deletion and insertion depend on the order of the pixels only, which the curve of the map does not change but
for upsampling. The result is no claim; it shows what was tried.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from torch import Tensor

from bench.common import command, print_table
from bench.scene_questions import SEARCH, Question, photo_questions, scene_questions
from bench.scene_rows import Key, Row, Rows, digest, measure
from bench.scene_statistics import compared
from bench.scenes import SCALES
from cfcam_gpu import CFCAM
from cfcam_gpu.methods import sharp
from cfcam_gpu.models import LoadedModel, load_model

#: Part -> the metrics, and their columns.
METRICS = {"scenes": ("localisation", "average_precision", "drop"), "photos": ("drop",)}
COLUMNS = {
    "scenes": ("pointing", "energy_inside", "iou_25", "average_precision", "average_drop"),
    "photos": ("average_drop",),
}

_curve, _spread = sharp._steeper, sharp._spread


def _with_foot(share: float, power: float) -> Callable[[Tensor], Tensor]:
    """The curve, mixed with a share of the map to a power: dark places keep some light."""

    def mixed(maps: Tensor) -> Tensor:
        peak = maps.amax((2, 3), keepdim=True)
        foot = peak * (maps / peak.masked_fill(peak <= 0, 1)) ** power
        return (1 - share) * _curve(maps) + share * foot

    return mixed


def _with_class_map(share: float) -> Callable[[Tensor, Tensor], Tensor]:
    """The spread map, mixed with a share of the class map."""
    return lambda maps, features: (1 - share) * _spread(maps, features) + share * maps


#: Candidate -> what it replaces in `cfcam_gpu.methods.sharp`, where the curve's middle was 0.4 then.
CANDIDATES: dict[str, dict[str, Any]] = {
    "no curve": {"_steeper": lambda maps: maps},
    **{f"middle {m}": {"_MIDDLE": m} for m in (0.2, 0.25, 0.3, 0.35, 0.375, 0.4)},
    **{f"steepness {s}, middle {m}": {"_STEEPNESS": s, "_MIDDLE": m} for s in (2, 3, 4) for m in (0.2, 0.3)},
    **{f"share {share}": {"_SHARE": share} for share in (0.0, 0.25)},
    **{
        f"foot {share} of power {power}": {"_steeper": _with_foot(share, power)}
        for share, power in ((0.2, 1.0), (0.4, 1.0), (0.2, 0.5), (0.4, 0.5))
    },
    **{
        f"class map {share}": {"STEPS": sharp.with_steps(spread=_with_class_map(share))}
        for share in (0.25, 0.5)
    },
}


@dataclass(frozen=True)
class Options:
    """Folders; photos of PHOTOS; candidates, all by default; whether maps are of three sizes; images at once."""

    coco: str = ""
    photos: str = ""
    out: str = "cfcam-sharp-search"
    photos_limit: int = 40
    candidates: tuple[str, ...] = tuple(CANDIDATES)
    three_sizes: bool = False
    batch: int = 8


@contextlib.contextmanager
def replaced(changes: dict[str, Any]) -> Iterator[None]:
    """cfcam-sharp with other constants or steps."""
    with mock.patch.multiple(sharp, **changes):
        yield


def run(options: Options) -> dict[str, Any]:
    """The benchmark's result."""
    loaded, rows = load_model("efficientnet-lite0"), Rows(Path(options.out) / "rows.jsonl")
    asked = {
        "scenes": scene_questions(loaded, Path(options.coco), SEARCH, 0),
        "photos": photo_questions(loaded, Path(options.photos), SEARCH, options.photos_limit),
    }
    base = {part: _measured(loaded, rows, part, "gradcam", of, options) for part, of in asked.items()}
    found: dict[str, Any] = {"gradcam": _figures(base, base, asked)}
    for name in options.candidates:
        with replaced({"_MIDDLE": 0.4, **CANDIDATES[name]}):
            values = {part: _measured(loaded, rows, part, name, of, options) for part, of in asked.items()}
        found[name] = _figures(values, base, asked)
    about = {"model": loaded.spec, "three_sizes": options.three_sizes}
    return about | {
        "questions": {part: len(of) for part, of in asked.items()},
        "candidates": found,
    }


def _measured(
    loaded: LoadedModel, rows: Rows, part: str, name: str, asked: list[Question], options: Options
) -> list[Row]:
    """A row for each question; those that are missing are measured."""
    method = "gradcam" if name == "gradcam" else "cfcam-sharp"
    scales = SCALES if options.three_sizes and name != "gradcam" else SCALES[:1]
    cam = CFCAM(loaded.model, method=method, on_invalid="flag", scales=scales)
    settings = digest(METRICS[part], scales)
    keys = [Key(settings, loaded.spec, part, q.photo, q.kind, name) for q in asked]
    for start in range(0, len(asked), options.batch):
        end = start + options.batch
        if any(rows.get(key) is None for key in keys[start:end]):
            values, seconds = measure(loaded, cam, name, asked[start:end], METRICS[part], steps=2)
            rows.add([Row(key, seconds, 0.0, of) for key, of in zip(keys[start:end], values, strict=True)])
    return [row for key in keys if (row := rows.get(key)) is not None]


def _figures(
    values: dict[str, list[Row]], base: dict[str, list[Row]], asked: dict[str, list[Question]]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Part -> column -> mean, and the difference from Grad-CAM with its interval by photo."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for part, columns in COLUMNS.items():
        photos = [q.photo for q in asked[part]]
        for column in columns:
            ours, theirs = ([row.values[column] for row in rows[part]] for rows in (values, base))
            figure = compared(ours, theirs, photos, photos)
            kept = {name: figure[name] and round(figure[name], 4) for name in ("difference", "low", "high")}
            found.setdefault(part, {})[column] = {"mean": round(sum(ours) / len(ours), 4), **kept}
    return found


def show(result: dict[str, Any]) -> None:
    """Prints differences from Grad-CAM."""
    columns = [(part, column) for part, names in COLUMNS.items() for column in names]
    rows = [
        (name, *(f"{parts[part][column]['difference']:+.3f}" for part, column in columns))
        for name, parts in result["candidates"].items()
    ]
    print_table(
        "less Grad-CAM; the last column: photos",
        ("candidate", *(column for _, column in columns)),
        rows,
    )


if __name__ == "__main__":
    command("sharp_search", Options, run, show, __doc__)
