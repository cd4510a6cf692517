"""Everything that only a GPU can show, in under nine minutes, without losing what was found when a part dies.

    python -m bench.gpu_check [--limit-s 540] [--only NAME ...] [--dry-run]

Each part runs in a process of its own with a time limit of its own, so a hang, a crash or a CUDA error that
spoils the device ends that part only. The results are written after every part, to the folder $OUT where that
is set, else to bench/results: gpu_check.json. A part writes what it has so far while it runs, so a part that is
ended at its limit keeps its finished cases. Called again, the check does what is left: parts that ended without
a failure are kept as long as the source files are the same (`--again` runs all).

The parts come in the order of their worth: four minutes are enough for the equivalence of the engines and the
speed at batch 64. The exit status is 1 when something failed, 2 when there is no GPU. `--dry-run` runs stubs in
place of the parts, on any machine, and shows the order, the limits and the saving.

Only the parts import PyTorch, so nothing that is wrong with it can end the check itself.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

#: What a part calls with what it has found so far.
Save = Callable[[Mapping[str, Any]], None]

#: A part: seconds it may take, and where to save -> what it found, with `failed`, a list of sentences.
Work = Callable[[float, Save], Mapping[str, Any]]

#: Characters of the printed summary, and of one sentence in it.
SUMMARY, SENTENCE = 8_000, 300

#: Lines of the output of a part that failed, in the results.
LOG_LINES = 60

#: Seconds between the signal that asks a part to end and the one that ends it.
GRACE_S = 3.0


@dataclass(frozen=True)
class Part:
    """A part of the check.

    Attributes:
        work: `module:function`, a `Work`.
        least_s: a part is not begun with less time left than this.
        most_s: its time limit.
        required: nothing else is run when this part fails.
        timed: it measures speed, so no other part runs beside it.
    """

    work: str
    least_s: float
    most_s: float
    required: bool = False
    timed: bool = True


#: By worth. Neighbours that are not timed run side by side. Their most likely times add up to less than eight minutes
#: on an H200.
PARTS: dict[str, Part] = {
    "machine": Part("bench.gpu_parts:machine", 10, 60, required=True),
    "equivalence": Part("bench.gpu_parts:equivalence", 20, 90, timed=False),
    "no waits": Part("bench.gpu_parts:no_waits", 10, 60, timed=False),
    "CUDA graph": Part("bench.gpu_parts:cuda_graph", 10, 60, timed=False),
    "memory": Part("bench.gpu_parts:memory", 15, 60, timed=False),
    "tests": Part("bench.gpu_parts:device_tests", 30, 120, timed=False),
    "batch 64": Part("bench.gpu_speeds:batch_64", 30, 90),
    "dataset": Part("bench.gpu_speeds:dataset", 30, 70),
    "batch 256": Part("bench.gpu_speeds:batch_256", 25, 60),
    "kernels": Part("bench.gpu_speeds:kernels", 10, 40),
    "other libraries": Part("bench.gpu_speeds:other_libraries", 20, 40),
    "batch 16": Part("bench.gpu_speeds:batch_16", 25, 50),
    "cuML": Part("bench.gpu_speeds:cuml_loop", 10, 30),
}

#: The same order and shape on a machine without a GPU: one of each way to end.
STUBS: dict[str, Part] = {
    "machine": Part("bench.gpu_check:stub_good", 0, 5, required=True),
    "good": Part("bench.gpu_check:stub_good", 0, 5),
    "not a number": Part("bench.gpu_check:stub_nan", 0, 5),
    "hangs": Part("bench.gpu_check:stub_hangs", 0, 1),
    "killed": Part("bench.gpu_check:stub_killed", 0, 5),
    "raises": Part("bench.gpu_check:stub_raises", 0, 5),
    "last": Part("bench.gpu_check:stub_good", 0, 5),
    "no time": Part("bench.gpu_check:stub_good", 10_000, 10_000),
}


def stub_good(limit_s: float, save: Save) -> Mapping[str, Any]:
    save({"half": 1})
    return {"value": 1.0, "limit_s": limit_s}


def stub_nan(limit_s: float, _save: Save) -> Mapping[str, Any]:
    return {"value": math.nan, "values": [math.inf, 1.0], "limit_s": limit_s}


def stub_hangs(limit_s: float, save: Save) -> Mapping[str, Any]:
    save({"half": 1})
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(60 + limit_s)
    return {}


def stub_killed(limit_s: float, save: Save) -> Mapping[str, Any]:
    save({"half": limit_s})
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def stub_raises(limit_s: float, save: Save) -> Mapping[str, Any]:
    save({"half": limit_s})
    raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore lines")


def finite(value: Any) -> Any:
    """The value with None for numbers that JSON does not have.

    Example:
        >>> finite({"a": [float("nan"), 1.5], "b": (float("inf"), "x")})
        {'a': [None, 1.5], 'b': [None, 'x']}
    """
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Writes JSON in place of the file at once, so that a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(finite(content), indent=2, allow_nan=False) + "\n")
    os.replace(temporary, path)


def read(path: Path) -> dict[str, Any]:
    """What a JSON file holds; nothing where there is none, or none that can be read."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def sources_hash() -> str:
    """Hash of the files that decide what the check finds."""
    digest = hashlib.sha256()
    for folder in ("cfcam_gpu", "kernels", "bench"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def run_part(part: Part, limit_s: float) -> dict[str, Any]:
    """Runs a part in a process of its own.

    Returns:
        what it found or had found so far; `state`: done, failed, timed out or died; `seconds`; `failed`.
    """
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        result, log = Path(folder) / "result.json", Path(folder) / "log"
        command = [sys.executable, "-m", "bench.gpu_check", "--part", part.work, str(result), str(limit_s)]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
            state, reason = _ended(process, limit_s)
        content = read(result)
        lines = log.read_text(errors="replace").strip().splitlines()
    failed = list(content.pop("failed", []))
    raised = content.pop("raised", None)
    if raised is not None:
        failed.append(raised)
    elif state != "done":
        failed.append(f"{reason}; last line: {lines[-1][-SENTENCE:] if lines else 'none'}")
    if failed and state == "done":
        state = "failed"
    if failed:
        content["log"] = lines[-LOG_LINES:]
    return {"state": state, "seconds": round(time.monotonic() - begun, 1), "failed": failed, **content}


def _ended(process: subprocess.Popen[bytes], limit_s: float) -> tuple[str, str]:
    """Waits for a process and ends it, with all its children, at its limit: its state and the reason."""
    try:
        status = process.wait(limit_s)
    except subprocess.TimeoutExpired:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_S)
        return "timed out", f"did not end in {limit_s:.0f} s"
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # what it may have left running
    if status == 0:
        return "done", ""
    return "died", f"ended by signal {-status}" if status < 0 else f"ended with status {status}"


