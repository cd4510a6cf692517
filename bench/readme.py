# ruff: noqa: RUF001 (the dash of tables)
"""Computes what the README, docs/benchmarks.md and docs/methods.md say in figures from the committed results.

    python -m bench.readme [--check]

A table or sentence is between `<!-- NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.common import RESULTS
from bench.pages import rewrite_all, table

ROOT = Path(__file__).parents[1]

#: Page -> names of its tables.
PAGES = {
    ROOT / "README.md": ("which", "survey"),
    ROOT / "docs" / "benchmarks.md": ("throughput", "gpu", "precision", "dataset", "discrimination"),
    ROOT / "docs" / "methods.md": ("scenes", "faithfulness", "controls"),
}

#: Case of `throughput` -> heading of its row: compared with the explanation, then with the prepared explanation.
CASES = {
    "forward only": "forward only",
    "forward only, compiled": "forward only, `torch.compile`",
    "published steps": "published method's steps",
    "pytorch-grad-cam": "pytorch-grad-cam's Grad-CAM",
    "torch-cam": "torch-cam's Grad-CAM",
    "captum": "captum's Grad-CAM",
}
PREPARED = {
    "forward only, prepared": "*prepared*: forward only, prepared alike",
    "published steps": "*prepared*: published method's steps",
    "pytorch-grad-cam": "*prepared*: pytorch-grad-cam's Grad-CAM",
}
#: The prepared copy whose maps are compared with float32's.
REDUCED = "bfloat16, folded, channels last"

#: Ratio of `throughput` -> its cases.
RATIOS = {
    "over_explained": CASES,
    "over_prepared": PREPARED,
    "over_compiled": {"forward only, compiled": "*compiled*: forward only, compiled alike"},
    "over_prepared_compiled": {
        "forward only, prepared, compiled": "*prepared and compiled*: forward only, both alike",
    },
}
MODELS = {"torchvision:resnet50@none": "ResNet-50", "efficientnet-lite0": "EfficientNet-Lite0"}

#: Overlays of `dataset` -> heading.
OVERLAYS = {"none": "off", "jpeg": "JPEG", "png": "PNG"}

#: Column of `scenes` -> heading; and methods of the table -> heading.
SCENE_COLUMNS = {
    "pointing": "pointing ↑",
    "energy_inside": "energy inside ↑",
    "iou_25": "IoU 25 ↑",
    "average_precision": "average precision ↑",
    "average_drop": "average drop ↓",
}
PHOTO_COLUMNS = {
    "deletion_black_auc": "deletion ↓",
    "insertion_blur_auc": "insertion ↑",
    "road_combined": "ROAD ↑",
    "average_drop": "average drop ↓",
    "adcc": "ADCC ↑",
    "arcc": "ARCC ↑",
    "similarity_second": "second class ↓",
    "input_noise_ssim": "input noise ↑",
}
#: Controls of cfcam-sharp's steps, on the scenes.
CONTROL_METHODS = (
    "cfcam-sharp", "control: no spread", "control: no evidence", "control: no curve", "control: groups of channels",
    "control: shuffled groups",
)  # fmt: skip
SCENE_METHODS = (
    "gradcam", "cfcam", "cfcam-fine", "layercam", "ablationcam", "groupcam", "reciprocam", "refinecam", "cfcam-sharp",
    "gradcam, three sizes", "cfcam-sharp, three sizes",
)  # fmt: skip
#: Each map of the others took dozens of passes.
PHOTO_METHODS = tuple(name for name in SCENE_METHODS if name not in {"ablationcam", "groupcam"})


def tables(results: dict[str, Any]) -> dict[str, str]:
    """Name -> Markdown of every table."""
    return {
        "which": which(results),
        "throughput": _throughput(results["throughput"]["batches"], results["gpu_check"]["parts"]),
        "gpu": _gpu(results["gpu_check"]["parts"]),
        "precision": _precision(results),
        "dataset": _dataset(results["dataset"]["rates"]),
        "discrimination": _discrimination(results["discrimination"]["presets"]),
        "scenes": _scenes(results["scenes"]["models"], "scenes", SCENE_COLUMNS, SCENE_METHODS),
        "faithfulness": _scenes(results["scenes"]["models"], "photos", PHOTO_COLUMNS, PHOTO_METHODS),
        "controls": _scenes(results["scenes"]["models"], "scenes", SCENE_COLUMNS, CONTROL_METHODS),
        "survey": survey(results["models"]["models"]),
    }


def _throughput(batches: dict[str, Any], parts: Mapping[str, Any]) -> str:
    head = ["time an image ÷ that of an explanation", "batch 1", "16", "64", "NVIDIA H200, 16"]
    if parts["machine"]["gpu"] not in head[-1]:
        raise SystemExit(
            f"the column of the GPU is headed {head[-1]}, the results are of {parts['machine']['gpu']}"
        )
    gpu = parts["other libraries"]["batches"]["16"]
    rows = [
        [heading, *(_ratio(batch.get(over, {}).get(case)) for batch in (*batches.values(), gpu))]
        for over, cases in RATIOS.items()
        for case, heading in cases.items()
    ]
    return table(head, rows)


def _gpu(parts: Mapping[str, Any]) -> str:
    """Speeds on the GPU, in bfloat16, and what the other parts of its check found."""
    cases = {
        "forward only": "forward only",
        "forward only, compiled, CUDA graph": "forward only, compiled, in a CUDA graph",
        "explained": "explained",
        "explained, compiled": "explained, compiled",
        "explained, compiled, CUDA graph": "explained, compiled, recorded in a CUDA graph",
    }
    figures = {batch: parts[f"batch {batch}"]["batches"][str(batch)]["cases"] for batch in (64, 256)}
    rows = [
        [heading, *(f"{1000 / figures[batch][case]['ms_per_image']:,.0f}" for batch in figures)]
        for case, heading in cases.items()
        if all(case in of_batch for of_batch in figures.values())
    ]
    runs = parts["dataset"]
    ended = {"full": "decoded by the machine's 16 cores", "gpu": "`--decode gpu`"}
    rows += [
        [f"JPEG files through a dataset run, {how}", "–", f"{runs[decode]['images_per_s']:,.0f}"]
        for decode, how in ended.items()
    ]
    engines = parts["equivalence"]["engines"]
    compared = {
        name: [case for case in engines[name].values() if isinstance(case, dict)]
        for name in ("triton", "torch")
    }
    labels = sum(case["other_labels"] for cases in compared.values() for case in cases)
    largest = " and ".join(
        f"{max(case['heatmap'] for case in cases):.0e} with `{name}`" for name, cases in compared.items()
    )
    return "\n".join([
        table([f"images/s on an {parts['machine']['gpu']}", *(f"batch {batch}" for batch in figures)], rows),
        "",
        f"Heatmaps differ from the reference's by at most {largest};",
        f"other labels: {labels or 'none'}. Waits for the device: {len(parts['no waits']['failed']) or 'none'}.",
        f"The tests of the engines and kernels there: {parts['tests']['closing_line'].partition(' in ')[0]}.",
    ])  # fmt: skip


def which(results: Mapping[str, Any]) -> str:
    """What each method is for, in three sentences."""
    presets = results["discrimination"]["presets"]
    scenes = {spec: parts["scenes"] for spec, parts in results["scenes"]["models"].items()}
    costs = results["throughput"]["batches"]["16"]["over_explained"]
    figures = {
        f"{name}_{column}": [one["methods"][label][column] for one in scenes.values()]
        for name, label in (("sharp", "cfcam-sharp"), ("gradcam", "gradcam"))
        for column in ("average_precision", "average_drop")
    }
    return _WHICH.format(
        models=" / ".join(spec.removeprefix("efficientnet-").capitalize() for spec in scenes),
        **{name: " / ".join(f"{one['mean']:.2f}" for one in some) for name, some in figures.items()},
        precise=_chance(figures["sharp_average_precision"]),
        hidden=_chance(figures["sharp_average_drop"]),
        cost=costs["explained"] / costs["forward only"],
        upstream=presets["upstream"]["correlation"],
        default=presets["default"]["correlation"],
    )


_WHICH = """\
- **`cfcam-sharp`** lies on the object more than Grad-CAM: average precision {sharp_average_precision} against
  {gradcam_average_precision} on COCO scenes (EfficientNet-{models}), {precise}; showing its map alone
  costs {sharp_average_drop} of the class's probability against {gradcam_average_drop}, {hidden}.
