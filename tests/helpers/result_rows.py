"""A row of an explained sample and one of a failed sample, for tests of stores."""

from __future__ import annotations

import numpy as np

from cfcam_gpu.dataset.store.schema import COLUMNS, Row

MAP_SHAPE = (2, 3)

GOOD: Row = {
    "sample_id": "a/ü.jpg", "uri": "/data/a/ü.jpg", "status": "ok", "label": "7", "target": 2,
    "target_name": "cat", "target_prob": 0.25, "pred": 1, "pred_name": "bee", "prob": 0.5, "n_clusters": 3,
    "noise_fraction": 0.125, "blank": False, "grid": np.arange(6, dtype=np.float32).reshape(MAP_SHAPE),
    "heatmap_max": 5.0, "width": 60, "height": 45, "box": [0.0, 1.5, 60.0, 45.0], "overlay": "a/ü_cfcam.png",
}  # fmt: skip
BAD: Row = {
    "sample_id": "b", "uri": "/data/b", "status": "error", "stage": "decode", "error_type": "ImageError",
    "message": "empty file",
}  # fmt: skip


def assert_rows(found: list[Row], expected: list[Row]) -> None:
    """The rows with null for what was absent."""
    for row, same in zip(found, expected, strict=True):
        np.testing.assert_equal(row, {name: same.get(name) for name in COLUMNS})
