"""A run of photos with everything that can go wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from cfcam_gpu.models import LoadedModel
from tests.helpers.stored_run import (
    demo_rows,
    write_store,
)


@pytest.fixture(scope="package")
def demo(lite0: LoadedModel, photos: list[Image.Image], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    names = list(lite0.class_names or ())
    return write_store(folder / "results", demo_rows(lite0, photos, folder / "photos"), names)
