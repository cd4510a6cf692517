"""Training checkpoints: wrappers, averaged weights, what stands before the names, what stands beside the model."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn

from cfcam_gpu.errors import ModelError
from cfcam_gpu.models import load_model
from cfcam_gpu.models.checkpoints import unwrapped_checkpoint
from cfcam_gpu.models.class_names import read_class_names
from cfcam_gpu.models.weights import load_state_dict
from tests.helpers.load_models import RESNET, problem

State = dict[str, Tensor]


def _marked(value: float) -> State:
    """The weights of a two-class ResNet-18 whose head is filled with a value."""
    model = torchvision.models.resnet18(num_classes=2)
    nn.init.constant_(model.fc.weight, value)
    return dict(model.state_dict())


def _under(beginning: str, state: State) -> State:
    return {beginning + name: tensor for name, tensor in state.items()}


@pytest.fixture
def head_of(tmp_path: Path) -> Callable[..., float]:
    """Saves a content, loads it into a ResNet-18, and returns the mark of the weights that were taken."""

    def loaded(content: Any, **options: Any) -> float:
        torch.save(content, tmp_path / "w.pth")
        options = {"num_classes": 2, "mean": (0.5,) * 3, "std": (0.5,) * 3, **options}
        model = load_model(RESNET, weights=tmp_path / "w.pth", **options).model
        weight = model.get_parameter("fc.weight").detach()
        assert bool((weight == weight[0, 0]).all())
        return float(weight[0, 0])

    return loaded


@pytest.mark.parametrize(
    "wrapper",
    ["net", "module", "model_state", "ema", "teacher", "state_dict_ema", "model_state_dict", "network"],
)
def test_usual_wrappers(head_of: Callable[..., float], wrapper: str) -> None:
    assert head_of({wrapper: _marked(2), "epoch": 3, "optimizer": {"state": {}, "param_groups": []}}) == 2


@pytest.mark.parametrize(
    "beginning",
    ["module.", "model.", "net.", "backbone.", "model._orig_mod.", "densenet121.", "module._orig_mod.model."],
)
def test_what_stands_before_all_names_is_removed(head_of: Callable[..., float], beginning: str) -> None:
    assert head_of({"state_dict": _under(beginning, _marked(3))}) == 3


def test_names_of_a_model_that_is_itself_wrapped_are_kept() -> None:
    model, trained = (nn.DataParallel(nn.Linear(2, 2)) for _ in range(2))
    load_state_dict(model, trained.state_dict(), "they do not fit")
    assert torch.equal(model.module.weight, trained.module.weight)


def test_averaged_weights_beside_raw_ones(
    head_of: Callable[..., float], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = {"state_dict": _marked(1), "state_dict_ema": _under("module.", _marked(2)), "epoch": 3}
    assert head_of(content) == 1
    assert caplog.messages == [
        f"the weights {tmp_path / 'w.pth'} hold state_dict_ema beside state_dict; state_dict was taken, "
        "--weights-key state_dict_ema takes the other"
    ]
    caplog.clear()
    assert head_of(content, weights_key="state_dict_ema") == 2
    assert not caplog.messages


def test_averaged_model_of_pytorch(head_of: Callable[..., float]) -> None:
    """`AveragedModel` puts "module." before the names, and a counter beside them."""
    model = torchvision.models.resnet18(num_classes=2)
    nn.init.constant_(model.fc.weight, 4)
    averaged = torch.optim.swa_utils.AveragedModel(model)
    assert head_of({"model": _marked(1), "model_ema": averaged.state_dict()}, weights_key="model_ema") == 4


def test_what_was_taken_is_kept_with_the_model(tmp_path: Path) -> None:
    torch.save({"checkpoint": {"model": _marked(1), "ema": _marked(2)}}, tmp_path / "w.pth")
    loaded = load_model(RESNET, weights=tmp_path / "w.pth", weights_key="ema", num_classes=2)
    assert (loaded.weights, loaded.weights_key) == (f"{tmp_path / 'w.pth'} (ema)", "ema")
    torch.save({"model": {"state_dict": _marked(1)}}, tmp_path / "w.pth")
    loaded = load_model(RESNET, weights=tmp_path / "w.pth", num_classes=2)
    assert (loaded.weights, loaded.weights_key) == (f"{tmp_path / 'w.pth'} (model/state_dict)", None)


def test_a_copy_of_the_model_under_a_beginning_beside_it_is_left_out(
    head_of: Callable[..., float], caplog: pytest.LogCaptureFixture
) -> None:
    content = {"state_dict": {**_under("ema.", _marked(2)), **_marked(1)}}
    assert head_of(content) == 1
    assert caplog.messages == [
        "beside the model, the weights hold it once more under ema.; left out, --weights-key ema takes it"
    ]
    assert head_of(content, weights_key="ema") == 2


def test_two_models_in_one_state_dict(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    state = {**_under("student.", _marked(1)), **_under("teacher.", _marked(2))}
    safetensors.torch.save_file(state, path)
    assert problem(RESNET, weights=path, num_classes=2) == (
        f"the weights {path} do not fit {RESNET}: they hold this model more than once, under student. and "
        "teacher.; pass --weights-key student or --weights-key teacher"
    )
    model = load_model(RESNET, weights=path, weights_key="teacher", num_classes=2).model
    assert model.get_parameter("fc.weight")[0, 0].item() == 2


def test_what_stands_beside_a_whole_model_is_left_out(
    head_of: Callable[..., float], caplog: pytest.LogCaptureFixture
) -> None:
    """As Lightning stores the weights of a loss function."""
    state = {**_under("model.", _marked(5)), "loss.pos_weight": torch.ones(2)}
    assert head_of({"state_dict": state}) == 5
    assert caplog.messages == ["beside the model, under model., the weights hold loss.pos_weight; left out"]


def test_unexpected_names_inside_the_model_are_still_refused(tmp_path: Path) -> None:
    state = {**_under("model.", _marked(1)), "model.extra.weight": torch.ones(2)}
    torch.save(state, tmp_path / "w.pth")
    assert problem(RESNET, weights=tmp_path / "w.pth", num_classes=2).endswith(
        ": 1 unexpected (extra.weight)"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"model": {"a": torch.ones(1)}, "ema": {"a": torch.ones(1)}},
            "no entry 'best'; choose model or ema",
        ),
        ({"fc.bias": torch.ones(1)}, "no entry 'best'; its names begin with fc"),
    ],
)
def test_entries_that_are_not_there(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "w.pth")
    assert problem(RESNET, weights=tmp_path / "w.pth", weights_key="best") == (
        f"the weights {tmp_path / 'w.pth'} have {message}"
    )


def test_a_key_needs_a_file() -> None:
    assert problem(f"{RESNET}@none", weights_key="ema") == (
        "the weights key 'ema' is for a weights file; give --weights FILE as well"
    )


def test_a_configuration_is_no_weights() -> None:
    """MMPretrain and others store how the model is made beside its weights."""
    content = {"model": {"name": "resnet18"}, "state_dict": {"a": torch.ones(1)}}
    checkpoint = unwrapped_checkpoint(content, Path("w.pth"))
    assert (list(checkpoint.state), checkpoint.entry) == (["a"], "state_dict")


@pytest.mark.parametrize("key", [None, "best"])
@pytest.mark.parametrize("entry", ["state_dict", "extra"])
def test_a_checkpoint_that_contains_itself_is_an_error(tmp_path: Path, entry: str, key: str | None) -> None:
    content: dict[str, Any] = {"epoch": 3}
    content[entry] = content
    content["other"] = {"more": content, "again": content, entry: content}
    torch.save(content, tmp_path / "w.pth")
    message = problem(RESNET, weights=tmp_path / "w.pth", weights_key=key)
    assert message.startswith(f"the weights {tmp_path / 'w.pth'} ")
    assert ("must be a dictionary of tensors" if key is None else "have no entry 'best'") in message


def test_weights_and_class_names_in_a_pipe_do_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "w.pth")
    assert problem(RESNET, weights=tmp_path / "w.pth") == (
        f"the weights {tmp_path / 'w.pth'} cannot be read (not a regular file); give a .pth, .pt or .safetensors file"
    )
    with pytest.raises(
        ModelError, match=r"cannot be read as UTF-8 text \(OSError: \[Errno 22\] not a regular file\)$"
    ):
        read_class_names(tmp_path / "w.pth")
