"""Computes what docs/method.md and docs/methods.md say of clusters, Score-CAM and costs from the committed results.

    python -m bench.method_pages [--check]

A table or sentence is between `<!-- NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bench.pages import rewrite_all, table
from bench.readme import read_results

DOCS = Path(__file__).parents[1] / "docs"

#: Page -> names of its tables and sentences.
PAGES = {DOCS / "method.md": ("clusters",), DOCS / "methods.md": ("shuffled", "scorecam", "cost")}
RESULTS = ("clusters", "score_cam", "method_cost")

#: Column of `bench.score_cam` -> heading.
SCORE_CAM = {
    "average_precision": "average precision ↑",
    "pointing": "pointing ↑",
    "energy_inside": "energy inside ↑",
}


def pages(results: Mapping[str, Any]) -> dict[Path, dict[str, str]]:
    """Page -> name -> Markdown."""
    known = {
        "clusters": f"{clusters(results['clusters'])}\n\n{shuffled(results['clusters'])}",
        "shuffled": shuffled(results["clusters"]),
        "scorecam": score_cam(results["score_cam"]),
        "cost": cost(results["method_cost"]),
    }
    return {path: {name: known[name] for name in names} for path, names in PAGES.items()}


def clusters(result: Mapping[str, Any]) -> str:
    """The table of variants: what their clusters are like, and their maps' average precision with three labellings."""
    models = list(result["models"].values())
    heads = (
        "clusters",
        "noise",
        "dead in clusters",
        "average precision",
        "less shuffled",
        "less without clusters",
    )
    rows = []
    for name in models[0]["variants"]:
        found = [one["variants"][name] for one in models]
        precision = [one["average_precision"] for one in found]
        rows.append(
            (
                name,
                _slashed(f"{one['clusters']:.1f}" for one in found),
                _slashed(f"{one['noise']:.0%}" for one in found),
                _slashed("none" if one["dead"] is None else f"{one['dead']:.0%}" for one in found),
                _slashed(f"{one['mean']:.2f}" for one in precision),
                *(
                    _slashed(map(_difference, (one[other] for one in precision)))
                    for other in ("shuffled", "without")
                ),
            )
        )
    return table((_names(result["models"]), *heads), rows)


def _difference(figure: Mapping[str, float | None]) -> str:
    """Bold where its interval excludes 0."""
    low, high = figure["low"], figure["high"]
    beyond = low is not None and high is not None and (low > 0 or high < 0)
    text = f"{figure['difference']:+.3f}"
    return f"**{text}**" if beyond else text


def shuffled(result: Mapping[str, Any]) -> str:
    """Whose labels carry information, and whether that makes a map better, in two sentences."""
    verdicts, searched = result["verdicts"], result["search"]
    presets = [name for name in verdicts if name not in result["chosen"] and verdicts[name]["beats_shuffled"]]
    better = [name for name in result["chosen"] if {*verdicts[name].values()} == {True}]
    parts = [
        f"On the held-out half of COCO's scenes, with {_names(result['models'])}, labels shuffled among the",
        "clustered channels lower the average precision on all models (95 % intervals by photo) for",
        f"{_listed(presets)} of the presets.",
    ]
    if searched["variants"]:
        ways, questions = len(searched["variants"]), searched["questions"]
        tried = _listed(result["chosen"])
        have = "have" if len(result["chosen"]) > 1 else "has"
        end = "." if better else ", so none is offered as a preset."
        parts += [
            f"Of {ways} other ways to cluster (dead channels left out, unit length, other ε, a `min_samples` of 2),",
            f"{tried}",
            f"{have}, on {questions} questions about the other half, both labels that matter and a map that lies on",
            f"the object more than that without clusters, and {_listed(better)} on the held-out half of all",
            f"models{end}",
        ]
    return "\n".join(parts)


def _listed(names: list[str]) -> str:
    return ", ".join(f"*{name}*" for name in names) or "none"


def _slashed(texts: Iterable[str]) -> str:
    return " / ".join(texts)


def _names(models: Iterable[str]) -> str:
    return _slashed(spec.removeprefix("efficientnet-").capitalize() for spec in models)


def score_cam(result: Mapping[str, Any]) -> str:
    """The table of Score-CAM and others on few scenes, then what the difference is over all of them."""
    models, every = list(result["models"].values()), result["together"]
    rows = [
        (
            f"`{name}`" if "," not in name else name,
            *(
                _slashed(f"{one['methods'][name][column]['mean']:.2f}" for one in models)
                for column in SCORE_CAM
            ),
            _slashed(f"{one['methods'][name]['passes']:.0f}" for one in models),
        )
        for name in every["methods"]
    ]
    counts = _slashed(str(one["questions"]) for one in models)
    head = (f"{_names(result['models'])}, {counts} scenes", *SCORE_CAM.values(), "forward passes an image")
    return f"{table(head, rows)}\n\n{_less_score_cam(every)}"


def _less_score_cam(every: Mapping[str, Any]) -> str:
    parts = []
    for name, one in every["methods"].items():
        figure = one["average_precision"]
        if name != "scorecam":
            parts.append(f"{name} {figure['difference']:+.2f} [{figure['low']:+.2f}, {figure['high']:+.2f}]")
    return (
        f"Average precision less Score-CAM's, all {every['questions']} questions about {every['photos']} photos, 95 %\n"
        f"intervals by photo: {'; '.join(parts)}."
    )


def cost(result: Mapping[str, Any]) -> str:
    """The table of what a map costs: milliseconds, and the ratio to a forward pass, for each size of the batch."""
    sizes = result["batches"]
    head = ("", *(f"batch {size}: ms a map, forward passes" for size in sizes))
    rows = [
        (
            f"`{name}`" if " " not in name else name,
            *(f"{of[name]['ms_per_image']:.0f}, {of[name]['passes']:.2f}" for of in sizes.values()),
        )
        for name in next(iter(sizes.values()))
    ]
    return table(head, rows)


if __name__ == "__main__":
    rewrite_all(pages(read_results(RESULTS)), "bench.method_pages", __doc__)
