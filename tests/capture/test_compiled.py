"""A model compiled in two halves gives the maps of the model as it is, or runs as it is and says why."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, fx, nn

from cfcam_gpu import CFCAM
from cfcam_gpu.capture import compiled
from tests.helpers.tolerances import MAP

CLASSES = torch.tensor([[1, 2], [3, 0], [2, 2]])


class Net(nn.Module):
    """A ReLU that is called twice, in place the second time, and a block whose own scale is a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.block = nn.ModuleDict({"conv": nn.Conv2d(6, 8, 3, stride=2, padding=1)})
        self.relu = nn.ReLU(inplace=True)
        self.scale = nn.Parameter(torch.rand(8, 1, 1) + 0.5)
        self.shift: Tensor
        self.register_buffer("shift", torch.rand(8, 1, 1))
        self.fc = nn.Linear(8, 4)

    def features(self, x: Tensor) -> Tensor:
        x = self.block["conv"](self.relu(self.conv1(x)))
        return self.relu(x * self.scale + self.shift)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[0]
        return self.fc((self.features(x) * self.scale).mean((2, 3)).view(size, -1))


def by_torch(model: nn.Module, **settings: Any) -> nn.Module:
    """The model as `torch.compile` wraps it, which types it as a function."""
    compiled_model: Any = torch.compile(model, **settings)
    return compiled_model


class Backend:
    """Runs the graphs as they are, and keeps them."""

    def __init__(self) -> None:
        self.graphs: list[fx.GraphModule] = []

    def __call__(self, graph: fx.GraphModule, _inputs: list[Tensor]) -> Callable[..., Any]:
        self.graphs.append(graph)
        return graph.forward


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 12, 10, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def backend(monkeypatch) -> Backend:
    backend = Backend()
    monkeypatch.setattr(compiled, "BACKEND", backend)
    return backend


def assert_same(cam: CFCAM, model: nn.Module, layer: str, images: Tensor, targets: Any = CLASSES) -> None:
    """The explanation of `cam` is that of the eager model."""
    expected = CFCAM(copy.deepcopy(model), layer)(images, targets)
    result = cam(images, targets)
    torch.testing.assert_close(result.heatmap, expected.heatmap, rtol=0, atol=MAP)
    torch.testing.assert_close(result.logits, expected.logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(result.targets, expected.targets)


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What this package logged."""
    return [record.getMessage() for record in caplog.records if record.name == "cfcam_gpu"]


TORCHVISION = {
    "resnet18": "layer4", "efficientnet_b0": "features", "convnext_tiny": "features.7",
    "densenet121": "features:relu", "regnet_y_400mf": "trunk_output.block4", "mobilenet_v3_small": "features.12",
    "vgg11": "features", "swin_t": "permute",
}  # fmt: skip


@pytest.mark.parametrize("name", TORCHVISION)
def test_the_maps_of_torchvision_models_are_those_of_the_eager_model(name, monkeypatch, caplog):
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")
    torch.manual_seed(0)
    model = torchvision.models.get_model(name).eval()
    images = torch.randn(2, 3, 64, 64)
    expected = CFCAM(model, TORCHVISION[name], on_invalid="flag")(images, targets=[1, 2])
    result = CFCAM(model, TORCHVISION[name], on_invalid="flag", compile=True)(images, targets=[1, 2])
    torch.testing.assert_close(result.heatmap, expected.heatmap, rtol=0, atol=MAP)
    assert not messages(caplog)


@pytest.mark.parametrize("targets", [None, 1, CLASSES, lambda logits: logits[0] - logits[1]])
def test_compiled_by_inductor_for_any_kind_of_targets(net, images, targets):
    expected = CFCAM(net, "relu")(images, targets)
    result = CFCAM(net, "relu", compile=True)(images, targets)
    torch.testing.assert_close(result.heatmap, expected.heatmap, rtol=0, atol=MAP)


@pytest.mark.parametrize("layer", ["relu", "conv1", "block.conv"])
def test_every_layer_is_a_cut(net, images, layer, backend):
    assert_same(CFCAM(net, layer, compile=True), net, layer, images)
    assert len(backend.graphs) == 2


def test_methods_without_gradients_and_those_that_run_the_model_again(net, images, backend):
    for method in ("eigencam", "scorecam"):
        expected = CFCAM(net, "relu", method=method)(images, 1)
        result = CFCAM(net, "relu", method=method, compile=True)(images, 1)
        torch.testing.assert_close(result.heatmap, expected.heatmap, rtol=0, atol=MAP)
    assert len(backend.graphs) == 4


@pytest.mark.usefixtures("backend")
def test_autocast(net, images):
    cam = CFCAM(net, "relu", compile=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(cam, net, "relu", images)
    assert_same(cam, net, "relu", images)
    assert_same(cam, net, "relu", images)


def test_changed_weights_are_read_without_compiling_again(net, images, backend):
    cam = CFCAM(net, "relu", compile=True)
    before = cam(images, CLASSES).heatmap
    torch.manual_seed(1)
    net.load_state_dict(Net().state_dict())
    assert_same(cam, net, "relu", images)
    assert not torch.allclose(cam(images, CLASSES).heatmap, before, atol=0.01)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.5)
    F.cross_entropy(net(images), CLASSES[:, 0]).backward()
    optimiser.step()
    net.shift.add_(0.3)
    assert_same(cam, net, "relu", images)
    assert len(backend.graphs) == 2


def test_a_changed_module_parameter_or_layer_is_split_anew(net, images, backend):
    cam = CFCAM(net, "relu", compile=True)
    cam(images)
    net.conv1 = nn.Conv2d(3, 6, 5, padding=2)
    assert_same(cam, net, "relu", images)
    net.scale = nn.Parameter(torch.rand(8, 1, 1))
    assert_same(cam, net, "relu", images)
    assert len(backend.graphs) == 6


@pytest.mark.usefixtures("backend")
def test_the_model_comes_back_as_it_was_given(net, images):
    cam = CFCAM(net, "relu", compile=True)
    for training in (False, True, False):
        net.train(training)
        net.conv1.weight.requires_grad_(not training)
        cam(images)
        assert [module.training for module in net.modules()] == [training] * len(list(net.modules()))
        assert net.conv1.weight.requires_grad is not training
        assert net.fc.weight.requires_grad
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
        assert all(parameter.grad is None for parameter in net.parameters())


def test_another_shape_is_compiled_when_it_comes_again(net, images, backend):
    cam = CFCAM(net, "relu", compile=True)
    counts = []
    for batch in (images, images[:2], images, images[:2], images[:1]):
        cam(batch)
        counts.append(len(backend.graphs))
    assert counts == [2, 2, 2, 4, 4]
    assert_same(cam, net, "relu", images[:2], CLASSES[:2])


def test_a_bounded_number_of_shapes_is_compiled(net, images, backend, monkeypatch, caplog):
    monkeypatch.setattr(compiled, "SHAPES", 2)
    cam = CFCAM(net, "relu", compile=True)
    for _ in range(2):
        for side in (8, 9, 10):
            cam(images[:, :, :side, :side])
    assert len(backend.graphs) == 4
    assert_same(cam, net, "relu", images[:, :, :10, :10])
    assert messages(caplog) == [
        "the model is not compiled: for more than 2 shapes of batches; give batches of one size"
    ]


class Branching(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.sum() < 1e9 else -x)


class Skipping(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x.mean((1, 2, 3))[:, None]


class Counting(Net):
    """Gives other logits at every call."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x) + self.calls // 1000 + 0.1 * torch.tensor(float(self.calls))


def hooked() -> nn.Module:
    net = Net()
    net.fc.register_forward_hook(lambda _m, _args, output: output * 2)
    return net


def compiled_in_part() -> nn.Module:
    net = Net()
    net.conv1.compile(backend="eager")
    return net


def fails(_graph: fx.GraphModule, _inputs: list[Tensor]) -> Callable[..., Any]:
    raise RuntimeError("no C++ compiler\nat all")


FALLBACKS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "branch": (Branching, r"torch\.fx cannot trace it, as its code depends on values \(.*\)"),
    "skip": (Skipping, r"code behind the target layer also reads tensors from before it, as of a skip .*"),
    "other logits": (Counting, "in two halves it gives other logits"),
    "hooks": (hooked, "its modules have hooks, which compiled code would not run"),
    "compiled in part": (compiled_in_part, "parts of it are compiled already"),
    "compiler": (Net, r"torch\.compile failed: .*no C\+\+ compiler"),
}


