"""What the benchmarks share: turns, ratios within a turn, options, and the stored result."""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest
import torch

from bench import (
    common,
    stages,
    throughput,
)

pytestmark = pytest.mark.usefixtures("tiny")


def test_cases_take_turns_and_the_first_turn_is_not_counted():
    order: list[str] = []
    seconds = common.interleaved({name: functools.partial(order.append, name) for name in "ab"}, repeats=2)
    assert "".join(order) == "ababab"
    assert [len(times) for times in seconds.values()] == [2, 2]


def test_turns_end_when_the_time_is_over_but_there_are_three():
    seconds = common.interleaved({"a": lambda: None}, repeats=50, limit_s=0)
    assert len(seconds["a"]) == 3


def test_ratios_are_taken_within_a_turn():
    """Of the medians it would be 1.5: a turn that was slow for both says nothing about their ratio."""
    assert common.ratio([1, 10, 3], [1, 2, 3]) == 1
    assert common.summary([0.2, 0.1, 0.4], images=2) == {"ms_per_image": 100, "ms_min": 50, "ms_max": 200}


def finish(result: dict[str, Any], arguments: list[str]) -> None:
    """A command with a benchmark that only returns."""
    common.command(
        "name", common.Setup, lambda options: {**result, "side": options.side}, print, "About.", arguments
    )


def test_the_result_is_the_last_line_and_a_file_of_strict_json(capsys):
    finish({"figure": 1.5}, ["--side", "32"])
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (printed["benchmark"], printed["figure"], printed["side"]) == ("name", 1.5, 32)
    assert {"date", "commit", "cpu", "threads", "gpu", "versions"} <= set(printed["environment"])
    assert json.loads((common.RESULTS / "name.json").read_text()) == printed
    with pytest.raises(ValueError, match="not JSON compliant"):
        finish({"figure": float("nan")}, [])


def test_a_result_that_failed_is_stored_and_exits_with_an_error(capsys):
    with pytest.raises(SystemExit, match="name: memory grows; and more"):
        finish({"failed": ["memory grows", "and more"]}, [])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["failed"] == ["memory grows", "and more"]


def test_an_error_of_the_package_is_one_line():
    with pytest.raises(SystemExit, match=r"^stages: unknown engine 'fast'; choose one of: auto"):
        common.command("stages", stages.Options, stages.run, print, "", ["--side", "16", "--engine", "fast"])


def test_options_come_from_the_fields():
    options = common.parse(throughput.Options, "", ["--batches", "2", "4", "--no-others", "--limit-s", "1"])
    assert options == throughput.Options(batches=(2, 4), others=False, limit_s=1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--precision", "int8"], "--precision must be one of: float32, bfloat16, float16, autocast"),
        (
            ["--device", "cuda"],
            "--device cuda needs an NVIDIA GPU that PyTorch can use, and there is none here",
        ),
    ],
)
def test_options_that_cannot_be_are_errors(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        common.parse(common.Setup, "", arguments)
    assert message in capsys.readouterr().err
