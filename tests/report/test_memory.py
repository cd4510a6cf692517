"""The memory of a report does not grow with the run, but for some bytes a row."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pyarrow as pa

from bench.report import make_run
from cfcam_gpu.report import write_report


def peaks(out: Path, rows: int) -> tuple[int, int]:
    """Most bytes of Python's and of Arrow's memory while a report of so many rows is written."""
    make_run(out, rows)
    whole, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        write_report(out, limit=20)
        return tracemalloc.get_traced_memory()[1], pool.max_memory()
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(whole)


def test_memory_hardly_grows_with_the_rows(tmp_path):
    peaks(tmp_path / "first", 1000)  # imports
    (python, arrow), (python_more, arrow_more) = (
        peaks(tmp_path / f"{rows}", rows) for rows in (10_000, 40_000)
    )
    assert arrow > 0
    assert arrow_more <= 1.2 * arrow
    assert python_more - python <= 40 * 30_000  # what is chosen among; 1 kB with the rows
