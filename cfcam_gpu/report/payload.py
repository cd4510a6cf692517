"""The data that the page's script reads, as JSON that is safe inside HTML and JavaScript."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cfcam_gpu.dataset.judging import Judge
from cfcam_gpu.dataset.store.schema import COLUMNS, Row
from cfcam_gpu.images.colormaps import COLORMAPS
from cfcam_gpu.images.overlay import colorize
from cfcam_gpu.report.pictures import Picture
from cfcam_gpu.report.survey import Survey

#: Columns of a row that the page shows as they are.
FIELDS = tuple(name for name in COLUMNS if name not in ("grid", "decoding"))

#: A browser ends a script at `</script` and reads `<!--` and these two line separators in its own way.
_ESCAPES = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}


def to_json(value: Any) -> str:
    """Compact JSON without the characters that end a script or start a comment in HTML; NaN and infinity are null.

    Example:
        >>> to_json({"name": "</script>", "value": float("nan")})
        '{"name":"\\\\u003c/script\\\\u003e","value":null}'
    """
    return json.dumps(_finite(value), allow_nan=False, separators=(",", ":")).translate(_ESCAPES)


def _finite(value: Any) -> Any:
    """The value with None for NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def encode_grid(grid: npt.NDArray[np.floating] | None) -> str | None:
    """A map (h, w) as base64 of little-endian float32; None stays None.

    Example:
        >>> encode_grid(np.float32([[0, 1]]))
        'AAAAAAAAgD8='
    """
    return None if grid is None else base64.b64encode(grid.astype("<f4").tobytes()).decode()


def make_index(survey: Survey, run: dict[str, Any], rows: Sequence[Row], max_classes: int) -> dict[str, Any]:
    """What the page reads first: all samples without their maps and pictures, the classes, the colour maps.

    Args:
        survey: the figures of the whole run.
        run: the metadata of the run.
        rows: the samples on the page.
        max_classes: at most so many classes get a mean heatmap.
    """
    judge = Judge(run.get("class_names"))
    return {
        "fields": [*FIELDS, "correct", "expected"],
        "rows": [
            [
                *(row.get(name) for name in FIELDS),
                judge(row.get("label"), row.get("pred"), row.get("pred_name")),
                _is_expected(judge, row),
            ]
            for row in rows
        ],
        "by_label": isinstance((run.get("fingerprint") or {}).get("target"), str),
        "peak": survey.peak,
        "grid": _grid_shape(survey, run),
        "size": run.get("size"),
        "cmaps": {name: _colour_table(name) for name in COLORMAPS},
        "classes": _classes(survey, max_classes),
    }


def _is_expected(judge: Judge, row: Row) -> bool | None:
    """Whether the label names the explained class; None: there is no label or no map."""
    label, target = row.get("label"), row.get("target")
    return None if label is None or target is None else target in judge.classes_of(label)


def _grid_shape(survey: Survey, run: dict[str, Any]) -> Sequence[int] | None:
    known = next((mean.total.shape for mean in survey.classes.values()), None)
    return known or run.get("grid")


def _colour_table(name: str) -> str:
    """256 RGB triples, base64."""
    ramp = np.arange(256, dtype=np.float32)[None] / 255
    return base64.b64encode(colorize(ramp, name).tobytes()).decode()


def _classes(survey: Survey, limit: int) -> list[dict[str, Any]]:
    frequent = sorted(survey.classes.items(), key=lambda item: (-(item[1].count + item[1].blank), item[0]))
    return [
        {
            "target": target,
            "name": mean.name,
            "count": mean.count,
            "blank": mean.blank,
            "mean": encode_grid(mean.total / mean.count) if mean.count else None,
        }
        for target, mean in frequent[:limit]
    ]


def make_block(
    rows: Sequence[Row], pictures: Sequence[Picture], urls: Sequence[str | None]
) -> dict[str, Any]:
    """The maps and pictures of consecutive samples, and why a picture is missing.

    Args:
        rows, pictures: of the samples.
        urls: address of each picture; None: there is none. An image's further rows have the position of its first
            in place of the address, so that it stands there once.
    """
    changed = [_change(row, picture) for row, picture in zip(rows, pictures, strict=True)]
    return {
        "grids": [encode_grid(row["grid"]) for row in rows],
        "pictures": _once([None if note else url for url, note in zip(urls, changed, strict=True)]),
        "notes": [picture.reason or note for picture, note in zip(pictures, changed, strict=True)],
    }


def _once(urls: Sequence[str | None]) -> list[str | int | None]:
    """The addresses, each of which but the first of equal ones after another is the position of the first."""
    first: dict[str, int] = {}
    return [url if url is None or first.setdefault(url, i) == i else first[url] for i, url in enumerate(urls)]


def _change(row: Row, picture: Picture) -> str | None:
    """A sentence if the original has another size than the image that was explained; otherwise None."""
    was, now = (row.get("width"), row.get("height")), (picture.width, picture.height)
    if None in was or None in now or was == now:
        return None
    return f"it has changed since: it was {was[0]} × {was[1]} pixels and is {now[0]} × {now[1]}"  # noqa: RUF001
