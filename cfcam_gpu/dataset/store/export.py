"""Results in formats of other programs. Of the maps, those of one part are in memory at a time."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cfcam_gpu._utils.messages import unknown
from cfcam_gpu._utils.optional import require
from cfcam_gpu.dataset.options import EXPORT_FORMATS
from cfcam_gpu.dataset.sources.sample import split_uri
from cfcam_gpu.dataset.store.atomic_files import atomic_file, atomic_folder, os_reason, write_atomically
from cfcam_gpu.dataset.store.results import Results
from cfcam_gpu.dataset.store.schema import ColumnName, Row, table_maps
from cfcam_gpu.errors import ConfigError, InputError
from cfcam_gpu.images.colormaps import check_style
from cfcam_gpu.images.encode import encode_image
from cfcam_gpu.images.overlay import colorize, upsample_grid

#: Columns of numbers that become arrays -> their type, and the value that stands for null.
_ARRAYS: dict[ColumnName, tuple[Any, Any]] = {
    "target": (np.int32, -1), "target_prob": (np.float32, np.nan), "pred": (np.int32, -1),
    "prob": (np.float32, np.nan), "n_clusters": (np.int32, -1), "noise_fraction": (np.float32, np.nan),
    "blank": (np.bool_, False), "heatmap_max": (np.float32, np.nan),
}  # fmt: skip
#: Columns of text that become arrays; null becomes "".
_TEXTS: tuple[ColumnName, ...] = ("sample_id", "uri", "status", "label")


def export(
    results: Results,
    to: str,
    destination: str | Path,
    *,
    size: tuple[int, int] | None = None,
    cmap: str = "inferno",
) -> int:
    """Writes the results in a format; returns the number of rows written, one for each sample and explained class.

    Args:
        to: one of `cfcam_gpu.dataset.options.EXPORT_FORMATS`.
            `npz`, `zarr`: arrays over all rows: `heatmap` (N, H, W) float32 in [0, 1], `grid` (N, h, w)
            float32 at raw scale, both zero for failed samples, and columns, where -1, NaN or "" stands for null.
            `png`: for each row with a map a coloured heatmap with the original's size.
            `fiftyone`: for each row with a map a gray heatmap with the original's size; samples.json
            lists filepath, label, prediction and the heatmap's map_path.
            Names of pictures end with the class where several classes of a sample are explained.
        destination: the file or folder to write, which must not exist; after an error it still does not.
        size: (H, W) of the heatmaps of npz and zarr; None: the model's input size.
        cmap: colours of png, one of `colormaps.COLORMAPS`.

    Raises:
        ConfigError: an unknown format or colour map.
        InputError: the destination exists or cannot be written, or there are no results.
        MissingPackageError: the format needs a package that is not installed.

    Example:
        >>> import tempfile
        >>> from cfcam_gpu.dataset.sources.sample import Sample
        >>> from cfcam_gpu.dataset.store.results import open_results
        >>> from cfcam_gpu.dataset.store.store import Store
        >>> store = Store(Path(tempfile.mkdtemp()) / "out")
        >>> store.write_run({"grid": [1, 2], "size": [2, 4]})
        >>> _ = store.write_plan([Sample("a", "/a.png")], part_size=1)
        >>> row = {"sample_id": "a", "uri": "/a.png", "status": "ok", "grid": np.float32([[0, 3]])}
        >>> store.write_part(0, [row], map_shape=(1, 2))
        >>> export(open_results(store.out), "npz", store.out / "maps.npz")
        1
        >>> np.load(store.out / "maps.npz")["heatmap"].shape
        (1, 2, 4)
    """
    destination = Path(destination)
    if to not in EXPORT_FORMATS:
        raise ConfigError(unknown("format", to, EXPORT_FORMATS))
    check_style(cmap, 0)
    if os.path.lexists(destination):
        raise InputError(f"{destination} exists; name a file or folder that does not")
    if not len(results):
        raise InputError(f"{results.store.out} holds no finished part, so there is nothing to export")
    try:
        if to == "npz":
            return _npz(results, destination, size or results.size)
        with atomic_folder(destination) as folder:
            if to == "zarr":
                return _zarr(results, folder, size or results.size)
            return _png(results, folder, cmap) if to == "png" else _fiftyone(results, folder)
    except OSError as error:
        raise InputError(f"cannot write {destination}: {os_reason(error)}") from error


def _npz(results: Results, destination: Path, size: tuple[int, int]) -> int:
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


def _zarr(results: Results, destination: Path, size: tuple[int, int]) -> int:
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


def _png(results: Results, destination: Path, cmap: str) -> int:
    written = 0
    for name, row in _explained(results):
        pixels = colorize(results.heatmap(row, "original"), cmap)
        write_atomically(destination / f"{name}_heatmap.png", encode_image(pixels, "png"))
        written += 1
    return written


def _fiftyone(results: Results, destination: Path) -> int:
    written = 0
    with atomic_file(destination / "samples.json") as file:
        file.write(b'{"samples": [')
        for name, row in _explained(results):
            map_path = f"heatmaps/{name}.png"
            gray = np.rint(results.heatmap(row, "original") * 255).astype(np.uint8)
            write_atomically(destination / map_path, encode_image(gray, "png"))
            entry = json.dumps(_entry(row, map_path), allow_nan=False)
            file.write((",\n" if written else "\n").encode() + entry.encode())
            written += 1
        file.write(b"\n]}\n")
    return written


def _entry(row: Row, map_path: str) -> dict[str, Any]:
    scheme, parts = split_uri(row["uri"])
    return {
        "filepath": parts[0] if scheme == "file" else row["uri"],
        "sample_id": row["sample_id"],
        "ground_truth": None if row["label"] is None else {"label": row["label"]},
        "prediction": {"label": row["pred_name"], "confidence": row["prob"]},
        "heatmap": {"map_path": map_path, "range": [0, 255], "target": row["target_name"]},
    }


def _explained(results: Results) -> Iterator[tuple[str, Row]]:
    """Names and rows of the samples that have a map."""
    return ((name, row) for name, row in results.named_rows() if row["grid"] is not None)
