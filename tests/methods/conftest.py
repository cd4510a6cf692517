"""The model and images of the methods' tests."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.helpers.method_cases import Deeper


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return Deeper().eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 3 - 1