def part_main(work: str, result: Path, limit_s: float) -> None:
    """The process of a part."""
    module, _, name = work.partition(":")
    content: dict[str, Any] = {}

    def save(findings: Mapping[str, Any]) -> None:
        content.update(findings)
        write(result, content)

    try:
        save(getattr(importlib.import_module(module), name)(limit_s, save))
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        lines = str(error).strip().splitlines() or [""]
        save({"raised": f"{type(error).__name__}: {lines[0][:SENTENCE]}"})
    sys.stdout.flush()
    os._exit(0)  # A spoiled CUDA context can hang or abort the interpreter's own end.


def run(parts: Mapping[str, Part], path: Path, limit_s: float, *, again: bool = False) -> dict[str, Any]:
    """Runs the parts that are not done yet, and writes the results to `path` after each.

    Returns:
        `sources`: hash of the source files; `parts`: what each found; `skipped`: sentences on those
        that there was no time for.
    """
    sources, end = sources_hash(), time.monotonic() + limit_s
    earlier = {} if again else read(path)
    kept = earlier.get("parts", {}) if earlier.get("sources") == sources else {}
    result: dict[str, Any] = {"benchmark": "gpu_check", "sources": sources, "parts": {}, "skipped": []}
    for group in _side_by_side(parts):
        begun = {}
        for name, part in group.items():
            left = end - time.monotonic()
            if not part.required and kept.get(name, {}).get("state") == "done":
                result["parts"][name] = kept[name]
            elif left < part.least_s:
                result["skipped"].append(f"{name}: {left:.0f} s left, {part.least_s:.0f} s needed")
                result["parts"] |= {name: kept[name]} if name in kept else {}
            else:
                begun[name] = min(left, part.most_s)
        for name, findings in _run_group({name: (group[name], limit) for name, limit in begun.items()}):
            result["parts"][name] = findings
            write(path, result)
        required = {name: result["parts"][name] for name, part in group.items() if part.required}
        if any(findings["failed"] for findings in required.values()):
            break
        if any(findings.get("gpu") != kept.get(name, {}).get("gpu") for name, findings in required.items()):
            kept = {}  # figures of two GPUs do not go into one file
    write(path, result)
    return result


