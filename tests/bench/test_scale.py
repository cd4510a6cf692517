"""The page of arithmetic: it is that of the committed results, and its sums are right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import pages, scale


@pytest.fixture
def results() -> dict[str, dict]:
    """Round figures: 1 ms, 1 µs or 100 bytes for everything, a commit of 256 in 4 ms."""
    figures: dict[str, dict] = {
        "store": {},
        "listing": {},
        "dataset": {"rates": {"net": {"none": {"images_per_s": 50.0}}}},
    }
    for file, key, unit, _ in scale.INPUTS.values():
        *folders, last = key.split(".")
        place = figures[file]
        for name in folders:
            place = place.setdefault(name, {})
        place[last] = 100 if unit == "bytes" else 1
    figures["store"]["part_sizes"]["256"]["commit"]["ms"] = 4
    return figures


def lines(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_the_page_is_that_of_the_results():
    page = scale.PAGE.read_text(encoding="utf-8")
    assert pages.rewritten(page, scale.tables(scale.read_results())) == page


def test_every_input_names_its_file_and_key(results):
    table = lines(scale.tables(results)["inputs"])
    assert len(table) == len(scale.INPUTS) + 2
    assert ["storing a part of 256", "4 ms", "`results/store.json`", "`part_sizes.256.commit.ms`"] in table


def test_the_sums(results):
    tables = {name: lines(table) for name, table in scale.tables(results).items()}
    row = next(line for line in tables["rates"] if line[:2] == ["64", "500"])
    assert row[2:] == ["32,000", "5.21 min", "3.2 MB/s", "3.2 MB/s", "0.5", "1.0", "3.2 MB/s"]
    assert ["plan", "100", "1 GB"] in tables["storage"]
    assert tables["parts"][2] == [
        "256",
        "39,063",
        "25.6 kB",
        "39.1 s",
        "2.56 s",
        "0.512 s",
        "0.128 s",
        "64,000",
    ]
    writers = {tuple(line[:2]): line[2:] for line in tables["writers"]}
    assert writers["512", "2,000"] == ["20", "2", "1"]
    assert writers["8", "100"] == ["1", "1", "1"]
    assert tables["start"][2] == ["finding the samples in folders", "1 µs", "10 s"]
    assert tables["here"][2][2:4] == ["50", "2.31 days"]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.5, "0.5 s"), (119, "119 s"), (600, "10 min"), (7200, "2 h"), (864_000, "10 days")],
)
def test_times_are_readable(seconds, expected):
    assert scale._time(seconds) == expected


def test_a_missing_result_names_the_command_that_makes_it(tmp_path: Path):
    (tmp_path / "dataset.json").write_text(json.dumps({}))
    with pytest.raises(SystemExit, match=r"store.json is missing; run: python -m bench.store"):
        scale.read_results(tmp_path)


def test_a_page_without_a_table_is_an_error(results):
    with pytest.raises(ValueError, match="no place for the table 'inputs'"):
        pages.rewritten("# Nothing", scale.tables(results))
