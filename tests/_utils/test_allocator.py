"""The commands keep the memory of freed tensors; importing and using the library changes nothing in the process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

import cfcam_gpu
from cfcam_gpu._utils import allocator
from tests.helpers.smallnet import photo
from tests.helpers.tinynet import FACTORY, TINY

LIBRARY = Path(cfcam_gpu.__file__).parents[1]

#: The variables that choose an allocator or set glibc's; the tests' own environment may have some.
OURS = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith("MALLOC_") and name not in ("GLIBC_TUNABLES", "LD_PRELOAD")
}

#: Bytes of a block (glibc keeps smaller ones than 32 MiB by itself), and how many are taken and freed.
SIZE, BLOCKS = 40 * 2**20, 20

#: At the end of the program: how many pages the kernel gave for blocks of which each is freed before the next.
FAULTS = f"""
import atexit, resource, sys
def take():
    sys.modules["torch"].ones({SIZE} // 4) if "torch" in sys.modules else b"x" * {SIZE}
def tell():
    take()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range({BLOCKS}):
        take()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
atexit.register(tell)
"""
KEEP = "from cfcam_gpu._utils.allocator import keep_freed_memory; keep_freed_memory()"
USE = """
import torch
from cfcam_gpu import CFCAM
net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 2))
CFCAM(net)(torch.zeros(1, 3, 8, 8))
"""
COMMAND = "from cfcam_gpu.cli import main; main()"

#: The share of new pages below which memory is used again: the first blocks may not yet fit where one was freed.
FEW = 0.2

needs_glibc = pytest.mark.skipif(not allocator._is_glibc(), reason="the C library is not glibc")


def faults(program: str, *arguments: str, environment: Mapping[str, str] | None = None) -> float:
    """The share of the blocks' pages that was new at the end of a program."""
    ended = subprocess.run(
        [sys.executable, "-c", f"{FAULTS}\n{program}", *arguments],
        capture_output=True,
        text=True,
        env={**OURS, "PYTHONPATH": str(LIBRARY), **(environment or {})},
    )
    assert ended.returncode == 0, ended.stderr
    return int(ended.stdout.split()[-1]) * os.sysconf("SC_PAGE_SIZE") / (SIZE * BLOCKS)


@needs_glibc
def test_freed_memory_is_used_again():
    assert faults(KEEP) < FEW


@needs_glibc
@pytest.mark.parametrize("program", ["", USE], ids=["plain Python", "the library"])
def test_without_the_call_all_memory_is_new(program: str):
    """Where this fails, the other tests show nothing."""
    assert faults(program) > 0.9


@needs_glibc
@pytest.mark.parametrize(
    "variables",
    [{"MALLOC_TRIM_THRESHOLD_": "131072"}, {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=131072"}],
    ids=["MALLOC_", "GLIBC_TUNABLES"],
)
def test_the_users_settings_stand(variables: dict[str, str]):
    assert faults(KEEP, environment=variables) > 0.9


@pytest.mark.parametrize(
    "variables",
    [
        {"MALLOC_ARENA_MAX": "2"},
        {"MALLOC_CONF": "background_thread:true"},
        {"GLIBC_TUNABLES": "glibc.cpu.x86_shstk=on:glibc.malloc.mmap_max=9"},
        {"LD_PRELOAD": "/usr/lib/libjemalloc.so.2"},
        {"LD_PRELOAD": "libother.so libtcmalloc_minimal.so.4"},
    ],
    ids=str,
)
def test_nothing_is_set_beside_a_choice_of_the_user(variables: dict[str, str], monkeypatch):
    monkeypatch.setattr(allocator.ctypes, "CDLL", None)  # calling it would fail
    assert not allocator.keep_freed_memory(variables)


def test_nothing_is_set_where_the_c_library_is_another(monkeypatch):
    def unknown(_name: str) -> str:
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(allocator.ctypes, "CDLL", None)
    monkeypatch.setattr(os, "confstr", unknown, raising=False)
    assert not allocator.keep_freed_memory({})
    monkeypatch.delattr(os, "confstr")
    assert not allocator.keep_freed_memory({})


@needs_glibc
@pytest.mark.parametrize("command", ["explain", "evaluate"])
def test_the_commands_keep_freed_memory(command: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("tinynet.py").write_text(FACTORY)
    Path("names.txt").write_text("ant\nbee\ncat\n")
    photo(1).save("a.png")
    assert faults(COMMAND, command, "a.png", "--out", "out", *TINY) < FEW
