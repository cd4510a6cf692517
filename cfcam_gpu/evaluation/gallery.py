"""A few images with the heatmaps of all methods over them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
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

#: Most letters in a line of a caption.
_CAPTION = 20


@dataclass(frozen=True)
class Picture:
    """A picture of the gallery.

    Attributes:
        pixels: (H,W,3) uint8; None where it cannot be shown.
        caption: text below it.
        note: text on it.

    Example:
        >>> Picture(None, note="no map").caption
        ''
    """

    pixels: Pixels | None
    caption: str = ""
    note: str = ""


def gallery(
    table: pa.Table,
    methods: Sequence[str],
    view: Callable[[Image.Image], Pixels],
    count: int,
    open_original: Callable[[str], Image.Image] = open_image,
) -> list[list[Picture]]:
    """At most `count` lists of pictures: the image, then the heatmap of each method over it.

    Args:
        table: as for `write_plots`.
        view: from an image to what the model sees of it, (H,W,3) uint8.
        open_original: opens an image by its URI.
    """
    by_image = defaultdict[str, dict[str, Row]](dict)
    names = ["sample_id", "method", "uri", "target_name", "target_prob", "blank", "grid"]
    chosen = choose_images(table.select([*names, "status"]), methods, count)
    for row in cast(list[MethodRow], table_to_rows(chosen)):
        by_image[row["sample_id"]][str(row["method"])] = row
    return [_pictures(rows, methods, lambda uri: view(open_original(uri))) for rows in by_image.values()]


def choose_images(table: pa.Table, methods: Sequence[str], count: int) -> pa.Table:
    """The rows of at most `count` images, spread evenly over the run, by the methods that explained them.

    The images are chosen among those that the most methods explained.

    Example:
        >>> ids, ok = ["a", "b", "c", "d", "e"], ["ok"] * 5
        >>> table = pa.table({"sample_id": ids, "status": ok, "method": ["cfcam"] * 5})
        >>> choose_images(table, ["cfcam"], 3)["sample_id"].to_pylist()
        ['a', 'c', 'e']
    """
    chosen = pa.array(choose_ids(lambda: [table], methods, count), pa.string())
    return table.filter(pc.and_(_explained(table, methods), pc.is_in(table["sample_id"], chosen)))


def choose_ids(read: Callable[[], Iterable[pa.Table]], methods: Sequence[str], count: int) -> list[str]:
    """The ids of the images that `choose_images` chooses, of tables that are never in memory together.

    Args:
        read: called twice; tables with the columns `sample_id`, `status` and `method`, each with all rows of its
            images.

    Example:
        >>> table = pa.table({"sample_id": ["a", "b", "b"], "status": ["ok"] * 3, "method": ["x", "x", "y"]})
        >>> choose_ids(lambda: [table], ["x", "y"], 3)
        ['b']
    """
    images = Counter[int]()  # by the number of methods that explained them
    for table in read():
        images.update(_methods_of_images(table, methods).values())
    most = max(images, default=0)
    positions = np.linspace(0, images[most] - 1, min(count, images[most])).round()
    ids = (
        sample_id
        for table in read()
        for sample_id, number in _methods_of_images(table, methods).items()
        if number == most
    )
    return [sample_id for position, sample_id in enumerate(ids) if position in positions]


def _methods_of_images(table: pa.Table, methods: Sequence[str]) -> Counter[str]:
    """How many of the methods explained each image."""
    return Counter(table["sample_id"].filter(_explained(table, methods)).to_pylist())


def _explained(table: pa.Table, methods: Sequence[str]) -> pa.ChunkedArray:
    return pc.and_(pc.equal(table["status"], "ok"), pc.is_in(table["method"], pa.array(methods, pa.string())))


def _pictures(
    rows: dict[str, Row], methods: Sequence[str], view_of: Callable[[str], Pixels]
) -> list[Picture]:
    first = next(iter(rows.values()))
    caption = f"{_end(first['sample_id'])}\n{_class(first)}"
    try:
        photo = view_of(first["uri"])
    except ImageError as error:
        return [Picture(None, caption, f"cannot be shown: {error}"), *(Picture(None) for _ in methods)]
    return [Picture(photo, caption), *(_heatmap(photo, rows.get(method)) for method in methods)]


def _heatmap(photo: Pixels, row: Row | None) -> Picture:
    if row is None or row["grid"] is None:
        return Picture(None, note="no map")
    heatmap = upsample_grid(row["grid"], (photo.shape[0], photo.shape[1]))
    return Picture(draw_overlay(photo, heatmap, alpha=0.5), note="blank" if row["blank"] else "")


def _class(row: Row) -> str:
    share = "" if row["target_prob"] is None else f" {row['target_prob']:.0%}"
    return f"{_start(row['target_name'] or '', _CAPTION - len(share))}{share}"


def _start(text: str, letters: int) -> str:
    plain = _plain(text)
    return plain if len(plain) <= letters else f"{plain[: letters - 1]}…"


def _end(text: str) -> str:
    """The end of a long name, which tells it apart: folders come first."""
    plain = _plain(text)
    return plain if len(plain) <= _CAPTION else f"…{plain[1 - _CAPTION :]}"


def _plain(text: str) -> str:
    """The text without characters that would break a line."""
    return "".join(letter if letter.isprintable() else "�" for letter in text)
