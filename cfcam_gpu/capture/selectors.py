"""Targets that are chosen by the logits of the same forward pass.

The likeliest classes, those above a threshold, or the likeliest beside given ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cfcam_gpu._utils.device import copied_to
from cfcam_gpu.capture.scoring import probabilities
from cfcam_gpu.errors import ConfigError, TargetError


@dataclass(frozen=True)
class TopK:
    """The k classes of the highest logits, the likeliest first; of equal logits the lower index.

    Raises:
        ConfigError: k is not a positive integer.

    Example:
        >>> TopK(2).choose(torch.tensor([[0.5, 2.0, 1.0]]), "softmax")
        (tensor([[1, 2]]), None)
    """

    k: int

    def __post_init__(self) -> None:
        if not isinstance(self.k, int) or isinstance(self.k, bool) or self.k < 1:
            raise ConfigError(f"the number of likeliest classes must be at least 1, got {self.k!r}")

    def choose(self, logits: Tensor, _activation: str) -> tuple[Tensor, Tensor | None]:
        """The classes (B,k) int64 of logits (B,classes).

        Raises:
            TargetError: the model has fewer classes.
        """
        if self.k > logits.shape[1]:
            raise TargetError(
                f"the {self.k} likeliest classes are asked for, but the model has {logits.shape[1]}"
            )
        return _likeliest(logits, self.k), None


@dataclass(frozen=True)
class Above:
    """Every class whose probability is above a threshold, the likeliest first; where none is, the likeliest alone.

    Raises:
        ConfigError: a threshold outside [0, 1).

    Example:
        >>> Above(0.5).choose(torch.tensor([[1.0, 2.0, -1.0], [-2.0, -3.0, -1.0]]), "sigmoid")
        (tensor([[1, 0],
                [2, 2]]), tensor([[False, False],
                [False,  True]]))
    """

    threshold: float = 0.5

    def __post_init__(self) -> None:
        number = isinstance(self.threshold, (int, float)) and not isinstance(self.threshold, bool)
        if not number or not 0 <= self.threshold < 1:
            raise ConfigError(
                f"the threshold of a probability must be at least 0 and below 1, got {self.threshold!r}"
            )

    def choose(self, logits: Tensor, activation: str) -> tuple[Tensor, Tensor]:
        """The classes (B,K) int64 of logits (B,classes), K of the image with the most; waits for the device.

        Returns:
            The classes, in absent places the image's first one; and which places are absent, (B,K) bool.
        """
        counts = (probabilities(logits, activation) > self.threshold).sum(1).clamp_min(1)
        classes = _likeliest(logits, int(counts.amax()))
        absent = torch.arange(classes.shape[1], device=logits.device) >= counts[:, None]
        return torch.where(absent, classes[:, :1], classes), absent


@dataclass(frozen=True)
class LikeliestAnd:
    """The likeliest class of each image, then those of the image's given classes that differ from it.

    Attributes:
        others: for each image the classes given, any number of them.

    Example:
        >>> LikeliestAnd(((0,), (1,))).choose(torch.tensor([[1.0, 2.0], [0.0, 3.0]]), "softmax")
        (tensor([[1, 0],
                [1, 1]]), tensor([[False, False],
                [False,  True]]))
    """

    others: tuple[tuple[int, ...], ...]

    def choose(self, logits: Tensor, _activation: str) -> tuple[Tensor, Tensor | None]:
        """The classes (B,K) int64 of logits (B,classes), K of the image with the most given classes and one more.

        Returns:
            The classes, in absent places the image's likeliest one; and which places are absent, (B,K) bool.

        Raises:
            TargetError: not one tuple for each image, or a class that the model does not have.
        """
        if len(self.others) != len(logits):
            raise TargetError(f"expected classes for {len(logits)} images, got {len(self.others)}")
        for index in (index for row in self.others for index in row):
            if not 0 <= index < logits.shape[1]:
                raise TargetError(
                    f"targets must be from 0 to {logits.shape[1] - 1} for this model, got {index}"
                )
        likeliest = _likeliest(logits, 1)
        longest = max(map(len, self.others), default=0)
        if longest == 0:
            return likeliest, None
        rows = [[*row, *[-1] * (longest - len(row))] for row in self.others]
        given = copied_to(torch.tensor(rows), logits.device)
        absent = (given < 0) | (given == likeliest)
        first = torch.zeros_like(likeliest, dtype=torch.bool)
        return torch.cat([likeliest, torch.where(absent, likeliest, given)], 1), torch.cat([first, absent], 1)


#: What chooses targets by the logits.
Selector = TopK | Above | LikeliestAnd


def _likeliest(logits: Tensor, count: int) -> Tensor:
    return logits.argsort(dim=1, descending=True, stable=True)[:, :count]
