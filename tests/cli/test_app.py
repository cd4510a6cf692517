"""The command as a whole: its help, its version, and how mistakes and interrupts end."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import cfcam_gpu
import cfcam_gpu.dataset.run
from cfcam_gpu.cli.app import COMMANDS
from cfcam_gpu.config import PRESETS
from tests.helpers.command import FAILED, INTERRUPTED, OK, USAGE, cfcam
from tests.helpers.tinynet import explain

COMMAND = (sys.executable, "-m", "cfcam_gpu")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(cfcam_gpu.__file__).parents[1]), "COLUMNS": "200"}


@pytest.mark.usefixtures("work")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["explain"], "Missing argument 'INPUT...'"),
        (["explain", "good"], "Missing option '--out'"),
        (["explain", "good", "--out", "out", "--batch-size", "many"], "'--batch-size'"),
        (["explain", "good", "--out", "out", "--colour", "red"], "No such option"),
        (["explain", "good", "--out", ""], "the path is an empty text; '.' is the current folder"),
        (["paint"], "No such command 'paint'"),
    ],
)
def test_a_malformed_command_line_is_a_usage_error(arguments, message):
    outcome = cfcam(*arguments)
    assert outcome.status == USAGE
    assert message in outcome.err


def test_version():
    assert cfcam("--version").out == f"cfcam {cfcam_gpu.__version__}\n"


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_is_readable_in_80_columns(command: str):
    outcome = cfcam(*command.split(), "--help", columns=80)
    assert outcome.status == OK
    assert max(map(len, outcome.out.splitlines())) <= 80
    if command in ("", "explain", "evaluate", "layers", "export"):
        assert re.search(r"Examples:\s+\S* ?cfcam \w+", outcome.out)


def test_the_help_of_explain_names_every_choice():
    text = " ".join(re.sub("[│─]", " ", cfcam("explain", "--help").out).split())
    assert "torchvision:NAME[@WEIGHTS]" in text
    for choice in (*PRESETS, "inferno", "reference", "cuda:N"):
        assert choice in text


@pytest.mark.usefixtures("work")
def test_an_interrupt_ends_in_one_line(monkeypatch):
    def interrupted(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cfcam_gpu.dataset.run, "explain_dataset", interrupted)
    outcome = explain("good")
    assert outcome.status == INTERRUPTED
    assert outcome.err == "interrupted; what is finished is kept, the same command goes on from there\n"


@pytest.mark.parametrize("arguments", [["--help"], ["layers", "py:tinynet:make", "--size", "32", "--json"]])
@pytest.mark.usefixtures("work")
def test_a_full_disk_behind_stdout_is_one_line(arguments):
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            (*COMMAND, *arguments),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
            check=False,
        )
    assert ended.returncode == FAILED
    assert ended.stderr.splitlines()[-1] == "error: cannot write to stdout: No space left on device"
    assert "Traceback" not in ended.stderr
    assert "Exception ignored" not in ended.stderr


@pytest.mark.usefixtures("work")
def test_module_run_with_a_reader_that_goes_away_is_quiet():
    """`python -m cfcam_gpu … | head` in a process of its own."""
    prepared = ("--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25")
    arguments = ("layers", "py:tinynet:make", "--size", "32", *prepared, "--json")
    with subprocess.Popen(
        (*COMMAND, *arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        error = process.stderr.read().decode()
        assert process.wait(60) == FAILED
    assert error == ""
