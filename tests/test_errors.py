"""Errors travel between processes."""

from __future__ import annotations

import pickle

import pytest

from cfcam_gpu import errors
from cfcam_gpu.dataset.execution.observer import Interrupted

PLAIN = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.CFCAMError) and "__init__" not in vars(kind)
]


@pytest.mark.parametrize(
    "error",
    [
        errors.InvalidImagesError({2: "the gradients contain NaN or Inf"}),
        errors.ModelFailedError("the model failed", "run it by itself"),
        Interrupted(15),
        *(kind("what was expected, got another") for kind in PLAIN),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_can_be_pickled(error):
    same = pickle.loads(pickle.dumps(error))
    assert type(same) is type(error)
    assert str(same) == str(error)
    assert vars(same) == vars(error)


def test_all_errors_of_the_package_are_tested():
    assert len(PLAIN) >= 12
