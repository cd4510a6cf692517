"""How much memory does the report of a large run need, and does it grow with the rows? No image exists.

    python -m bench.report [--rows 100000 300000 1000000]

All parts are links to one, whose rows have a 7×7 map; the page shows 5,000 of them, with notes in place of pictures.
The memory is the growth of the process's peak over what it had with the packages imported; every size has a process of
its own. `cpu_seconds` is that process's own CPU time.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from bench.common import print_table, save
from bench.listing import Generated
from bench.store import MAP_SHAPE, make_rows
from cfcam_gpu.dataset.store.store import Store
from cfcam_gpu.report.build import write_report

PART_SIZE = 1000


def make_run(out: Path, rows: int) -> None:
    """A finished run with a multiple of `PART_SIZE` rows."""
    store = Store(out)
    store.make_folder()
    plan = store.write_plan(Generated(rows), PART_SIZE)
    store.write_run({"fingerprint": {"method": "gradcam"}, "grid": list(MAP_SHAPE), "size": [224, 224]})
    store.write_part(0, make_rows(PART_SIZE), MAP_SHAPE)
    for part in range(1, plan.parts):
        os.link(store.part_file(0), store.part_file(part))


def report(out: Path) -> dict[str, float]:
    """Megabytes and CPU seconds of writing the report in this process."""
    before, cpu = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    page = write_report(out)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "memory_mb": round((peak - before) / 1024, 1),
        "process_peak_mb": round(peak / 1024, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "page_mb": round(page.stat().st_size / 2**20, 2),
    }


def measure(rows: int) -> dict[str, float]:
    """The figures of a run with so many rows."""
    with tempfile.TemporaryDirectory() as folder:
        make_run(Path(folder), rows)
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            return pool.submit(report, Path(folder)).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 300_000, 1_000_000])
    results = {str(rows): measure(rows) for rows in parser.parse_args().rows}
    names = list(next(iter(results.values())))
    print_table("report", ["rows", *names], [[rows, *figures.values()] for rows, figures in results.items()])
    save("report", {"map": list(MAP_SHAPE), "part_size": PART_SIZE, "rows": results})


if __name__ == "__main__":
    main()
