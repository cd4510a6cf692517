"""The command's options for methods."""

from __future__ import annotations

import pytest

from tests.helpers.command import OK, USAGE, cfcam, parsed
from tests.helpers.smallnet import photo, save


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> tuple[str, ...]:
    """Arguments that name a small model and two photos."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "methodnet.py").write_text(
        "from tests.helpers.smallnet import Net\n\n\ndef make():\n    return Net()\n"
    )
    save(tmp_path / "in", a=photo(1), b=photo(2))
    return "in", "--model", "py:methodnet:make", "--size", "32", "--device", "cpu", "--workers", "0"


def test_the_command_takes_a_method(tiny):
    ended = cfcam("explain", *tiny, "--out", "out", "--method", "gradcam", "--json")
    assert ended.status == OK
    content = parsed(ended.out)
    assert content["method"] == "gradcam"
    assert [row["n_clusters"] for row in content["images"]] == [None, None]
    ended = cfcam("explain", *tiny, "--out", "out", "--method", "gradcam")
    assert ended.status == OK
    assert "clusters" not in ended.out
    assert "None" not in ended.out


def test_a_preset_by_the_methods_name(tiny):
    content = parsed(cfcam("explain", *tiny, "--out", "out", "--method", "cfcam:upstream", "--json").out)
    assert (content["method"], content["preset"]) == ("cfcam", "upstream")
    assert content["config"]["weighting"] == "softmax"


def test_the_share_of_the_finer_layer_is_an_option_of_both_methods_that_read_it(tiny):
    for method in ("cfcam-fine", "gradcam-fine"):
        arguments = ("--method", method, "--layer", "conv:relu", "--fine-share", "0.9", "--json")
        ended = cfcam("explain", *tiny, "--out", method, *arguments)
        assert ended.status == OK, ended.err
        assert parsed(ended.out)["config"]["fine_share"] == 0.9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--method", "lime"), "unknown method 'lime'; choose one of: cfcam, cfcam-fine, gradcam"),
        (("--method", "gradcam", "--preset", "upstream"), "presets and parameters are cfcam's"),
        (("--method", "gradcam", "--eps-percentile", "5"), "presets and parameters are cfcam's"),
        (("--method", "gradcam-fine", "--eps-percentile", "5"), "'gradcam-fine' reads only fine_share"),
        (("--method", "cfcam:upstream", "--preset", "workflow"), "two presets"),
        (("--method", "gradcam", "--engine", "numba"), "engine 'numba' is one of cfcam's"),
    ],
)
def test_the_command_says_what_is_wrong_with_a_method(tiny, arguments, message):
    ended = cfcam("explain", *tiny, "--out", "out", *arguments)
    assert ended.status == USAGE
    assert message in " ".join(ended.err.split())
