"""Public names of a package that are imported at their first use."""

from __future__ import annotations

import pytest

import cfcam_gpu
from cfcam_gpu import cfcam
from cfcam_gpu.cfcam.maps import Maps


def test_a_name_is_the_one_of_its_module():
    assert cfcam.Maps is Maps
    assert set(cfcam.__all__) <= set(dir(cfcam))
    assert [getattr(cfcam, name).__name__ for name in cfcam.__all__] == list(cfcam.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'cfcam_gpu' has no attribute 'CFCM'"):
        _ = cfcam_gpu.CFCM
