"""A picture for each map: coloured PNG, and gray ones with a file that FiftyOne's users read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cfcam_gpu.dataset.exporters.json_lists import write_entries
from cfcam_gpu.dataset.exporters.settings import ExportSettings
from cfcam_gpu.dataset.sources.sample import split_uri
from cfcam_gpu.dataset.store.atomic_files import atomic_file, write_atomically
from cfcam_gpu.dataset.store.results import Results
from cfcam_gpu.dataset.store.schema import Row
from cfcam_gpu.images.encode import encode_image
from cfcam_gpu.images.overlay import colorize

#: FiftyOne resolves relative paths of media in the folders `fields/FIELD`.
_HEATMAPS = "fields/heatmap"


def write_png(results: Results, destination: Path, settings: ExportSettings) -> int:
    """Writes coloured heatmaps into a folder; returns their number."""
    written = 0
    for name, row in _explained(results):
        pixels = colorize(results.heatmap(row, "original"), settings.cmap)
        write_atomically(destination / f"{name}_heatmap.png", encode_image(pixels, "png"))
        written += 1
    return written


def write_fiftyone(results: Results, destination: Path, _settings: ExportSettings) -> int:
    """Writes gray heatmaps and samples.json, a `FiftyOneDataset`, into a folder; returns the number of maps."""

    def entries() -> Iterator[dict[str, Any]]:
        for name, row in _explained(results):
            map_path = f"{_HEATMAPS}/{name}.png"
            gray = np.rint(results.heatmap(row, "original") * 255).astype(np.uint8)
            write_atomically(destination / map_path, encode_image(gray, "png"))
            yield _entry(row, map_path)

    with atomic_file(destination / "samples.json") as file:
        file.write(b'{"samples": ')
        written = write_entries(file, entries())
        file.write(b"\n]}\n")
    return written


def _entry(row: Row, map_path: str) -> dict[str, Any]:
    scheme, parts = split_uri(row["uri"])
    return {
        "filepath": parts[0] if scheme == "file" else row["uri"],
        "sample_id": row["sample_id"],
        "ground_truth": None if row["label"] is None else _label("Classification", label=row["label"]),
        "prediction": _label("Classification", label=row["pred_name"], confidence=row["prob"]),
        "heatmap": _label("Heatmap", map_path=map_path, range=[0, 255], target=row["target_name"]),
    }


def _label(kind: str, **content: Any) -> dict[str, Any]:
    """A label as FiftyOne stores one; by `_cls` it knows the kind."""
    return {"_cls": kind, **content}


def _explained(results: Results) -> Iterator[tuple[str, Row]]:
    """Names and rows of the samples that have a map."""
    return ((name, row) for name, row in results.named_rows() if row["grid"] is not None)
