"""A run with everything that an export must hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cfcam_gpu.dataset import Results, open_results
from tests.helpers.stored_run import failed_row, made_row, write_store


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """Two maps of one image, a blank one, an image that is no image, and texts that need quotes."""
    grid = np.zeros((7, 7), np.float32)
    grid[1:3, 4:6] = 0.1
    hostile = 'a, "b"\n=1+1'
    rows = [
        made_row(
            0, grid=grid, heatmap_max=0.1, label="cat|dog", target=3, target_name="cat", target_prob=0.3
        ),
        made_row(0, target=5, target_name=None, box=[-50, 0, 450, 300], label="cat|dog"),
        made_row(1, grid=np.zeros((7, 7), np.float32), blank=True, heatmap_max=0.0),
        failed_row(2, "decode", "ImageError", hostile),
    ]
    return open_results(write_store(tmp_path / "run", rows, part_size=2))
