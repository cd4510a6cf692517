"""The public names of the package."""

from __future__ import annotations

import inspect
import types

import cfcam_gpu
from cfcam_gpu import errors


def test_every_public_name_can_be_imported_and_is_listed():
    for name in cfcam_gpu.__all__:
        assert getattr(cfcam_gpu, name).__class__ is not types.ModuleType
        assert name in dir(cfcam_gpu)


def test_every_error_is_public_and_has_one_base():
    classes = {name: value for name, value in vars(errors).items() if inspect.isclass(value)}
    assert set(classes) <= set(cfcam_gpu.__all__)
    for name, value in classes.items():
        assert issubclass(value, errors.CFCAMError)
        assert getattr(cfcam_gpu, name) is value
