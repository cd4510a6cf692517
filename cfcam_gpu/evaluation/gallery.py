"""Some images with their maps by all methods, for the eye."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from cfcam_gpu.dataset.sources.open_image import open_image
from cfcam_gpu.dataset.store.schema import Row, table_to_rows
from cfcam_gpu.errors import ImageError
from cfcam_gpu.evaluation.store import MethodRow
from cfcam_gpu.images.overlay import draw_overlay, upsample_grid

Pixels = npt.NDArray[np.uint8]

#: Letters of a caption's lines.
CAPTION = 20


@dataclass(frozen=True)
class Cell:
    """A picture (H,W,3) uint8 or None, what stands below it, and what stands on it."""

    pixels: Pixels | None
    caption: str = ""
    note: str = ""


def gallery(
    table: pa.Table, methods: Sequence[str], view: Callable[[Image.Image], Pixels], count: int
) -> list[list[Cell]]:
    """At most `count` rows of the photo and, by method, its map over it."""
    found = defaultdict[str, dict[str, Row]](dict)
    wanted = ["sample_id", "method", "uri", "target_name", "target_prob", "blank", "grid"]
    chosen = choose(table.select([*wanted, "status"]), methods, count)
    for row in cast(list[MethodRow], table_to_rows(chosen)):
        found[row["sample_id"]][str(row["method"])] = row
    return [_cells(rows, methods, view) for rows in found.values()]


def choose(table: pa.Table, methods: Sequence[str], count: int) -> pa.Table:
    """The good rows of images spread evenly over the run; images that all methods explained come first."""
    good = pc.and_(pc.equal(table["status"], "ok"), pc.is_in(table["method"], pa.array(methods, pa.string())))
    seen = Counter(table["sample_id"].filter(good).to_pylist())
    most = max(seen.values(), default=0)
    names = [name for name, times in seen.items() if times == most]
    places = np.linspace(0, len(names) - 1, min(count, len(names))).round().astype(int)
    chosen = pa.array([names[place] for place in places], pa.string())
    return table.filter(pc.and_(good, pc.is_in(table["sample_id"], chosen)))


def _cells(rows: dict[str, Row], methods: Sequence[str], view: Callable[[Image.Image], Pixels]) -> list[Cell]:
    first = next(iter(rows.values()))
    caption = f"{_end(first['sample_id'])}\n{_class(first)}"
    try:
        photo = view(open_image(first["uri"]))
    except ImageError as error:
        return [Cell(None, caption, f"cannot be shown: {error}"), *(Cell(None) for _ in methods)]
    return [Cell(photo, caption), *(_cell(photo, rows.get(method)) for method in methods)]


def _cell(photo: Pixels, row: Row | None) -> Cell:
    if row is None or row["grid"] is None:
        return Cell(None, note="no map")
    heatmap = upsample_grid(row["grid"], (photo.shape[0], photo.shape[1]))
    return Cell(draw_overlay(photo, heatmap, alpha=0.5), note="blank" if row["blank"] else "")


def _class(row: Row) -> str:
    share = "" if row["target_prob"] is None else f" {row['target_prob']:.0%}"
    return f"{_start(row['target_name'] or '', CAPTION - len(share))}{share}"


def _start(text: str, letters: int) -> str:
    plain = _plain(text)
    return plain if len(plain) <= letters else f"{plain[: letters - 1]}…"


def _end(text: str) -> str:
    """The end of a long name: folders come first."""
    plain = _plain(text)
    return plain if len(plain) <= CAPTION else f"…{plain[1 - CAPTION :]}"


def _plain(text: str) -> str:
    """Nothing in a name breaks a line."""
    return "".join(letter if letter.isprintable() else "�" for letter in text)
