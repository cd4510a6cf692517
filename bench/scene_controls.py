"""What each step of cfcam-sharp contributes: the method with one step replaced by one that knows nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from torch import Tensor

from cfcam_gpu.methods import sharp

#: Groups of channels, as many as the prototype of the method had.
GROUPS = 16

_agreeing, _spread = sharp._agreeing, sharp._spread


def _replaced(name: str, value: Any) -> Callable[[], contextlib.AbstractContextManager[Any]]:
    return lambda: mock.patch.object(sharp, name, value)


def _spread_over_shuffled_places(maps: Tensor, features: Tensor) -> Tensor:
    """As many alike places for each, but others."""
    order = torch.randperm(maps.shape[2] * maps.shape[3], generator=torch.Generator().manual_seed(0))
    return _spread(maps, features.flatten(2)[:, :, order].view(features.shape))


def _in_groups(activations: Tensor, gradients: Tensor, maps: Tensor, *, shuffled: bool) -> Tensor:
    """The evidence of 16 groups of channels in place of single channels, for one target."""
    groups = []
    for one in activations * gradients[:, 0]:
        unit = F.normalize(one.flatten(1), dim=1).numpy()
        labels = torch.from_numpy(
            KMeans(GROUPS, n_init=1, max_iter=12, random_state=0).fit_predict(unit)
        ).long()
        if shuffled:
            labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
        groups.append(one.new_zeros(GROUPS, *one.shape[1:]).index_add_(0, labels, one))
    of_groups = torch.stack(groups)
    return _agreeing(torch.ones_like(of_groups), of_groups[:, None], maps)


def _with(**steps: Callable[..., Tensor]) -> Callable[[], contextlib.AbstractContextManager[Any]]:
    return _replaced("STEPS", sharp.with_steps(**steps))


#: Name -> a context in which cfcam-sharp runs with the step replaced.
CONTROLS: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
    "no spread": _with(spread=lambda maps, _features: maps),
    "spread over shuffled places": _with(spread=_spread_over_shuffled_places),
    "no evidence": _with(evidence=lambda _activations, _gradients, maps: torch.ones_like(maps)),
    "no curve": _replaced("_steeper", lambda maps: maps),
    "groups of channels": _with(evidence=partial(_in_groups, shuffled=False)),
    "shuffled groups": _with(evidence=partial(_in_groups, shuffled=True)),
}
