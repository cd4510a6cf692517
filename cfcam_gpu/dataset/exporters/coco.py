"""A COCO data set file: where the maps say the explained classes are.

A heatmap is no detection. Its box is the one that weakly supervised localisation takes (Zhou et al. 2016, Learning Deep
Features for Discriminative Localization): the box around the largest connected region of at least 20 % of the map's
maximum. Regions of one object that the map separates, or two objects that it joins, make one box.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from cfcam_gpu.dataset.exporters.json_lists import write_entries
from cfcam_gpu.dataset.exporters.settings import ExportSettings
from cfcam_gpu.dataset.store.atomic_files import atomic_file
from cfcam_gpu.dataset.store.results import Results
from cfcam_gpu.dataset.store.schema import Row
from cfcam_gpu.images.overlay import upsample_grid

#: Share of the map's maximum from which a place belongs to the box's region.
_THRESHOLD = 0.2


def write_coco(results: Results, destination: Path, _settings: ExportSettings) -> int:
    """Writes a COCO data set file; returns the number of annotations.

    `images`: those that were decoded, numbered from 1, with `file_name` (the sample's id), `width` and `height`.
    `categories`: the explained classes; `id` is the class index.
    `annotations`: one for each map that is not blank, numbered from 1: `image_id`, `category_id`, `bbox`
    [x, y, width, height] in pixels of the upright original, `area` of that box, `score` (the class's probability,
    0 to 1) and `peak` ([x, y] of the map's maximum).
    With the `image_id` of another file they are what COCO calls results.
    """
    numbers: dict[str, int] = {}
    names: dict[int, str | None] = {}
    with atomic_file(destination) as file:
        file.write(b'{"info": {"description": "boxes around the regions that class activation maps mark"},\n')
        _write_list(file, "images", _images(results, numbers))
        count = _write_list(file, "annotations", _annotations(results, numbers, names))
        _write_list(file, "categories", iter(_categories(names)), end=b"}\n")
    return count


def _write_list(file: BinaryIO, name: str, entries: Iterator[dict[str, Any]], end: bytes = b",\n") -> int:
    """Writes a key and its list, an entry a line; the number of entries."""
    file.write(f'"{name}": '.encode())
    count = write_entries(file, entries)
    file.write(b"]" + end)
    return count


def _images(results: Results, numbers: dict[str, int]) -> Iterator[dict[str, Any]]:
    """The images; `numbers` gets their ids by the id of the sample."""
    for row in results.rows(["sample_id", "width", "height"]):
        sample_id = row["sample_id"]
        if row["width"] is not None and sample_id not in numbers:
            numbers[sample_id] = len(numbers) + 1
            size = {"width": row["width"], "height": row["height"]}
            yield {"id": numbers[sample_id], "file_name": sample_id, **size}


def _annotations(
    results: Results, numbers: dict[str, int], names: dict[int, str | None]
) -> Iterator[dict[str, Any]]:
    """The annotations; `names` gets the names of their classes by index."""
    columns = results.rows(
        ["sample_id", "target", "target_name", "target_prob", "grid", "width", "height", "box"]
    )
    number = 0
    for row in columns:
        marked = None if row["grid"] is None else marked_box(row, results.size)
        if marked is None or row["target"] is None:
            continue
        number += 1
        names.setdefault(row["target"], row["target_name"])
        box, peak = marked
        yield {
            "id": number,
            "image_id": numbers[row["sample_id"]],
            "category_id": row["target"],
            "bbox": box,
            "area": round(box[2] * box[3], 2),
            "iscrowd": 0,
            "score": row["target_prob"],
            "peak": peak,
        }


def _categories(names: dict[int, str | None]) -> list[dict[str, Any]]:
    return [{"id": index, "name": names[index] or f"class {index}"} for index in sorted(names)]


def marked_box(row: Row, size: tuple[int, int]) -> tuple[list[float], list[float]] | None:
    """The box [x, y, width, height] of a map's largest region, and [x, y] of its maximum, in pixels of the original.

    None: the map is blank, or the region lies outside the original.

    Args:
        row: with grid, box, width and height.
        size: (H, W) of the model's input.

    Example:
        >>> grid = np.zeros((4, 4), np.float32)
        >>> grid[1:3, 2:] = 1.0
        >>> marked_box({"grid": grid, "box": [0, 0, 40, 20], "width": 40, "height": 20}, (4, 4))
        ([20.0, 5.0, 20.0, 10.0], [25.0, 7.5])
    """
    grid = row["grid"]
    if grid is None or not grid.max() > 0:
        return None
    heatmap = upsample_grid(grid, size)
    y, x = np.unravel_index(heatmap.argmax(), heatmap.shape)
    top, bottom, left, right = _region(heatmap >= _THRESHOLD * heatmap.max())
    x0, x1, peak_x = _on_original(row, 0, size, (left, right, x + 0.5))
    y0, y1, peak_y = _on_original(row, 1, size, (top, bottom, y + 0.5))
    if x1 <= x0 or y1 <= y0:
        return None
    return [x0, y0, round(x1 - x0, 2), round(y1 - y0, 2)], [peak_x, peak_y]


def _region(mask: npt.NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Top, bottom, left and right edge of the largest connected region (of 8 neighbours)."""
    import cv2

    _, _, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    left, top, width, height, _ = max(statistics[1:], key=lambda one: one[cv2.CC_STAT_AREA])
    return int(top), int(top + height), int(left), int(left + width)


def _on_original(row: Row, axis: int, size: tuple[int, int], places: tuple[float, ...]) -> list[float]:
    """Places on the model's view along x (axis 0) or y (1), as places on the original, none outside of it."""
    box, length = row["box"], row["height"] if axis else row["width"]
    assert box is not None
    assert length is not None
    start, end = box[axis], box[axis + 2]
    scale = (end - start) / size[1 - axis]
    return [round(float(np.clip(start + place * scale, 0, length)), 2) for place in places]