- **`cfcam`**, the default, takes {cost:.2f} times as long as a forward pass (ResNet-50, batch 16, CPU); its map is
  about Grad-CAM's, and its clusters add nothing that we could measure.
- **`cfcam:upstream`**, the published code, gives the same map whatever the class (correlation {upstream:.2f} between
  the likeliest and the least likely class; `cfcam` {default:.2f}): take it to reproduce the paper, not to explain."""


def _chance(figures: Sequence[Mapping[str, float]]) -> str:
    """Whether differences from Grad-CAM are beyond chance, by Holm's p of each model."""
    beyond = [one["p_holm"] < 0.05 for one in figures]
    return (
        "beyond chance" if all(beyond) else "on one model beyond chance" if any(beyond) else "within chance"
    )


def survey(records: Mapping[str, dict[str, Any]]) -> str:
    """How many of the models of `bench.models` have which verdict, in a sentence.

    Example:
        >>> survey({"timm:a": {"verdict": "right"}, "timm:b": {"verdict": "refused"}}).partition(",")[0]
        'Of 2 classifiers of torchvision'
    """
    counts = Counter(record["verdict"] for record in records.values() if record["verdict"] != "not built")
    wrong = f"{counts['wrong']} wrong" if counts["wrong"] else "none wrong"
    undecided = f", {counts['undecided']} undecided" if counts["undecided"] else ""
    return (
        f"Of {counts.total()} classifiers of torchvision, timm and transformers, untrained, "
        f"{counts['right']} are right, {counts['refused']} refused{undecided}, {wrong}:\n"
        "[docs/models.md](docs/models.md)."
    )


