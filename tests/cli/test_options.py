"""The options of a command are the fields of its dataclasses, and become these again."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import pytest

from cfcam_gpu._utils.option import KEY
from cfcam_gpu.cli.evaluate import evaluate
from cfcam_gpu.cli.explain import explain
from cfcam_gpu.cli.options import Command, build, with_rank
from cfcam_gpu.config import CFCAMConfig
from cfcam_gpu.dataset.options import RunOptions
from cfcam_gpu.errors import ConfigError
from cfcam_gpu.evaluation.options import UNUSED, EvaluationOptions
from cfcam_gpu.metrics.options import MetricOptions
from cfcam_gpu.models import ModelOptions


def values_of(command: Command, *arguments: str) -> dict[str, Any]:
    """The values of a command's options, as its function gets them."""
    return command.make_context("test", ["in", "--out", "out", *arguments]).params


def names_of(command: Command) -> set[str | None]:
    return {parameter.name for parameter in command.params}


def option_names(kind: Any, without: tuple[str, ...] = ()) -> set[str]:
    return {
        field.metadata[KEY].name or field.name
        for field in dataclasses.fields(kind)
        if KEY in field.metadata and field.name not in without
    }


def test_without_options_the_dataclasses_have_their_own_defaults():
    values = values_of(explain)
    assert build(ModelOptions, values) == ModelOptions()
    assert build(RunOptions, values) == RunOptions()
    assert build(EvaluationOptions, values_of(evaluate)) == EvaluationOptions(methods=["cfcam", "gradcam"])


def test_levels_and_draws_of_noise_are_options():
    given = ("--noise-levels", "0.5,3", "--input-noise-levels", "0.1", "--noise-draws", "1")
    measuring = build(EvaluationOptions, values_of(evaluate, *given)).measuring
    expected = MetricOptions(noise_levels=(0.5, 3.0), input_noise_levels=(0.1,), noise_draws=1)
    assert measuring == expected


def test_every_field_of_the_options_that_is_one_is_an_option_of_its_command():
    own = {"inputs", "out", "as_json", "log_format", "records"}
    of_both = option_names(ModelOptions) | own
    assert names_of(explain) == of_both | {"with_report"} | option_names(RunOptions) | option_names(
        CFCAMConfig
    )
    assert option_names(CFCAMConfig) == {field.name for field in dataclasses.fields(CFCAMConfig)}
    assert names_of(evaluate) == of_both | option_names(
        EvaluationOptions, without=tuple(UNUSED)
    ) | option_names(MetricOptions)
    noise = {"noise_levels", "input_noise_levels", "noise_draws"}
    assert option_names(MetricOptions) == {"steps", "seed"} | noise


def test_given_options_become_fields():
    run = "--target 7 --batch-size 3 --workers 0 --rank 1 --world-size 4 --max-errors 5 --channels-last"
    method = "--preset upstream --dominant-percentile none --weighting mean"
    model = "--model torchvision:resnet18 --size 64x32 --mean 0.1,0.2,0.3 --weights w.pth"
    values = values_of(explain, *f"{run} {method} {model}".split())
    assert build(RunOptions, values) == RunOptions(
        target="7",
        batch_size=3,
        workers=0,
        rank=1,
        world_size=4,
        max_errors="5",
        channels_last=True,
        config=CFCAMConfig(filter="upstream", dominant_percentile=None, weighting="mean"),
    )
    assert build(ModelOptions, values) == ModelOptions(
        "torchvision:resnet18", weights=Path("w.pth"), size=(64, 32), mean=(0.1, 0.2, 0.3)
    )
    values = values_of(evaluate, "--metrics", "drop, road", "--seed", "5", "--no-plots")
    assert build(EvaluationOptions, values) == EvaluationOptions(
        methods=["cfcam", "gradcam"], metrics=["drop", "road"], measuring=MetricOptions(seed=5), plots=False
    )


def test_the_model_can_be_sent_to_another_process():
    options = build(ModelOptions, values_of(explain) | {"size": "64"})
    assert pickle.loads(pickle.dumps(options.load)).__self__ == ModelOptions(size=(64, 64))


def test_no_option_means_as_many_workers_as_the_machine_allows():
    assert values_of(explain)["workers"] is None
    assert build(RunOptions, values_of(explain)).workers is None


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (ModelOptions, {"size": "1x2x3"}, r"--size must be like 224 or 224x320 .* got '1x2x3'"),
        (
            ModelOptions,
            {"std": "1,x"},
            "--std must be numbers separated by commas, like 0.5,0.5,0.5, got '1,x'",
        ),
        (RunOptions, {"dominant_percentile": "all"}, "--dominant-percentile takes numbers, got 'all'"),
        (RunOptions, {"preset": "best"}, "unknown preset 'best'; choose one of: default, upstream"),
        (EvaluationOptions, {"methods": "cfcam,"}, "--methods takes names separated by commas, got 'cfcam,'"),
    ],
)
def test_a_text_that_is_no_value_names_its_option(kind: Any, values: dict[str, str], message: str):
    with pytest.raises(ConfigError, match=f"^{message}"):
        build(kind, values)


@pytest.mark.parametrize(
    ("environment", "arguments", "expected"),
    [
        ({}, {}, (0, 1)),
        ({"RANK": "2", "WORLD_SIZE": "8"}, {}, (2, 8)),
        ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}, {}, (1, 2)),
        ({"RANK": "2", "WORLD_SIZE": "8"}, {"rank": 0, "world_size": 3}, (0, 3)),
    ],
)
def test_rank_and_world_size_come_from_the_launcher_unless_they_are_given(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], arguments: dict[str, int], expected: Any
):
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    options = build(RunOptions, with_rank(values_of(explain) | arguments))
    assert (options.rank, options.world_size) == expected
