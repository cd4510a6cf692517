"""A process-wide setting holds until the last thread has left, whatever the order of entering and leaving."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import pytest
import torch

from cfcam_gpu._utils.precision import full_float32
from cfcam_gpu._utils.switches import SharedSwitch
from cfcam_gpu.capture.model_state import explainable

LIMIT = 30.0


def test_the_first_thread_sets_and_the_last_one_restores() -> None:
    """One thread enters, a second one enters, the first leaves: the setting still holds for the second."""
    backend = torch.backends.cuda.matmul
    before, seen = backend.fp32_precision, []
    backend.fp32_precision = "tf32"
    inside, left = threading.Event(), threading.Event()

    def second() -> None:
        with full_float32(torch.device("cpu")):
            inside.set()
            assert left.wait(LIMIT)
            seen.append(backend.fp32_precision)

    try:
        thread = threading.Thread(target=second)
        with full_float32(torch.device("cpu")):
            thread.start()
            assert inside.wait(LIMIT)
        left.set()
        thread.join(LIMIT)
        assert seen == ["ieee"]
        assert backend.fp32_precision == "tf32"
    finally:
        backend.fp32_precision = before


def test_many_threads_never_see_the_setting_off() -> None:
    state = {"on": False, "times": 0}

    @contextlib.contextmanager
    def setting() -> Iterator[None]:
        assert not state["on"]
        state.update(on=True, times=state["times"] + 1)
        yield
        state["on"] = False

    switch, seen = SharedSwitch(setting), []

    def work() -> None:
        for _ in range(200):
            with switch.on():
                seen.append(state["on"])

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert seen == [True] * 1600
    assert not state["on"]
    assert state["times"] >= 1


def test_a_setting_that_fails_is_not_counted() -> None:
    attempts = []

    @contextlib.contextmanager
    def setting() -> Iterator[None]:
        attempts.append(1)
        if len(attempts) == 1:
            raise OSError("no")
        yield

    switch = SharedSwitch(setting)
    with pytest.raises(OSError, match="no"), switch.on():
        pass
    with switch.on():
        pass
    assert len(attempts) == 2


def test_compiled_models_share_the_stance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two models explained by two threads: compiled code stays off until both are done."""
    stances: list[str] = []

    @contextlib.contextmanager
    def stance(name: str) -> Iterator[None]:
        stances.append(name)
        yield
        stances.append("restored")

    monkeypatch.setattr(torch.compiler, "set_stance", stance)
    models = [torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)]
    for model in models:
        model.compile()
    with contextlib.ExitStack() as first:
        first.enter_context(explainable(models[0]))
        with explainable(models[1]):
            first.close()
            assert stances == ["force_eager"]
    assert stances == ["force_eager", "restored"]
