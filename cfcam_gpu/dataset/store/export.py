"""Results in formats of other programs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from cfcam_gpu._utils.messages import unknown
from cfcam_gpu.dataset.exporters.arrays import write_npz, write_zarr
from cfcam_gpu.dataset.exporters.coco import write_coco
from cfcam_gpu.dataset.exporters.pictures import write_fiftyone, write_png
from cfcam_gpu.dataset.exporters.settings import ExportSettings
from cfcam_gpu.dataset.exporters.tables import write_csv, write_jsonl, write_parquet
from cfcam_gpu.dataset.options import EXPORT_FORMATS
from cfcam_gpu.dataset.store.atomic_files import atomic_folder, os_reason
from cfcam_gpu.dataset.store.results import Results
from cfcam_gpu.errors import ConfigError, InputError
from cfcam_gpu.images.colormaps import check_style


class _Exporter(NamedTuple):
    """Writes results in a format, to a new file or into a folder, and returns the number of rows written."""

    write: Callable[[Results, Path, ExportSettings], int]
    is_file: bool


#: The exporter of each of `EXPORT_FORMATS`.
_EXPORTERS = {
    "npz": _Exporter(write_npz, is_file=True),
    "zarr": _Exporter(write_zarr, is_file=False),
    "fiftyone": _Exporter(write_fiftyone, is_file=False),
    "png": _Exporter(write_png, is_file=False),
    "csv": _Exporter(write_csv, is_file=True),
    "jsonl": _Exporter(write_jsonl, is_file=True),
    "parquet": _Exporter(write_parquet, is_file=True),
    "coco": _Exporter(write_coco, is_file=True),
}


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
            `csv`: a line for each row, with the columns of `schema.COLUMNS` but without the map, and the box in four
            columns; nothing between the commas stands for null. `jsonl`: an object for each row, with the map as
            lists. `parquet`: all rows in one file, the maps as tensors of a fixed shape.
            `coco`: a COCO data set, in which each map that is not blank is an annotation (see
            `exporters.coco`).
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
        >>> import numpy as np
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
        raise InputError(f"{results.store.name} holds no finished part, so there is nothing to export")
    exporter, settings = _EXPORTERS[to], ExportSettings(size, cmap)
    try:
        if exporter.is_file:
            return exporter.write(results, destination, settings)
        with atomic_folder(destination) as folder:
            return exporter.write(results, folder, settings)
    except OSError as error:
        raise InputError(f"cannot write {destination}: {os_reason(error)}") from error
