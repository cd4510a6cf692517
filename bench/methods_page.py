# ruff: noqa: RUF001 (the dash of tables)
"""Computes the tables of docs/methods.md from the committed results.

    python -m bench.methods_page [--check]

A table is between `<!-- NAME -->` and `<!-- end -->`; numbers in the text around the tables are not changed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.pages import rewrite, table
from bench.readme import read_results

PAGE = Path(__file__).parents[1] / "docs" / "methods.md"

#: Part of the evaluation -> columns of its table: name -> heading.
COLUMNS = {
    "composites": {
        "pointing": "pointing ↑",
        "energy_inside": "energy inside ↑",
        "iou_25": "IoU 25 ↑",
        "iou_50": "IoU 50 ↑",
        "similarity_second": "second class ↓",
        "similarity_least": "least class ↓",
        "input_noise_ssim": "input noise ↑",
    },
    "photos": {
        "average_drop": "average drop ↓",
        "increase": "increase ↑",
        "deletion_black_auc": "deletion ↓",
        "insertion_blur_auc": "insertion ↑",
        "road_combined": "ROAD ↑",
        "energy_inside": "energy inside ↑",
        "iou_25": "IoU 25 ↑",
        "iou_50": "IoU 50 ↑",
        "randomisation_ssim": "randomised ↓",
    },
    "earlier": {
        "pointing": "pointing ↑",
        "energy_inside": "energy inside ↑",
        "iou_25": "IoU 25 ↑",
        "similarity_least": "least class ↓",
        "gradient_noise_ssim": "gradient noise ↑",
    },
}
MARKS = {"better": " ▲", "worse": " ▼", "differs": "", None: ""}


def tables(results: dict[str, Any]) -> dict[str, str]:
    """Name -> Markdown of every table."""
    parts = results["evaluation"]["parts"]
    return {
        name: _evaluation(parts[name]["found"], columns, speed=name == "composites")
        for name, columns in COLUMNS.items()
    }


def _evaluation(summary: dict[str, Any], columns: dict[str, str], *, speed: bool = True) -> str:
    rows = [
        [f"`{method}`", *(_cell(summary, method, column) for column in columns)]
        + ([_speed(summary, method)] if speed else [])
        for method in summary["methods"]
    ]
    return table(["method", *columns.values(), *(["images/s"] if speed else [])], rows)


def _cell(summary: dict[str, Any], method: str, column: str) -> str:
    """Mean and mark; followed by the number of images if other methods have more."""
    entry = summary["methods"][method].get(column, {})
    if entry.get("mean") is None:
        return "–"
    verdict = summary["paired"].get(method, {}).get(column, {}).get("verdict")
    most = max(other.get(column, {}).get("n", 0) for other in summary["methods"].values())
    few = "" if entry["n"] == most else f" ({entry['n']})"
    return f"{entry['mean']:.2f}{few}{MARKS[verdict]}"


def _speed(summary: dict[str, Any], method: str) -> str:
    return f"{summary['cost'][method]:.0f}"


if __name__ == "__main__":
    rewrite(PAGE, tables(read_results(("evaluation",))), "bench.methods_page", __doc__)
