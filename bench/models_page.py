# ruff: noqa: RUF001 (the multiplication sign of sizes)
"""Computes the tables of docs/models.md from the committed results of `bench.models`.

python -m bench.models_page [--check]
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.pages import rewrite, table
from bench.readme import read_results
from cfcam_gpu.capture.noise_patch import WEAK

PAGE = Path(__file__).parents[1] / "docs" / "models.md"

LIBRARIES = ("torchvision", "timm", "transformers")
VERDICTS = ("right", "refused", "undecided", "wrong", "not built")

#: Ranges of the agreement and of the strength of `noise_patch`, from the first figure up to the next.
AGREEMENTS = (-1.0, 0.0, 0.2, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 1.01)
STRENGTHS = (0.0, 0.01, 0.03, 0.06, 0.1, 0.2, 0.3, 1.0, 100.0)

Records = Mapping[str, dict[str, Any]]


def tables(result: dict[str, Any]) -> dict[str, str]:
    """Name -> Markdown of each table."""
    records = result["models"]
    return {
        "verdicts": _verdicts(records),
        "versions": ", ".join(f"{name} {version}" for name, version in result["versions"].items()) + ".",
        "refused": _refused(records),
        "agreement": _ranges(records, "agreement", AGREEMENTS),
        "strength": _ranges(records, "strength", STRENGTHS),
        "models": _models(records),
    }


def _verdicts(records: Records) -> str:
    counts = Counter((name.partition(":")[0], record["verdict"]) for name, record in records.items())
    by_hand = Counter(name.partition(":")[0] for name, record in records.items() if "by_hand" in record)
    lines: list[list[Any]] = [
        [library, *(counts[library, verdict] for verdict in VERDICTS), by_hand[library]]
        for library in LIBRARIES
    ]
    lines.append(["all", *(sum(line[n] for line in lines) for n in range(1, len(VERDICTS) + 2))])
    return table(["library", *VERDICTS, "compared with a layer written by hand"], lines)


def _refused(records: Records) -> str:
    lines = [
        [_short(name), record["verdict"], record.get("message", "").partition(": ")[2] or _why(record)]
        for name, record in sorted(records.items())
        if record["verdict"] != "right"
    ]
    return table(["model", "verdict", "reason"], lines)


def _why(record: dict[str, Any]) -> str:
    figures = ("layer", "agreement", "strength", "single", "by_hand")
    return ", ".join(f"{key} {record[key]}" for key in figures if key in record)


def _ranges(records: Records, key: str, bounds: Sequence[float]) -> str:
    values = [record[key] for record in records.values() if key in record]
    pairs = list(itertools.pairwise(bounds))
    head = [key, *(f"{low:g} to {high:g}" for low, high in pairs)]
    rows = [("models", values)]
    if key == "agreement":
        strong = [record for record in records.values() if record.get("strength", 0) >= WEAK]
        rows.append((f"of strength {WEAK} and more", [record[key] for record in strong]))
        misread = [record["misread"] for record in strong if "misread" in record]
        rows.append(("the same, channels read as columns", misread))
    return table(
        head,
        [[name, *(sum(low <= one < high for one in some) for low, high in pairs)] for name, some in rows],
    )


def _models(records: Records) -> str:
    lines = [
        [
            _short(name),
            "×".join(map(str, record["size"][1:])),
            f"`{record['layer']}`",
            record["layout"] + (f", {record['prefix']} before" if record["prefix"] else ""),
            "×".join(map(str, record["map"])),
            f"{record['agreement']:.2f}",
            "same" if "by_hand" in record else "",
            f"`{record['finer']}` {'×'.join(map(str, record['finer_map']))}" if record["finer"] else "",
        ]
        for name, record in sorted(records.items())
        if record["verdict"] == "right"
    ]
    return table(["model", "image", "layer", "layout", "map", "agreement", "by hand", "finer layer"], lines)


def _short(name: str) -> str:
    library, _, model = name.partition(":")
    return f"{library}: {model.removesuffix('ForImageClassification')}"


if __name__ == "__main__":
    rewrite(PAGE, tables(read_results(("models",))["models"]), "bench.models_page", __doc__)
