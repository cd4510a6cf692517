"""Every file of the zoo comes out as the pixels that it means, or fails with what it is."""

from __future__ import annotations

import numpy as np
import pytest

from cfcam_gpu.errors import ImageError
from cfcam_gpu.images.decode import load_image_bytes
from tests.helpers.zoo import ZOO, Case

pytest.importorskip("pydicom", reason="the extra dicom is not installed")


def _fault(case: Case) -> str | None:
    try:
        image = np.asarray(load_image_bytes(case.content, value_range=case.value_range))
    except ImageError as error:
        if isinstance(case.expected, str) and str(error).startswith(case.expected):
            return None
        return f"{case.name}: {error}"
    if isinstance(case.expected, str):
        return f"{case.name}: read, expected {case.expected!r}"
    if image.shape != case.expected.shape:
        return f"{case.name}: shape {image.shape}, expected {case.expected.shape}"
    difference = float(np.abs(image - case.expected).max())
    return f"{case.name}: off by {difference:.3g}" if difference > case.tolerance else None


@pytest.mark.parametrize("kind", ZOO)
def test_every_file_is_read_as_it_is_meant(kind: str) -> None:
    faults = [fault for case in ZOO[kind]() if (fault := _fault(case))]
    assert not faults


def test_the_zoo_is_large() -> None:
    names = [case.name for make in ZOO.values() for case in make()]
    assert len(names) == len(set(names)) >= 1200
