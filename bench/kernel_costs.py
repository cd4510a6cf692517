"""What does the compiler make of the kernels for an H100, and how long do they take at the least? Needs no GPU.

    python -m bench.kernel_costs

Every kernel of engine `triton` is compiled for sm_90 as the default call launches it on `layer4` of ResNet-50, batch
256, and those of other calls as `kernel_cases.OTHERS` says. The machine code gives registers, spilled bytes and the
number of instructions; each loop counts as often as it runs there. The estimated time of a kernel is the largest of

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
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from bench.common import command, print_table
from bench.kernel_cases import OTHERS, Case, Options, cases, odd_cases

#: An H100 SXM: multiprocessors, clocks a second, bytes a second, bytes of shared memory of a block.
PROCESSORS, CLOCK, BANDWIDTH, SHARED = 132, 1.755e9, 3.35e12, 227 * 1024

#: Shares of the peaks that kernels bound by them are expected to reach, and atomic operations a second.
ISSUE, COPY, ATOMICS = 0.75, 0.8, 64 * CLOCK


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
        "activations", "gradients", "means", "columns", "pooled", "weights", "grid", "peaks", "heatmaps", "filtered",
        "sums", "maps", "features", "least", "spread", "agreement", "evidence",
    ),
}  # fmt: skip
_TYPES = {name: kind for kind, names in _POINTERS.items() for name in names}


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


def costs(launches: Sequence[Case]) -> dict[str, Any]:
    """The costs of the kernels, by name, and the sum of their times."""
    rows = {}
    for case in launches:
        compiled = cost(case)
        rows[case.name] = {**asdict(compiled), **microseconds(case, compiled)}
    return {"kernels": rows, "us_per_image": round(sum(row["us"] for row in rows.values()), 2)}


def run(options: Options) -> dict[str, Any]:
    """The costs of every kernel of the default call, and those of others beside it."""
    return {
        "options": asdict(options),
        "assumed": {
            "processors": PROCESSORS, "clock_hz": CLOCK, "bytes_per_second": BANDWIDTH, "issue_share": ISSUE,
            "copy_share": COPY, "atomics_per_second": ATOMICS,
        },
        **costs(cases(options)),
        "others": {name: costs(launches()) for name, launches in OTHERS.items()},
        "odd": [{"kernel": case.name, **asdict(cost(case))} for case in odd_cases()],
    }  # fmt: skip


def show(result: dict[str, Any]) -> None:
    """Prints the table."""
    columns = ("registers", "spilled", "shared", "instructions", "executed", "us")
    for name, call in {"default call": result, **result["others"]}.items():
        rows = [(kernel, *(row[column] for column in columns)) for kernel, row in call["kernels"].items()]
        print_table(f"kernels for sm_90, {name}", ("kernel", *columns), rows)
        print(f"estimated: {call['us_per_image']} µs an image, batch {result['options']['batch']}")


if __name__ == "__main__":
    command("kernel_costs", Options, run, show, __doc__)
