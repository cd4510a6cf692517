"""A small classifier with a module that is called twice, and in-place operations."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Net(nn.Module):
    """Two convolutions, an in-place ReLU after each (one module, called twice), a pooled head."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.bn2 = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(8, classes)
        self.unused = nn.Conv2d(8, 8, 1)

    def features(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).mean((2, 3)))


def make_net() -> Net:
    """The network in eval mode, with statistics in its norms that change the features."""
    torch.manual_seed(0)
    model = Net()
    model.bn1.get_buffer("running_mean").normal_()
    model.bn2.get_buffer("running_var").uniform_(0.5, 2)
    return model.eval()


def make_images() -> Tensor:
    """(3,3,12,10) float32."""
    return torch.randn(3, 3, 12, 10, generator=torch.Generator().manual_seed(1))
