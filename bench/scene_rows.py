"""One row for each question and method, measured once: a file to which finished rows are added."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

import cfcam_gpu
from bench.scene_controls import CONTROLS
from bench.scene_questions import Question
from cfcam_gpu import CFCAM
from cfcam_gpu.evaluation.maps import BatchMaps, normaliser
from cfcam_gpu.metrics import METRICS, MetricOptions
from cfcam_gpu.metrics.arcc import arcc_of
from cfcam_gpu.metrics.base import Case
from cfcam_gpu.models import LoadedModel

#: Standard deviation of the noise on images in [0,1].
NOISE = 0.1

#: What a figure depends on besides the photo: `digest` covers these.
_SOURCES = ("*.py", "capture/*.py", "cfcam/*.py", "engines/*.py", "methods/*.py", "metrics/*.py")


class Key(NamedTuple):
    """What a row is found by; `settings` is the `digest` of what was measured, rows of another are measured again."""

    settings: str
    model: str
    part: str
    photo: str
    kind: str
    method: str


@dataclass(frozen=True)
class Row:
    """The values of one method's map for one question.

    Attributes:
        seconds: for the map, its batch's time divided by the number of images.
        forward_seconds: the same for a forward pass of the same batch.
        values: column -> value; NaN where it is not defined.
    """

    key: Key
    seconds: float
    forward_seconds: float
    values: Mapping[str, float]

    @classmethod
    def read(cls, line: str) -> Row:
        """The row of a line of the file."""
        fields = json.loads(line)
        return cls(**{**fields, "key": Key(*fields["key"])})


class Rows:
    """The rows of a file. A last line without its end is what a stopped run left; it is dropped."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text() if path.exists() else ""
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            path.write_text(whole)
        self._rows = {row.key: row for row in map(Row.read, whole.splitlines())}

    def get(self, wanted: Key) -> Row | None:
        """The row, None where it is not measured."""
        return self._rows.get(wanted)

    def add(self, rows: Sequence[Row]) -> None:
        """Writes the rows at once."""
        with self._path.open("a") as file:
            file.writelines(json.dumps(vars(row)) + "\n" for row in rows)
        self._rows |= {row.key: row for row in rows}


def digest(*settings: object) -> str:
    """Of the methods, the metrics, this benchmark and the settings: rows of other code are not taken for these.

    Example:
        >>> digest(6) == digest(6) != digest(11)
        True
    """
    package, here = Path(cfcam_gpu.__file__).parent, Path(__file__).parent
    files = sorted(file for pattern in _SOURCES for file in package.glob(pattern))
    files += sorted(file for file in here.glob("scene_*.py") if file.stem != "scene_statistics")
    content = hashlib.sha256(b"".join(file.read_bytes() for file in files))
    content.update(repr(settings).encode())
    return content.hexdigest()[:12]


def measure(
    loaded: LoadedModel, cam: CFCAM, label: str, asked: Sequence[Question], metrics: Sequence[str], steps: int
) -> tuple[list[dict[str, float]], float]:
    """The values of each question in all columns of the metrics, and seconds a map.

    `label` names the control under which the method runs, if it is one. ARCC needs ADCC and ROAD beside it.
    """
    control = CONTROLS.get(label.removeprefix("control: "), contextlib.nullcontext)
    pixels, targets = torch.stack([q.pixels for q in asked]), torch.tensor([q.target for q in asked])
    normalise = normaliser(loaded.preprocess)

    def logits(modified: Tensor) -> Tensor:
        with torch.inference_mode():
            return torch.cat(
                [loaded.model(normalise(part)).float() for part in modified.split(len(asked) * 2)]
            )

    with control():
        begun = time.perf_counter()
        features = cam.features(normalise(pixels), targets)
        heatmaps = cam.explain(features).heatmap
        seconds = (time.perf_counter() - begun) / len(asked)
        maps = BatchMaps(cam, features, normalise, len(asked))
        case = Case.of_heatmaps(logits, pixels, targets, heatmaps, maps=maps, masks=_masks(asked))
        case = replace(case, seeds=torch.tensor([zlib.crc32(q.photo.encode()) for q in asked]))
        options = MetricOptions(steps=steps, input_noise_levels=(NOISE,), noise_draws=1)
        columns = {
            name: values
            for metric in metrics
            if metric != "arcc"
            for name, values in METRICS[metric](case, options).items()
            if values.ndim == 1
        }
    if "arcc" in metrics:  # of what the others measured
        columns["arcc"] = arcc_of(columns["coherency"], columns["complexity"], columns["road_combined"])
    return [{name: float(v[index]) for name, v in columns.items()} for index in range(len(asked))], seconds


def forward_seconds(loaded: LoadedModel, asked: Sequence[Question]) -> float:
    """Seconds an image of a forward pass of the questions' batch, the shorter of two."""
    images, taken = normaliser(loaded.preprocess)(torch.stack([q.pixels for q in asked])), []
    with torch.inference_mode():
        for _ in range(2):
            begun = time.perf_counter()
            loaded.model(images)
            taken.append(time.perf_counter() - begun)
    return min(taken) / len(asked)


def _masks(asked: Sequence[Question]) -> Tensor | None:
    masks = [q.mask for q in asked if q.mask is not None]
    return torch.stack(masks) if masks else None
