"""Arrays over all rows: npz and Zarr. Of the maps, those of one part are in memory at a time."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cfcam_gpu._utils.optional import require
from cfcam_gpu.dataset.exporters.settings import ExportSettings
from cfcam_gpu.dataset.store.atomic_files import atomic_file
from cfcam_gpu.dataset.store.results import Results
from cfcam_gpu.dataset.store.schema import ColumnName, table_maps
from cfcam_gpu.images.overlay import upsample_grid

#: Columns of numbers that become arrays -> their type, and the value that stands for null.
_ARRAYS: dict[ColumnName, tuple[Any, Any]] = {
    "target": (np.int32, -1), "target_prob": (np.float32, np.nan), "pred": (np.int32, -1),
    "prob": (np.float32, np.nan), "n_clusters": (np.int32, -1), "noise_fraction": (np.float32, np.nan),
    "blank": (np.bool_, False), "heatmap_max": (np.float32, np.nan),
}  # fmt: skip
#: Columns of text that become arrays; null becomes "".
_TEXTS: tuple[ColumnName, ...] = ("sample_id", "uri", "status", "label")


def write_npz(results: Results, destination: Path, settings: ExportSettings) -> int:
    """Writes an npz file; returns the number of rows."""
    size = settings.size or results.size
    count = len(results)
    with atomic_file(destination) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, shape in (("heatmap", size), ("grid", results.map_shape)):
            header = {"descr": "<f4", "fortran_order": False, "shape": (count, *shape)}
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_2_0(member, header)
                for block in _blocks(results, name, shape):
                    member.write(np.ascontiguousarray(block).tobytes())
        for name, column in _columns(results).items():
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, column, allow_pickle=False)
    return count


def write_zarr(results: Results, destination: Path, settings: ExportSettings) -> int:
    """Writes a Zarr group into a folder; returns the number of rows."""
    size = settings.size or results.size
    zarr = require("zarr", "zarr")
    count = len(results)
    group = zarr.open_group(str(destination), mode="w", attributes={"cfcam": results.run["fingerprint"]})
    for name, shape in (("heatmap", size), ("grid", results.map_shape)):
        chunks = (min(64, count), *shape)
        array = group.create_array(name, shape=(count, *shape), chunks=chunks, dtype="float32")
        row = 0
        for block in _blocks(results, name, shape):
            array[row : row + len(block)] = block
            row += len(block)
    for name, column in _columns(results).items():
        if column.dtype.kind == "U":  # the format has no texts of fixed length
            group.create_array(name, shape=column.shape, dtype=str)[:] = column.astype(object)
        else:
            group.create_array(name, data=column)
    return count


def _blocks(results: Results, name: str, shape: tuple[int, int]) -> Iterator[np.ndarray]:
    """The heatmaps or grids of each part, (n, *shape) float32, zeros for failed samples."""
    for table in results.tables(["grid"]):
        block = np.zeros((len(table), *shape), np.float32)
        for place, grid in zip(block, table_maps(table), strict=True):
            if grid is not None:
                place[:] = upsample_grid(grid, shape) if name == "heatmap" else grid
        yield block


def _columns(results: Results) -> dict[ColumnName, np.ndarray]:
    table = results.table([*_TEXTS, *_ARRAYS])
    texts = {name: np.array(table[name].fill_null("").to_pylist(), dtype=np.str_) for name in _TEXTS}
    numbers = {
        name: np.array([null if value is None else value for value in table[name].to_pylist()], dtype)
        for name, (dtype, null) in _ARRAYS.items()
    }
    return texts | numbers
