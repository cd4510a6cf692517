"""The model and images of the capture's tests."""

from __future__ import annotations

import pytest
from torch import Tensor

from tests.helpers.capture_net import Net, make_images, make_net


@pytest.fixture
def net() -> Net:
    return make_net()


@pytest.fixture
def images() -> Tensor:
    return make_images()
