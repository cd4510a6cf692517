"""`--log-format json`: every line of stderr is an event, whoever wrote it and however the command ends."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from cfcam_gpu._utils import json_lines
from cfcam_gpu._utils.json_lines import as_event
from tests.cli.test_startup import ENVIRONMENT, INTERRUPTED_IMPORT
from tests.helpers.command import FAILED, INTERRUPTED, OK, SKIPPED, USAGE
from tests.helpers.launcher import Launcher, Process, wait_until
from tests.helpers.smallnet import photo
from tests.helpers.tinynet import FACTORY, TINY

#: A model whose making and running tells something in each way that there is.
TALKING = f"""
import logging, os, subprocess, sys, time, warnings
{FACTORY}
class Slow(nn.Sequential):
    def forward(self, images):
        time.sleep(0.5)
        return super().forward(images)

def slow():
    return Slow(*make())

def talking():
    warnings.warn("a warning")
    logging.getLogger("imported").warning("a log line")
    print("a line", file=sys.stderr)
    print("10 %\\r20 %\\x1b[31m", end="", file=sys.stderr, flush=True)
    os.write(2, b"\\ncompiled code, \\xff\\n\\n")
    subprocess.run([sys.executable, "-c", "import sys; print('a process', file=sys.stderr)"])
    return make()
"""


#: Events of which there are as many as the machine takes time for.
OFTEN = ("note", "progress")


def events(text: str) -> list[dict[str, Any]]:
    """The events of what was written to stderr, each checked."""
    found = [json.loads(line) for line in text.splitlines()]
    for event in found:
        assert isinstance(event["event"], str)
        assert datetime.fromisoformat(event["time"]).tzinfo
    return found


def names(text: str) -> list[str]:
    return [event["event"] for event in events(text)]


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    """In a folder with two good photos in `good`, these and a damaged one in `mixed`, and 100 in `many`."""
    work = tmp_path_factory.mktemp("work")
    (work / "tinynet.py").write_text(TALKING)
    (work / "names.txt").write_text("ant\nbumble bee\ncat\n")
    for folder, count in {"good": 2, "mixed": 2, "many": 100}.items():
        (work / folder).mkdir()
        for number in range(count):
            photo(number).save(work / folder / f"{number}.png")
    (work / "mixed" / "empty.jpg").write_bytes(b"")
    made = Launcher(work)
    yield made
    made.close()


def start(launcher: Launcher, inputs: str, out: str, *arguments: str) -> Process:
    return launcher.start(
        "explain", inputs, "--out", out, *TINY, "--model", "py:tinynet:talking", "--workers", "1",
        "--log-format", "json", *arguments,
    )  # fmt: skip


def test_lines_of_whoever_writes_are_notes_in_their_order(launcher: Launcher):
    ended = start(launcher, "good", "whole", "--report").wait()
    assert ended.status == OK, ended.err
    notes = [event["message"] for event in events(ended.err) if event["event"] == "note"]
    expected = ["a warning", "a log line", "a line", "10 %", "20 %\x1b[31m", "compiled code, �", "a process"]
    places = [next(i for i, note in enumerate(notes) if note.endswith(text)) for text in expected]
    assert places == sorted(places)
    assert notes[-1].startswith("report: ")
    assert [name for name in names(ended.err) if name not in OFTEN] == ["begin", "end"]


def test_failing_samples_and_a_resumed_run(launcher: Launcher):
    for _ in range(2):
        ended = start(launcher, "mixed", "mixed-maps").wait()
        assert ended.status == SKIPPED
        found = [name for name in names(ended.err) if name not in OFTEN]
        assert (found[0], found[-1]) == ("begin", "end")
    nothing = start(launcher, "mixed/empty.jpg", "nothing").wait()
    assert [name for name in names(nothing.err) if name not in OFTEN] == ["begin", "failed", "end", "error"]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra ray")
def test_a_run_on_ray_writes_nothing_else(launcher: Launcher):
    ended = start(launcher, "mixed", "on-ray", "--distributed", "ray").wait()
    assert ended.status == SKIPPED, ended.err
    found = [name for name in names(ended.err) if name not in OFTEN]
    assert found == ["begin", "failed", "end"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rank", "1"], "rank"),  # refused after parsing
        (["--layer", "nowhere"], "nowhere"),  # refused when the model is there
        (["--batch-size", "many"], "many"),  # refused by the parser
        (["--nonsense"], "--nonsense"),
    ],
)
def test_a_mistake_is_one_error(launcher: Launcher, arguments: list[str], message: str):
    ended = start(launcher, "good", "refused", *arguments).wait()
    assert ended.status != OK
    assert names(ended.err).count("error") == 1
    last = events(ended.err)[-1]
    assert last["event"] == "error"
    assert message in last["message"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_is_an_event(launcher: Launcher, number: int):
    model = ("--model", "py:tinynet:slow", "--batch-size", "1", "--engine", "torch")
    process = start(launcher, "many", f"ended{number}", *model)
    wait_until(lambda: process.err.exists() and "begin" in process.err.read_text(), seconds=300)
    for child in process.children():  # a terminal and a job's end send it to the whole group
        os.kill(child, number)
    process.kill(number)
    ended = process.wait()
    assert ended.status == 128 + number
    assert names(ended.err)[-1] == "interrupted"


def test_an_interrupt_while_starting_is_an_event():
    command = [sys.executable, "-c", INTERRUPTED_IMPORT, "click", "explain", "a", "--log-format", "json"]
    ended = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert (ended.returncode, names(ended.stderr)) == (INTERRUPTED, ["interrupted"])


def test_a_command_without_stderr_runs():
    command = f"{sys.executable} -m cfcam_gpu explain --out out --log-format json 2>&-"
    ended = subprocess.run(command, shell=True, env=ENVIRONMENT, check=False)
    assert ended.returncode == USAGE


@pytest.mark.parametrize("text", ["7", "null", "[]", '{"event": "end"}', '{"event": "end", "time": ', ""])
def test_other_json_is_text(text: str):
    assert json.loads(as_event(text))["message"] == text


def through(content: bytes) -> list[dict[str, Any]]:
    """The events of what is written to the program that makes them."""
    command = [sys.executable, json_lines.__file__]
    ended = subprocess.run(command, input=content, capture_output=True, check=True)
    assert ended.stderr == b""
    return events(ended.stdout.decode())


@pytest.mark.parametrize(
    "line",
    [
        "[" * 50_000,
        '{"a":' * 10_000,
        '{"event": "x", "time": "y", "loss": NaN}',
        '{"event": 1, "time": 2}',
        "9" * 5000,
    ],
    ids=lambda line: line[:20],
)
def test_whatever_looks_like_json_is_a_note(line: str):
    before, event, after = through(f"before\n{line}\nafter".encode())
    assert [before["message"], event["message"], after["message"]] == ["before", line, "after"]


def test_a_long_line_is_several_notes_that_lose_nothing():
    text = "a" + "é文" * 100_000  # a character of two bytes lies across every border of bytes
    notes = [event["message"] for event in through(text.encode())]
    assert 2 < len(notes) < 20
    assert "".join(notes) == text


def test_every_line_of_threads_and_processes_comes_whole(tmp_path: Path):
    """Threads and forked processes write at the same time; one ends after the command did."""
    program = """