def _side_by_side(parts: Mapping[str, Part]) -> list[dict[str, Part]]:
    """The parts in order, each alone, or neighbours that are not timed together."""
    groups = itertools.groupby(parts.items(), key=lambda item: item[0] if item[1].timed else "")
    return [dict(members) for _, members in groups]


def _run_group(parts: Mapping[str, tuple[Part, float]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Runs parts at the same time, each with its limit in seconds: what each found, as they end."""
    with ThreadPoolExecutor(max(1, len(parts))) as pool:
        for name in parts:
            print(f"{name} ...", file=sys.stderr, flush=True)
        running = {pool.submit(run_part, *part): name for name, part in parts.items()}
        for ended in as_completed(running):
            yield running[ended], ended.result()


def summary(result: Mapping[str, Any]) -> str:
    """At most `SUMMARY` characters: a line for each part, its figures, and its first failures."""
    lines = []
    for name, findings in result["parts"].items():
        lines.append(f"{name}: {findings['state']}, {findings['seconds']} s{_figures(findings)}")
        lines += [f"    {sentence[:SENTENCE]}" for sentence in findings["failed"][:4]]
        more = len(findings["failed"]) - 4
        lines += [f"    and {more} more, see the results file"] if more > 0 else []
    lines += [f"skipped, no time: {sentence}" for sentence in result["skipped"]]
    text = "\n".join(lines)
    return text if len(text) <= SUMMARY else text[: SUMMARY - 4] + "\n..."


def _figures(findings: Mapping[str, Any]) -> str:
    """The figures that a part puts into the summary."""
    shown = findings.get("shown") or {}
    return "".join(f"; {name} {value}" for name, value in shown.items())


def results_file(name: str) -> Path:
    folder = os.environ.get("OUT")
    return (Path(folder) if folder else Path(__file__).parent / "results") / name


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--limit-s", type=float, default=540.0, help="seconds for all parts together")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these parts only")
    parser.add_argument("--again", action="store_true", help="run also what is done")
    parser.add_argument("--dry-run", action="store_true", help="stubs instead of the parts, on any machine")
    parser.add_argument("--part", nargs=3, metavar=("WORK", "RESULT", "LIMIT"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.part:
        work, result, limit_s = options.part
        part_main(work, Path(result), float(limit_s))
    parts = STUBS if options.dry_run else PARTS
    if options.only:
        unknown = set(options.only) - set(parts)
        if unknown:
            parser.error(f"unknown part {', '.join(sorted(unknown))}; choose among: {', '.join(parts)}")
        parts = {name: part for name, part in parts.items() if name in options.only or part.required}
    path = results_file("gpu_check_dry_run.json" if options.dry_run else "gpu_check.json")
    result_of_all = run(parts, path, options.limit_s, again=options.again)
    print(summary(result_of_all))
    print(f"results: {path}")
    machine = result_of_all["parts"].get("machine", {})
    if machine.get("no_gpu"):
        return 2
    return int(any(findings["failed"] for findings in result_of_all["parts"].values()))


if __name__ == "__main__":
    sys.exit(main())
