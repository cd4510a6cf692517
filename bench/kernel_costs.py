"""What does the compiler make of the kernels for an H100, and how long do they take at the least? Needs no GPU.

    python -m bench.kernel_costs

Every kernel of engine `triton` is compiled for sm_90 as the default call launches it on `layer4` of ResNet-50, batch
256. The machine code gives registers, spilled bytes and the number of instructions; each loop counts as often as it
runs there. The estimated time of a kernel is the largest of

- instructions · warps ÷ (multiprocessors · 4 a clock · clock · `ISSUE`),
- bytes read and written ÷ (bandwidth · `COPY`),
- atomic operations ÷ `ATOMICS` a second,

an image. Times of launches, and of programs that wait for each other's data, are not in it.
"""

from __future__ import annotations

import os

os.environ["TRITON_INTERPRET"] = "0"  # before Triton is imported, which then has a compiler

import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from bench.common import command, print_table
from cfcam_gpu.kernels import (
    channels,
    cluster_filter,
    components,
    distances,
    heatmaps,
    neighbours,
    weighted_sum,
)

#: An H100 SXM: multiprocessors, clocks a second, bytes a second, bytes of shared memory of a block.
PROCESSORS, CLOCK, BANDWIDTH, SHARED = 132, 1.755e9, 3.35e12, 227 * 1024

#: Shares of the peaks that kernels bound by them are expected to reach, and atomic operations a second.
ISSUE, COPY, ATOMICS = 0.75, 0.8, 64 * CLOCK


@dataclass(frozen=True)
class Options:
    """Sizes of the case: the default call on ResNet-50's `layer4`."""

    batch: int = 256
    channels: int = 2048
    side: int = 7
    size: int = 224


@dataclass
class Case:
    """A kernel with the arguments that it is compiled for, and its work an image.

    Attributes:
        arguments: values of the arguments that are numbers; pointers are left out.
        warps: of a program.
        programs: for each image.
        trips: how often each loop runs each time it is reached, in the order of the machine code, after
            the compiler unrolled some.
        bytes: read and written for each image.
        atomics: for each image.
        options: of the compiler, beside the number of warps.
    """

    kernel: Any
    arguments: dict[str, Any]
    warps: int = 4
    programs: float = 1
    trips: Sequence[float] = ()
    bytes: float = 0
    atomics: float = 0
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return str(self.kernel.__name__)


@dataclass
class Cost:
    """What the compiler made of a kernel.

    Attributes:
        registers: for each thread.
        spilled: bytes that a thread keeps in memory for want of registers.
        shared: bytes of shared memory for each program.
        instructions: in the machine code.
        loops: (first instruction, number of instructions, of these floating-point ones) of each loop.
        executed: instructions that a warp executes.
        unrounded: sums whose product is not rounded before, and quotients that are not rounded as IEEE asks.
    """

    registers: int
    spilled: int
    shared: int
    instructions: int
    loops: list[tuple[int, int, int]] = field(default_factory=list)
    executed: float = 0
    unrounded: int = 0


_POINTERS = {
    "*fp64": ("norms", "eps"),
    "*i64": ("labels", "n_clusters", "status"),
    "*u8": ("row_bytes",),
    "*i1": ("out_of_range", "blanks"),
    "*i32": (
        "largest", "order", "counts", "sample", "start", "end", "starts", "ends", "below", "belows", "kept", "kepts",
        "limits", "patterns", "places", "words", "bins", "degrees", "frontiers",
    ),
    "*fp32": (
        "activations", "gradients", "means", "columns", "pooled", "weights", "grid", "peaks", "heatmaps",
    ),
}  # fmt: skip
_TYPES = {name: kind for kind, names in _POINTERS.items() for name in names}


