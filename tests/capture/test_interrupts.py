"""An interrupt at any moment leaves the model, and the thread's modes, as they were."""

from __future__ import annotations

import dis
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from types import FrameType
from typing import Any

import pytest
import torch
from torch import nn

from cfcam_gpu import CFCAM
from cfcam_gpu.capture.model_state import _lock

#: Every so many points are tried. With CFCAM_INTERRUPTS=1 all some 3,000 of a call.
STEP = int(os.environ.get("CFCAM_INTERRUPTS", "29"))


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
        "locked": _lock(model)._is_owned(),
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
        "nesting": torch.autocast_increment_nesting() - 1 + 0 * torch.autocast_decrement_nesting(),
    }


class Interrupt:
    """Trace function that interrupts at one of the points where Python calls signal handlers.

    These are the begin of every function, the end of every call and every jump backwards; what belongs to
    the instruction there is raised at the next one, which is stricter.

    Args:
        at: number of the point, from 1; 0: never, the points are counted.
    """

    OPERATIONS = frozenset(
        number
        for name, number in dis.opmap.items()
        if name.startswith("CALL") or name in ("JUMP_ABSOLUTE", "JUMP_BACKWARD")
    )

    def __init__(self, at: int = 0) -> None:
        self.at = at
        self.points = 0

    def __call__(self, frame: FrameType, _event: str, _argument: object) -> Any:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        code, passed = frame.f_code.co_code, False

        def operation(frame: FrameType, event: str, _argument: object) -> Any:
            nonlocal passed
            if event == "opcode":
                if passed:
                    self.point()
                passed = code[frame.f_lasti] in self.OPERATIONS
            return operation

        self.point()
        return operation

    def point(self) -> None:
        self.points += 1
        if self.points == self.at:
            sys.settrace(None)
            raise KeyboardInterrupt


def interrupted(call: Callable[[], object], interrupt: Interrupt) -> bool:
    """Whether the interrupt ended the call."""
    before = sys.gettrace()
    sys.settrace(interrupt)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


# Python ignores an interrupt in the callback of a weak reference, and pytest warns of that.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.slow
@pytest.mark.parametrize("under", ["no mode", "a function mode"])
@pytest.mark.parametrize("layer", ["conv2", "bn2:relu"])
@pytest.mark.parametrize("method", ["cfcam", "scorecam", "cfcam-fine"])
def test_an_interrupt_at_any_moment_changes_nothing(method: str, layer: str, under: str) -> None:
    torch.manual_seed(0)
    model, images = Small().train(), torch.rand(2, 3, 8, 8)
    model.bn1.eval()
    finer = "relu1" if method == "cfcam-fine" else None
    cam = CFCAM(model, layer, method=method, engine="auto", on_invalid="flag", finer_layer=finer)

    def call() -> torch.Tensor:
        return cam(images, targets=1).heatmap

    with torch.device("cpu") if under == "a function mode" else nullcontext():
        heatmap, before = call(), state(model)
        counted = Interrupt()
        assert not interrupted(call, counted)
        assert counted.points > 1000
        ended = 0
        for point in range(1, counted.points + 1, STEP):
            ended += interrupted(call, Interrupt(point))
            after = state(model)
            assert {name for name in before if before[name] != after[name]} == set(), point
        # Some are ignored: those in the callback of a weak reference, or while a generator is closed.
        assert ended > 0.95 * counted.points / STEP
        torch.testing.assert_close(call(), heatmap, rtol=0, atol=0)
