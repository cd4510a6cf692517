"""An interrupt at any moment leaves the model, and the thread's modes, as they were."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn

from cfcam_gpu import CFCAM

#: Of each method and target layer. With CFCAM_INTERRUPTS=350 the three methods have 2,100 together.
INTERRUPTS = int(os.environ.get("CFCAM_INTERRUPTS", "50"))

#: Most seconds until an interrupt, in units of a whole call.
LATEST = 1.1


class Small(nn.Module):
    """Two convolutions, BatchNorm and a function after the layer; partly frozen, partly in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(6)
        self.relu1 = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(6, 8, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 5)
        self.bn1.eval()
        self.conv1.weight.requires_grad = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.relu1(self.bn1(self.conv1(x))))
        return self.fc(nn.functional.relu(self.bn2(self.conv2(x))).mean((2, 3)))


def state(model: nn.Module) -> dict[str, Any]:
    modules = list(model.modules())
    return {
        "training": [module.training for module in modules],
        "requires_grad": [parameter.requires_grad for parameter in model.parameters()],
        "grad": [parameter.grad for parameter in model.parameters()],
        "hooks": [
            list(hooks)
            for m in modules
            for hooks in (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks, m._backward_pre_hooks)
        ],
        "values": [values.tolist() for values in model.state_dict().values()],
        "function modes": torch._C._len_torch_function_stack(),
        "vmap levels": torch._C._functorch.maybe_current_level(),
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
        "nesting": torch.autocast_increment_nesting() - 1 + 0 * torch.autocast_decrement_nesting(),
    }


@contextmanager
def alarms() -> Iterator[None]:
    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def call_interrupted(cam: CFCAM, images: torch.Tensor, seconds: float) -> bool:
    """Whether an interrupt after so many seconds ended the call."""
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        cam(images, targets=1)
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        return True
    except RuntimeError as error:
        # Python's own locks fail so where an interrupt hits the start of a thread, as the numba engine's are.
        assert isinstance(error.__context__, KeyboardInterrupt)  # noqa: PT017
        return True
    return False


# Python ignores an interrupt in the callback of a weak reference, and pytest warns of that.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.slow
@pytest.mark.parametrize("layer", ["conv2", "bn2:relu"])
@pytest.mark.parametrize("method", ["cfcam", "scorecam", "cfcam-fine"])
def test_an_interrupt_at_any_moment_changes_nothing(method: str, layer: str) -> None:
    torch.manual_seed(0)
    model, images = Small().train(), torch.rand(2, 3, 8, 8)
    model.bn1.eval()
    finer = "relu1" if method == "cfcam-fine" else None
    cam = CFCAM(model, layer, method=method, engine="auto", on_invalid="flag", finer_layer=finer)
    heatmap, before = cam(images, targets=1).heatmap, state(model)
    seconds = min(_timed(cam, images) for _ in range(5))
    draw, interrupted, attempts = random.Random(0), 0, 0
    with alarms():
        while interrupted < INTERRUPTS and attempts < 50 * INTERRUPTS:
            attempts += 1
            interrupted += call_interrupted(cam, images, draw.uniform(1e-5, LATEST * seconds))
            after = state(model)
            assert {name for name in before if before[name] != after[name]} == set()
    assert interrupted == INTERRUPTS
    torch.testing.assert_close(cam(images, targets=1).heatmap, heatmap, rtol=0, atol=0)


def _timed(cam: CFCAM, images: torch.Tensor) -> float:
    start = time.perf_counter()
    cam(images, targets=1)
    return time.perf_counter() - start