def cases(options: Options) -> list[Case]:
    """The launches of the default call."""
    c, h, out = options.channels, options.side, options.size
    d, n = h * h, options.channels * 3 // 4
    padded = -(-n // distances.TILE) * distances.TILE
    tiles = distances.tile_pairs(padded // distances.TILE)
    # The part of the pairs in the sampled interval; a quarter of their range of patterns is left 10 times.
    kept = n * (n - 1) / distances._MARGIN
    capacity = n * (n - 1) // 16
    place = {"POSITION": 0.25, "FLOOR": 1e-5}
    first = {"FIRST": distances.first_pattern(1e-5), "LAST": distances.LAST}
    tile = {"pairs": tiles, "padded": padded, "depth": d}
    bad = {"NO_ACTIVATIONS": 1, "NO_GRADIENTS": 2}
    return [
        Case(
            channels._statistics,
            {"c": c, "k": 1, "hw": d, "blocks": c // 32, "CHANNELS": 32, "CELLS": 64},
            programs=c / 32,
            trips=(1, 1),
            bytes=8 * c * d,
        ),
        Case(
            channels._split,
            {
                "c": c, "k": 1, "clustered": n, "rank": n - 1, "FRACTION": 0.25, "FACTOR": 1 - 1e-6,
                "HAS_DOMINANT": True, "HAS_RANGE": False, "ZERO_GRADIENT": True, **bad, "OUT_OF_RANGE": 3,
                "ALL_ZERO": 4, "CHANNELS": c,
            },
            warps=8,
            trips=(63,),
            bytes=24 * c,
        ),
        Case(
            channels._columns,
            {"c": c, "hw": d, "n": n, "padded": padded, "cells": 1, **bad, "ROWS": 32, "CELLS": 64},
            programs=padded / 32,
            bytes=8 * n * d,
        ),
        Case(
            distances._sample,
            {
                "programs": distances.SAMPLES // distances._DRAWS, "padded": padded, "depth": d,
                "DRAWS": distances._DRAWS, "SAMPLES": distances.SAMPLES,
            },
            programs=distances.SAMPLES / distances._DRAWS,
            trips=(d,),
            bytes=4 * (n * d + distances.SAMPLES),
        ),
        Case(
            distances._interval,
            {
                **first, "POSITION": 0.25, "SAMPLES": distances.SAMPLES,
                "MARGIN": distances.SAMPLES // distances._MARGIN, "BEYOND": distances._BEYOND,
            },
            warps=8,
            trips=(31, 31),
            bytes=4 * distances.SAMPLES,
        ),
        Case(
            neighbours._pairs,
            {"capacity": capacity, **tile},
            warps=distances.TILE_WARPS,
            programs=tiles,
            trips=(d,),
            bytes=4 * n * d + n * n / 8 + 8 * kept,
            atomics=2 * tiles,
        ),
        Case(
            distances._select,
            {"capacity": capacity, **place, "FACTOR": 1 + 1e-6, **first, "KEPT": distances._KEPT},
            warps=8,
            trips=(10, kept / distances._KEPT, kept / distances._KEPT),
            bytes=11 * 4 * kept,
        ),
        Case(
            neighbours._mark,
            {
                "padded": padded, "capacity": capacity, "MARKERS": neighbours._MARKERS,
                "MARKED": neighbours._MARKED,
            },
            programs=neighbours._MARKERS,
            trips=(kept / neighbours._MARKERS / neighbours._MARKED,),
            bytes=8 * kept,
            atomics=kept,
        ),
        Case(
            neighbours._exact,
            {
                **tile, **place, "FACTOR": 1 + 1e-6, "LAST": distances.LAST, "LOG2_BINS": neighbours.LOG2_BINS,
            },
            warps=distances.TILE_WARPS,
        ),
        Case(
            components._dbscan,
            {"n": n, "n_words": padded // 32, "channels": c, "FRACTION": 0.05, "WORDS": 64, "ROWS": 128},
            trips=(n / 128, 1, 1, 3, n / 128),
            bytes=2 * n * n / 8,
        ),
        Case(
            cluster_filter._pooled,
            {
                "slots": c // 2, "programs": cluster_filter._PROGRAMS, "c": c, "k": 1, "h": h, "w": h,
                "radius": h - 1, "CIRCLE": True, "RANGE": True, "CELLS": 64, "CHANNELS": 64,
            },
            programs=cluster_filter._PROGRAMS,
            trips=(1 / cluster_filter._PROGRAMS, c / 64, 2 * h - 1, 2 * h - 1, 2),
            bytes=4 * c * d,
        ),
        Case(
            weighted_sum._weighted_sum,
            {
                "c": c, "k": 1, "hw": d, "slots": c // 2, "blocks": 2, "CLUSTERED": True, "CHANNELS": 128,
                "CELLS": 32,
            },
            programs=2,
            trips=(c / 128,),
            bytes=4 * c * d,
        ),
        Case(
            heatmaps._peaks,
            {
                "k": 1, "h": h, "w": h, "height": out, "width": out, "NOT_FINITE": 5, "BLOCK": 512,
            },
            trips=(1, 1, 1, 0),
            bytes=8 * d,
            options=heatmaps.AS_WRITTEN,
        ),
        Case(
            heatmaps._heatmaps,
            {"h": h, "w": h, "height": out, "width": out, "blocks": out * out / 1024, "BLOCK": 1024},
            programs=out * out / 1024,
            bytes=4 * out * out,
            options=heatmaps.AS_WRITTEN,
        ),
    ]  # fmt: skip


def odd_cases() -> list[Case]:
    """Launches of other shapes and options, which are compiled only: sizes of 1, large maps, other types."""
    sizes = {"c": 1, "k": 1, "h": 1, "w": 1}
    pooled = {"slots": 1024, "programs": 4, "c": 2048, "k": 3, "h": 64, "w": 64, "radius": 8}
    tiles = {**pooled, "tiles": 13, "h": 112, "w": 112}
    split = {
        "clustered": 1, "FRACTION": 0.0, "FACTOR": 1 - 1e-6, "HAS_RANGE": True, "ZERO_GRADIENT": True,
        "NO_ACTIVATIONS": 1, "NO_GRADIENTS": 2, "OUT_OF_RANGE": 3, "ALL_ZERO": 4,
    }  # fmt: skip
    one_map = {**sizes, "CIRCLE": False, "RANGE": True, "CELLS": 16, "CHANNELS": 1}
    whole = {**pooled, "CIRCLE": False, "RANGE": False, "CELLS": 4096, "CHANNELS": 1}
    many = {**split, "c": 8192, "k": 5, "rank": 0, "HAS_DOMINANT": False, "CHANNELS": 8192}
    return [
        Case(channels._statistics, {"c": 1, "k": 1, "hw": 1, "blocks": 1, "CHANNELS": 32, "CELLS": 64}),
        Case(channels._split, {**split, "c": 1, "k": 1, "rank": 1, "HAS_DOMINANT": True, "CHANNELS": 1}, warps=8),
        Case(channels._split, many, warps=8),
        Case(components._dbscan, {"n": 1, "n_words": 4, "channels": 1, "FRACTION": 0.05, "WORDS": 4, "ROWS": 1}),
        Case(cluster_filter._pooled, whole, warps=8),
        Case(cluster_filter._pooled, {"slots": 1, "programs": 1, "radius": 0, **one_map}),
        Case(
            cluster_filter._means,
            {"slots": 1024, "programs": 4, "tiles": 13, "c": 2048, "k": 1, "hw": 12544, "CELLS": 1024, "CHANNELS": 4},
        ),
        Case(cluster_filter._pooled_tiles, {**tiles, "CIRCLE": True, "RANGE": True, "CELLS": 1024}),
        Case(
            weighted_sum._weighted_sum,
            {"c": 5, "k": 1, "hw": 1, "slots": 0, "blocks": 1, "CLUSTERED": False, "CHANNELS": 128, "CELLS": 32},
        ),
        Case(
            heatmaps._peaks,
            {"k": 1, "h": 1, "w": 1, "height": 1, "width": 3, "NOT_FINITE": 5, "BLOCK": 16},
            options=heatmaps.AS_WRITTEN,
        ),
        Case(
            heatmaps._heatmaps,
            {"h": 1, "w": 1, "height": 1, "width": 1, "blocks": 1, "BLOCK": 1024},
            options=heatmaps.AS_WRITTEN,
        ),
    ]  # fmt: skip


def cost(case: Case) -> Cost:
    """The compiled kernel."""
    compiled = triton.compile(*_source(case), options={"num_warps": case.warps, **case.options})
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        code = _printed(triton.knobs.nvidia.nvdisasm.path, "-c", file.name)
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(compiled.asm["ptx"])
        file.flush()
        told = _printed(
            triton.knobs.nvidia.ptxas.path, "-v", "--gpu-name=sm_90a", file.name, "-o", "/dev/null"
        )
    instructions = _instructions(code)
    loops = _loops(instructions)
    return Cost(
        registers=int(re.findall(r"Used (\d+) registers", told)[-1]),
        spilled=sum(map(int, re.findall(r"(\d+) bytes spill stores", told))),
        shared=compiled.metadata.shared,
        instructions=len(instructions),
        unrounded=len(_UNROUNDED.findall(compiled.asm["ptx"])),
        loops=[
            (
                first,
                last - first + 1,
                sum(bool(_FLOAT.search(instructions[at][1])) for at in range(first, last + 1)),
            )
            for first, last in loops
        ],
        executed=round(_executed(len(instructions), loops, case.trips)),
    )


#: Instructions of the floating-point units.
_UNROUNDED = re.compile(r"\b(?:fma\.rn\.f32|div\.full|div\.approx)")
_FLOAT = re.compile(r"\b(FADD|FMUL|FFMA|FSETP|FMNMX|FSEL)\b")


def _source(case: Case) -> tuple[ASTSource, GPUTarget]:
    """A kernel's source with the types that its launch gives the arguments."""
    signature, constants, attributes = {}, {}, {}
    for index, name in enumerate(case.kernel.arg_names):
        value = case.arguments.get(name)
        if name in case.arguments and (name.isupper() or value == 1):
            signature[name], constants[name] = "constexpr", value
            continue
        if name in ("sigma_space", "sigma_range"):
            signature[name] = "fp32"
            continue
        signature[name] = "i32" if name in case.arguments else _TYPES[name]
        if value is None or value % 16 == 0:
            attributes[(index,)] = [["tt.divisibility", 16]]
    source = ASTSource(case.kernel, signature, constexprs=constants, attrs=attributes)
    return source, GPUTarget("cuda", 90, 32)


def _printed(*arguments: str) -> str:
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def _instructions(code: str) -> list[tuple[str, str]]:
    """(label before it, text) of each instruction up to the last one that is reached."""
    result, label = [], ""
    for line in code.splitlines():
        if match := re.match(r"\s*(\.L_x_\d+):", line):
            label = match[1]
        elif match := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(.*?);", line):
            result.append((label, match[1]))
            label = ""
    while result and "NOP" in result[-1][1]:
        result.pop()
    return result


def _loops(instructions: list[tuple[str, str]]) -> list[tuple[int, int]]:
    """First and last instruction of each loop: a jump back to a label."""
    places = {label: place for place, (label, _) in enumerate(instructions) if label}
    jumps: dict[int, int] = {}
    for place, (_, text) in enumerate(instructions):
        match = re.search(r"\bBRA\b.*`\((\.L_x_\d+)\)", text)
        if match and places.get(match[1], place) < place:
            jumps[places[match[1]]] = place
    return sorted(jumps.items())


def _executed(count: int, loops: list[tuple[int, int]], trips: Sequence[float]) -> float:
    """Instructions that a warp executes; without trips each loop runs once.

    Raises:
        ValueError: the compiler made another number of loops than there are trips.
    """
    times = [1.0] * count
    for (first, last), trip in zip(loops, trips or [1.0] * len(loops), strict=True):
        for place in range(first, last + 1):
            times[place] *= trip
    return sum(times)


def microseconds(case: Case, cost: Cost) -> dict[str, float]:
    """Estimated µs an image by what limits it, and the largest of them."""
    issued = case.programs * case.warps * cost.executed
    times = {
        "instructions": issued / (PROCESSORS * 4 * CLOCK * ISSUE),
        "bytes": case.bytes / (BANDWIDTH * COPY),
        "atomics": case.atomics / ATOMICS,
    }
    of = {f"us_by_{name}": round(1e6 * seconds, 3) for name, seconds in times.items()}
    return {**of, "us": max(of.values())}


def run(options: Options) -> dict[str, Any]:
    """The costs of every kernel, and their sum."""
    rows = {}
    for case in cases(options):
        compiled = cost(case)
        rows[case.name] = {**asdict(compiled), **microseconds(case, compiled)}
    return {
        "options": asdict(options),
        "assumed": {
            "processors": PROCESSORS, "clock_hz": CLOCK, "bytes_per_second": BANDWIDTH, "issue_share": ISSUE,
            "copy_share": COPY, "atomics_per_second": ATOMICS,
        },
        "kernels": rows,
        "odd": [{"kernel": case.name, **asdict(cost(case))} for case in odd_cases()],
        "us_per_image": round(sum(row["us"] for row in rows.values()), 2),
    }  # fmt: skip


def show(result: dict[str, Any]) -> None:
    """Prints the table."""
    columns = ("registers", "spilled", "shared", "instructions", "executed", "us")
    rows = [(name, *(row[column] for column in columns)) for name, row in result["kernels"].items()]
    print_table("kernels for sm_90", ("kernel", *columns), rows)
    print(f"estimated: {result['us_per_image']} µs an image, batch {result['options']['batch']}")


if __name__ == "__main__":
    command("kernel_costs", Options, run, show, __doc__)