import os, sys, threading, time
from cfcam_gpu._utils import json_lines
json_lines.begin()
def write(name):
    for number in range(300):
        os.write(2, f"{name} {number} {'x' * 500}\\n".encode())
threads = [threading.Thread(target=write, args=(f"thread{i}",)) for i in range(4)]
children = []
for i in range(3):
    if (pid := os.fork()) == 0:
        write(f"child{i}")
        os._exit(0)
    children.append(pid)
[thread.start() for thread in threads]
[thread.join() for thread in threads]
[os.waitpid(pid, 0) for pid in children]
if os.fork() == 0:
    os.close(1)
    time.sleep(4)
    os.write(2, b"late\\n")
    os._exit(0)
json_lines.finish()
print("done", flush=True)
"""
    with (tmp_path / "err").open("wb") as err:
        start = time.monotonic()
        command = [sys.executable, "-c", program]
        ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=err, env=ENVIRONMENT, check=True)
    assert ended.stdout == b"done\n"
    assert time.monotonic() - start > 1  # it waited, but not for ever
    written = [event["message"].split() for event in events((tmp_path / "err").read_text())]
    for name in (*(f"thread{i}" for i in range(4)), *(f"child{i}" for i in range(3))):
        assert [int(number) for who, number, _ in written if who == name] == list(range(300))
    wait_until(lambda: "late" in (tmp_path / "err").read_text().splitlines()[-1], seconds=60)
    assert events((tmp_path / "err").read_text())[-1]["message"] == "late"


def test_a_crash_of_compiled_code_and_a_traceback_are_notes():
    crash = "import faulthandler; faulthandler.enable(); import ctypes; ctypes.string_at(0)"
    for code, last in ((crash, "Segmentation fault"), ("1 / 0", "ZeroDivisionError")):
        program = f"from cfcam_gpu._utils import json_lines\njson_lines.begin()\n{code}"
        command = [sys.executable, "-c", program]
        ended = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
        assert ended.returncode != OK
        assert any(last in event["message"] for event in events(ended.stderr))


def test_a_reader_that_leaves_ends_the_command(launcher: Launcher):
    command = [
        sys.executable, "-m", "cfcam_gpu", "explain", "good", "--out", "left", *TINY,
        "--model", "py:tinynet:talking", "--workers", "1", "--log-format", "json",
    ]  # fmt: skip
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=launcher.folder, env=ENVIRONMENT
    ) as process:
        assert process.stderr is not None
        process.stderr.close()
        assert process.wait(300) == FAILED


@pytest.mark.parametrize(
    "arguments", ["--log-format json --log-format text", "--log-format jsonl", "x--log-format json", "--json"]
)
def test_text_is_asked_for(arguments: str):
    assert not json_lines.asked(arguments.split())


@pytest.mark.parametrize("arguments", ["--log-format=text --log-format json", "--log-format json --json"])
def test_json_is_asked_for(arguments: str):
    assert json_lines.asked(arguments.split())
