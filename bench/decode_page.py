"""Computes the tables of docs/decoding.md from the committed results of `bench.decode`.

python -m bench.decode_page [--check]
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.pages import rewrite, table
from bench.readme import read_results

PAGE = Path(__file__).parents[1] / "docs" / "decoding.md"

_PICTURES = {"mosaics": "mosaics of photos", "enlarged": "enlarged photos"}


def tables(result: dict[str, Any]) -> dict[str, str]:
    """Name -> Markdown of each table."""
    return {
        "speed": _speed(result["rows"]),
        "views": _views(result["scaled"]),
        "heatmaps": _maps(result["scaled"]),
    }


def _speed(rows: list[dict[str, Any]]) -> str:
    names = ("pillow, scaled", "opencv, scaled", "simplejpeg, scaled", "torchcodec", "pillow, 1/8")
    head = ["file", "kB", "scale", "`full`, images/s", "`scaled`, images/s", "`scaled` ÷ `full`"]
    head += ["OpenCV, scaled", "simplejpeg, scaled", "torchcodec, full", "1/8, the limit", "`gpu`"]
    lines = []
    for row in rows:
        speed, times = row["images_per_cpu_second"], row["speed_over_pillow"]
        if "pillow, scaled" in speed:
            ratios = [f"{times[name]:.1f}" if name in times else "-" for name in names]
            rates = [f"{speed[name]:.0f}" for name in ("pillow", "pillow, scaled")]
            lines.append([row["file"], row["kilobytes"], row["scale"], *rates, *ratios, "not measured"])
    return table(head, lines)


def _views(scaled: dict[str, Any]) -> str:
    head = [
        "view of 224 by 224",
        *(f"{kind}: {what}" for kind in _PICTURES.values() for what in ("mean", "largest")),
    ]
    lines = [
        [
            name,
            *(
                f"{scaled[kind]['views'][name][what]:.3g}"
                for kind in _PICTURES
                for what in ("mean", "largest")
            ),
        ]
        for name in scaled["mosaics"]["views"]
    ]
    return table(head, lines)


def _maps(scaled: dict[str, Any]) -> str:
    head = ["heatmaps of EfficientNet-Lite0", "mean", "largest", "correlation", "same prediction"]
    lines = []
    for kind, words in _PICTURES.items():
        maps = scaled[kind]["heatmaps"]
        figures = [f"{maps[what]:.3f}" for what in ("mean", "largest", "correlation")]
        lines.append([words, *figures, maps["same_prediction"]])
    return table(head, lines)


if __name__ == "__main__":
    rewrite(PAGE, tables(read_results(("decode",))["decode"]), "bench.decode_page", __doc__)