def _precision(results: Mapping[str, Any]) -> str:
    cases = {
        "ResNet-50, random weights": results["throughput"]["prepared"]["candidates"][REDUCED],
        "EfficientNet-Lite0, real photos": results["precision"]["variants"][REDUCED],
    }
    head = [
        "bfloat16, prepared, against float32, the worst image",
        "mean difference",
        "correlation",
        "other channel labels",
    ]
    return table(
        head,
        [
            [name, f"{one['mean']:.3f}", f"{one['correlation']:.3f}", f"{one['other_labels']:.1%}"]
            for name, one in cases.items()
        ],
    )


def pages(results: dict[str, Any]) -> dict[Path, dict[str, str]]:
    """Page -> name of a table -> Markdown."""
    known = tables(results)
    return {path: {name: known[name] for name in names} for path, names in PAGES.items()}


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}" if value >= 10 else f"{value:.2f}"


def _dataset(rates: dict[str, Any]) -> str:
    head = ["2,000 JPEGs (40 damaged) through `cfcam explain`", "forward only, images/s"]
    head += [f"{what}, overlays {kind}" for kind in OVERLAYS.values() for what in ("images/s", "share")]
    rows = [
        [name, f"{rates[spec]['none']['forward_only']:.1f}"]
        + [
            text
            for kind in OVERLAYS
            for text in (f"{rates[spec][kind]['images_per_s']:.1f}", f"{rates[spec][kind]['of_forward']:.2f}")
        ]
        for spec, name in MODELS.items()
    ]
    return table(head, rows)


def _discrimination(presets: dict[str, Any]) -> str:
    shown = {"default": "`default`", "upstream": "`upstream` (published code)", "workflow": "`workflow`"}
    lines = {
        "correlation": ("correlation of the maps of the likeliest and the least likely class", "{:.4f}"),
        "share": (
            "share of the map on the asked-for half, {composite_maps} maps of two-object composites (chance 0.5)",
            "{:.2f}",
        ),
        "blank": ("blank maps among those", "{:.0%}"),
    }
    about = presets["default"]
    rows = [
        [
            heading.format(**about),
            *("–" if presets[p][key] is None else form.format(presets[p][key]) for p in shown),
        ]
        for key, (heading, form) in lines.items()
    ]
    return table([f"EfficientNet-Lite0, {about['photos']} real photos", *shown.values()], rows)


def _scenes(models: Mapping[str, Any], part: str, columns: Mapping[str, str], labels: Sequence[str]) -> str:
    """Means of all models in turn, bold where Holm's p of the difference from Grad-CAM is below 0.05."""
    methods = [one[part]["methods"] for one in models.values()]
    rows = [
        [label, *(_means([one[label][column] for one in methods]) for column in columns)]
        for label in labels
        if all(label in one for one in methods)
    ]
    heads = " / ".join(spec.removeprefix("efficientnet-").capitalize() for spec in models)
    return table([heads, *columns.values()], rows)


def _means(figures: Sequence[dict[str, float]]) -> str:
    return " / ".join(map(_mean, figures))


def _mean(figure: dict[str, float]) -> str:
    text = f"{figure['mean']:.2f}"
    return f"**{text}**" if figure.get("p_holm", 1) < 0.05 else text


def read_results(
    names: Sequence[str] = (
        "throughput",
        "precision",
        "dataset",
        "discrimination",
        "models",
        "scenes",
        "gpu_check",
    ),
) -> dict[str, Any]:
    """The committed results by name."""
    return {name: json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8")) for name in names}


if __name__ == "__main__":
    rewrite_all(pages(read_results()), "bench.readme", __doc__)
