"""Settings of a run are checked before anything is read; rank and world size come from the launcher."""

from __future__ import annotations

import pytest

from cfcam_gpu.dataset.options import RunOptions, launcher_note, rank_and_world_size
from cfcam_gpu.errors import ConfigError
from tests.helpers.smallnet import run

ARRAY = {
    "SLURM_ARRAY_TASK_ID": "7",
    "SLURM_ARRAY_TASK_MIN": "3",
    "SLURM_ARRAY_TASK_STEP": "2",
    "SLURM_ARRAY_TASK_COUNT": "4",
}


@pytest.mark.parametrize(
    ("max_errors", "total", "allowed"),
    [("1%", 100, 20), ("1%", 5000, 50), ("50 %", 41, 20), ("50%", 42, 21), (3, 100, 3), ("0", 100, 0)],
)
def test_so_many_samples_may_fail(max_errors, total, allowed):
    assert RunOptions(max_errors=max_errors).allowed_errors(total) == allowed


@pytest.mark.parametrize(
    ("rank", "world_size", "environment", "expected"),
    [
        (None, None, {}, (0, 1)),
        (1, 4, {"RANK": "0", "WORLD_SIZE": "8"}, (1, 4)),
        (
            None,
            None,
            {"RANK": "3", "WORLD_SIZE": "8", "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"},
            (3, 8),
        ),
        (None, None, {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "8"}, (1, 2)),
        (None, None, {"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, (0, 1)),  # a batch script without srun
        (None, None, ARRAY, (2, 4)),
        (None, None, {**ARRAY, "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}, (5, 8)),
        (None, None, {**ARRAY, "SLURM_ARRAY_TASK_ID": "x"}, (0, 1)),
        (0, 1, ARRAY, (0, 1)),
        (None, None, {"SLURM_NTASKS": "2"}, (0, 1)),
    ],
)
def test_rank_and_world_size_are_given_or_come_from_the_launcher(rank, world_size, environment, expected):
    assert rank_and_world_size(rank, world_size, environment) == expected


def test_a_rank_without_a_world_size_is_refused():
    with pytest.raises(ConfigError, match="--rank and --world-size belong together"):
        rank_and_world_size(1, None, {})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cmap": "rainbow"}, "unknown colour map 'rainbow'"),
        ({"alpha": 2.0}, "alpha must be"),
        ({"batch_size": 0}, "batch size must be at least 1, got 0"),
        ({"workers": -1}, "workers must be at least 0, got -1"),
        ({"part_size": 0}, "part size must be at least 1, got 0"),
        ({"world_size": 0}, "world size must be at least 1, got 0"),
        ({"rank": 2, "world_size": 2}, "rank must be from 0 to 1 for a world size of 2, got 2"),
        ({"world_size": 2, "overwrite": True}, "processes that share a folder cannot each overwrite it"),
        ({"sample_timeout": float("nan")}, "sample timeout must be a number of seconds above 0, got nan"),
        ({"overlays": "gif"}, "unknown overlays 'gif'; choose one of: none, png, jpeg, webp"),
        ({"engine": "warp"}, "unknown engine 'warp'; choose one of: auto, "),
        ({"precision": "int8"}, "unknown precision 'int8'; choose one of: float32, "),
        ({"max_errors": "1/2"}, "max errors must be a number or a percentage like 50 or 1%, got '1/2'"),
        ({"max_errors": "101%"}, "max errors must be a number or a percentage like 50 or 1%, got '101%'"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else None,
)
def test_settings_are_checked_before_anything_is_read(tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        run(tmp_path / "missing", tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("number", ["4", "11", "1"])
def test_an_array_whose_numbers_are_uneven_is_an_error(number):
    with pytest.raises(ConfigError, match=r"its place is not clear; give --rank and --world-size$"):
        rank_and_world_size(None, None, {**ARRAY, "SLURM_ARRAY_TASK_ID": number})


@pytest.mark.parametrize(
    ("environment", "world_size", "note"),
    [
        (
            {"SLURM_NTASKS": "8", "SLURM_PROCID": "0"},
            1,
            "Slurm gave this job 8 tasks, and this one process explains",
        ),
        ({"SLURM_NTASKS": "1"}, 1, None),
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "8"}, 8, None),
        (
            ARRAY,
            4,
            "the jobs of this Slurm array share the samples; --rank 0 --world-size 1 explains all of them",
        ),
        ({}, 1, None),
    ],
)
def test_what_is_said_of_slurms_tasks(environment, world_size, note):
    said = launcher_note(environment, world_size)
    assert said == note if note is None or said is None else said.startswith(note)