@pytest.mark.parametrize("case", FALLBACKS)
def test_what_cannot_be_compiled_runs_as_it_is_and_says_why_once(case, images, backend, monkeypatch, caplog):
    make, reason = FALLBACKS[case]
    if case == "compiler":
        monkeypatch.setattr(compiled, "BACKEND", fails)
    torch.manual_seed(0)
    model = make().eval()
    expected = CFCAM(model, "relu")(images, 1)
    cam = CFCAM(model, "relu", compile=True)
    for _ in range(2):
        torch.testing.assert_close(cam(images, 1).heatmap, expected.heatmap, rtol=0, atol=MAP)
    assert not backend.graphs
    (message,) = messages(caplog)
    assert re.fullmatch(f"the model is not compiled: {reason}", message)


def test_a_method_of_two_layers_runs_the_model_as_it_is(net, images, backend, caplog):
    arguments: dict[str, Any] = {"method": "cfcam-fine", "finer_layer": "conv1"}
    expected = CFCAM(net, "relu", **arguments)(images)
    result = CFCAM(net, "relu", compile=True, **arguments)(images)
    assert torch.equal(result.heatmap, expected.heatmap)
    assert not backend.graphs
    assert messages(caplog) == ["the model is not compiled: the method reads two layers"]


def test_a_model_that_arrives_compiled_is_compiled_in_halves_by_its_own_backend(net, images, caplog):
    own = Backend()
    cam = CFCAM(by_torch(net, backend=own), "relu")
    assert_same(cam, net, "relu", images)
    assert len(own.graphs) == 2
    CFCAM(by_torch(Skipping().eval(), backend=own), "relu")(images)
    assert not messages(caplog)


def test_cuda_graphs_of_a_model_that_arrives_compiled_are_left_out(net):
    assert compiled.backend_of(by_torch(net, mode="reduce-overhead")) == "inductor"
    assert compiled.backend_of(nn.DataParallel(by_torch(net, backend="eager"))).compiler_name == "eager"
    assert compiled.backend_of(net) is None


def test_an_out_of_memory_error_in_compiled_code_passes(net, images, monkeypatch):
    def fill(_graph: fx.GraphModule, _inputs: list[Tensor]) -> Callable[..., Any]:
        def run(*_args: Tensor) -> Any:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

        return run

    monkeypatch.setattr(compiled, "BACKEND", fill)
    cam = CFCAM(net, "relu", compile=True)
    with pytest.raises(torch.OutOfMemoryError, match="can't allocate memory"):
        cam(images)
    assert cam.compiles


def test_a_check_that_raises_ends_a_compiled_call(net, images, backend):
    cam = CFCAM(net, "relu", compile=True)
    cam(images)

    def check() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cam(images, check=check)
    assert len(backend.graphs) == 2
    assert_same(cam, net, "relu", images)
