"""Do CF-CAM's clusters carry information? Real photos with masks, three models, two layers.

    python -m bench.clusters --coco DIR

The photos and questions are those of `python -m bench.scenes`. A map is made with the clusters' labels as they are, and
with the labels drawn anew among the channels that were clustered, noise included: if the map lies on the object no less
then, the labels say nothing that matters. It is also made without clusters, each channel with its own gradient.

Besides the presets, all combinations of these are tried: channels that are zero everywhere left out before anything
else, channels of unit length, eps from other percentiles or from the elbow of the distances to the min_samples-th
neighbour (Ester et al. 1996), and a min_samples of 2. Those whose labels matter on photos of one half, and whose
maps are better there than those without clusters, are measured on the other half, as the presets are.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.common import command, print_table
from bench.scene_questions import SEARCH, UNSEEN, Question, scene_questions
from bench.scene_statistics import compared
from cfcam_gpu import CFCAM, CFCAMConfig
from cfcam_gpu.cfcam.clustering import (
    Clusters,
    cluster_channels,
    dbscan,
    min_samples,
    pairwise_distances,
    scan_in_chunks,
    select_by_partition,
)
from cfcam_gpu.cfcam.maps import upsample_and_normalise
from cfcam_gpu.cfcam.weighting import class_map
from cfcam_gpu.config import DOMINANT, EPS_FLOOR, NOISE, PRESETS
from cfcam_gpu.evaluation.maps import normaliser
from cfcam_gpu.methods import Features
from cfcam_gpu.metrics import METRICS, MetricOptions
from cfcam_gpu.metrics.base import Case
from cfcam_gpu.models import load_model

#: Columns of a map, and the metrics they come from.
COLUMNS = {"average_precision": "average_precision", "energy_inside": "localisation"}

#: A layer -> the presets, or changes of one, whose clustering is varied there. Weights that differ from cell to cell
#: are for layers before the last.
BASES = {
    "last": {"default": CFCAMConfig(), "workflow": CFCAMConfig.preset("workflow")},
    "earlier": {
        **{name: CFCAMConfig.preset(name) for name in ("default", "workflow", "spatial")},
        "spatial, no dominant": CFCAMConfig.preset("spatial", dominant_percentile=None),
    },
}

#: Percentiles of the distances that are eps; None: the elbow.
PERCENTILES: tuple[float | None, ...] = (25.0, 5.0, None)

#: `min_samples_fraction`; 0 is a min_samples of 2.
FRACTIONS = (0.05, 0.0)

#: How often labels are drawn anew, in the search and for the figures.
SHUFFLES = {SEARCH: 2, UNSEEN: 3}


#: Most variants of a layer that are measured on the other half.
CHOSEN = 2


@dataclass(frozen=True)
class Options:
    """Folder; models; photos of each half, 0: all; whether others than presets are tried, and on how many photos."""

    coco: str = ""
    models: tuple[str, ...] = ("efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2")
    limit: int = 0
    search: bool = True
    search_limit: int = 8


@dataclass(frozen=True)
class Variant:
    """A layer, and how its channels are clustered and weighted there.

    Attributes:
        live: whether channels that are zero everywhere are left out, also of the percentile of dominant channels.
        unit: whether the clustered channels are scaled to length 1.
        elbow: whether eps is the elbow of the distances to the min_samples-th neighbour.
    """

    layer: str
    base: str
    config: CFCAMConfig
    live: bool = False
    unit: bool = False
    elbow: bool = False

    @property
    def name(self) -> str:
        """The layer, the preset and what differs from it.

        Example:
            >>> Variant("last", "default", CFCAMConfig(eps_percentile=2), unit=True).name
            'last: default, unit length, eps 2 %'
        """
        eps = "eps at the elbow" if self.elbow else f"eps {self.config.eps_percentile:g} %"
        changes = {
            "live channels": self.live,
            "unit length": self.unit,
            eps: self.elbow or self.config.eps_percentile != 25,
            "min_samples 2": self.config.min_samples_fraction == 0,
        }
        return f"{self.layer}: " + ", ".join(
            [self.base, *(text for text, differs in changes.items() if differs)]
        )

    def clusters(self, activations: Tensor) -> Clusters:
        """The clusters of one image's channels (1,C,h,w); a channel that is left out is noise."""
        kept = (
            activations[0].flatten(1).any(1)
            if self.live
            else torch.ones(activations.shape[1], dtype=torch.bool)
        )
        if not kept.any():
            nothing = torch.full((1, len(kept)), NOISE)
            return Clusters(nothing, torch.zeros(1, dtype=torch.int64), torch.full((1,), EPS_FLOOR))
        found = cluster_channels(activations[:, kept], self.config, self._scan)
        labels = torch.full((1, len(kept)), NOISE)
        labels[:, kept] = found.labels
        return Clusters(labels, found.n_clusters, found.eps)

    def _scan(self, rows: Tensor, valid: Tensor, config: CFCAMConfig) -> tuple[Tensor, Tensor, Tensor]:
        rows = F.normalize(rows, dim=2) if self.unit else rows
        return (_scan_at_elbow if self.elbow else scan_in_chunks)(rows, valid, config)


def _scan_at_elbow(rows: Tensor, valid: Tensor, config: CFCAMConfig) -> tuple[Tensor, Tensor, Tensor]:
    """`Scan` of one image with eps at the elbow of the sorted distances to the min_samples-th neighbour."""
    rows, inside = rows[:, valid[0]], valid[:, valid[0]]
    distances, minimum = pairwise_distances(rows, inside), min_samples(inside.sum(1), config)
    place = torch.full((rows.shape[1], 1), min(int(minimum), rows.shape[1]) - 1)
    reach = select_by_partition(distances[0], place)[:, 0].sort().values
    eps = elbow(reach).double().clamp_min(EPS_FLOOR)[None]
    found, n_clusters = dbscan(distances, eps, minimum)
    labels = torch.full(valid.shape, NOISE)
    labels[valid] = found[0]
    return labels, n_clusters, eps


def elbow(values: Tensor) -> Tensor:
    """The value of an ascending curve (N,) that is farthest below the line from its first point to its last.

    Example:
        >>> elbow(torch.tensor([0.0, 0.1, 0.2, 0.3, 4.0, 8.0]))
        tensor(0.3000)
    """
    line = torch.lerp(values[0], values[-1], torch.linspace(0, 1, len(values)))
    return values[(line - values).argmax()]


def presets() -> list[Variant]:
    """The presets at the layers that they are for."""
    return [
        Variant(layer, name, config)
        for layer, bases in BASES.items()
        for name, config in bases.items()
        if name in PRESETS
    ]


def variants() -> list[Variant]:
    """All combinations, without the presets themselves."""
    found = [
        Variant(layer, base, _changed(config, percentile, fraction), live, unit, percentile is None)
        for layer, bases in BASES.items()
        for base, config in bases.items()
        for live, unit, percentile, fraction in product((False, True), (False, True), PERCENTILES, FRACTIONS)
    ]
    known = {variant.name for variant in presets()}
    return [variant for variant in found if variant.name not in known]


def _changed(config: CFCAMConfig, percentile: float | None, fraction: float) -> CFCAMConfig:
    return replace(
        config, eps_percentile=25.0 if percentile is None else percentile, min_samples_fraction=fraction
    )


def shuffled(labels: Tensor, live: Tensor, generator: torch.Generator) -> Tensor:
    """Labels (1,C) with those of the clustered channels in another order; dominant and left out channels keep theirs.

    Args:
        labels: of `Variant.clusters`.
        live: (C,) bool, the channels that were not left out.
        generator: makes the order.

    Example:
        >>> labels, live = torch.tensor([[-2, 0, 1, -1, -1]]), torch.tensor([True, True, True, True, False])
        >>> found = shuffled(labels, live, torch.Generator().manual_seed(0))
        >>> found[0, 0].item(), found[0, 4].item(), sorted(found[0, 1:4].tolist())
        (-2, -1, [-1, 0, 1])
    """
    places = ((labels[0] != DOMINANT) & live).nonzero().flatten()
    changed = labels.clone()
    changed[0, places] = labels[0, places[torch.randperm(len(places), generator=generator)]]
    return changed


class Scorer:
    """Measures grids of one question's image, each different grid once."""

    def __init__(self, question: Question) -> None:
        self._question, self._known = question, dict[bytes, dict[str, float]]()

    def __call__(self, grid: Tensor) -> dict[str, float]:
        """Column -> value of a grid (1,1,h,w)."""
        content = grid.numpy().tobytes()
        if content not in self._known:
            self._known[content] = self._measured(grid)
        return self._known[content]

    def _measured(self, grid: Tensor) -> dict[str, float]:
        assert self._question.mask is not None
        heatmaps, _ = upsample_and_normalise(grid, tuple(self._question.mask.shape))  # type: ignore[arg-type]
        case = Case.of_heatmaps(
            lambda images: images[:, :2, 0, 0],  # neither metric asks the model
            torch.zeros(1, 3, 1, 1),
            torch.tensor([0]),
            heatmaps[:, 0],
            masks=self._question.mask[None],
        )
        options = MetricOptions(iou_thresholds=(0.5,))
        return {column: METRICS[metric](case, options)[column].item() for column, metric in COLUMNS.items()}


def measured(
    variant: Variant, features: Features, scorer: Scorer, question: Question, shuffles: int
) -> dict[str, float]:
    """What the variant's clusters of a question are like, and the columns of its three maps."""
    activations, gradients = features.activations, features.gradients
    clusters = variant.clusters(activations)
    alive = activations[0].flatten(1).any(1)
    clustered, member = clusters.labels[0] != DOMINANT, clusters.labels[0] >= 0
    found = {
        "clusters": float(clusters.n_clusters),
        "noise": _share(clusters.labels[0] == NOISE, clustered),
        "dead": _share(~alive, member),
    }
    generator = torch.Generator().manual_seed(zlib.crc32(f"{question.photo} {question.kind}".encode()))
    live = alive if variant.live else torch.ones_like(alive)
    orders = [shuffled(clusters.labels, live, generator) for _ in range(shuffles)]
    every = torch.full_like(clusters.labels, DOMINANT)
    for kind, labels in (("as_is", [clusters.labels]), ("shuffled", orders), ("without", [every])):
        grids = [
            class_map(activations, gradients, replace(clusters, labels=of), variant.config) for of in labels
        ]
        values = [scorer(grid) for grid in grids]
        found |= {f"{kind} {column}": sum(one[column] for one in values) / len(values) for column in COLUMNS}
    return found


def _share(part: Tensor, of: Tensor) -> float:
    """The share of `of` that is in `part`, both (C,) bool; NaN where there is none."""
    return (part & of).sum().item() / of.sum().item() if of.any() else float("nan")


#: Model -> questions, and variant -> a value of each column for each of them.
Answers = dict[str, tuple[list[Question], dict[str, list[dict[str, float]]]]]


def answers(options: Options, half: str, asked: Sequence[Variant]) -> Answers:
    """What all variants answer about the photos of a half."""
    return {spec: _of_model(spec, options, half, asked) for spec in options.models}


def _of_model(
    spec: str, options: Options, half: str, asked: Sequence[Variant]
) -> tuple[list[Question], dict[str, list[dict[str, float]]]]:
    loaded = load_model(spec)
    limit = options.search_limit if half == SEARCH else options.limit
    questions = scene_questions(loaded, Path(options.coco), half, limit)
    found: dict[str, list[dict[str, float]]] = {variant.name: [] for variant in asked}
    normalise = normaliser(loaded.preprocess)
    with CFCAM(loaded.model, method="cfcam-fine", on_invalid="flag") as cam:
        for question in questions:
            captured = cam.features(normalise(question.pixels[None]), torch.tensor([question.target]))
            layers = {"last": captured, "earlier": captured.at_finer_layer()}
            scorer = Scorer(question)
            for variant in asked:
                found[variant.name].append(
                    measured(variant, layers[variant.layer], scorer, question, SHUFFLES[half])
                )
    return questions, found


def figures(questions: Sequence[Question], rows: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Means of a variant's rows, and how much its maps differ from those with shuffled labels and without clusters."""
    photos, kinds = [q.photo for q in questions], [q.kind for q in questions]
    found: dict[str, Any] = {
        name: _mean([row[name] for row in rows]) for name in ("clusters", "noise", "dead")
    }
    for column in COLUMNS:
        own = [row[f"as_is {column}"] for row in rows]
        found[column] = {"mean": _mean(own)}
        for other in ("shuffled", "without"):
            theirs = [row[f"{other} {column}"] for row in rows]
            difference = compared(own, theirs, photos, kinds)
            kept = {name: _rounded(difference[name]) for name in ("difference", "low", "high", "p")}
            found[column][other] = {"mean": _mean(theirs), **kept}
    return found


def _mean(values: Sequence[float]) -> float | None:
    known = [value for value in values if value == value]
    return _rounded(sum(known) / len(known)) if known else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def together(found: Answers) -> dict[str, dict[str, Any]]:
    """Variant -> its figures over the questions of all models; a photo counts once, whoever was asked."""
    questions = [question for asked, _ in found.values() for question in asked]
    names = dict.fromkeys(name for _, of in found.values() for name in of)
    return {name: figures(questions, [row for _, of in found.values() for row in of[name]]) for name in names}


def chosen(searched: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """At most two variants of each layer, those with most gain over the map without clusters; often none.

    The low ends of the average precision's differences, from shuffled labels and from no clusters, must be above 0.
    """

    def low(name: str, other: str) -> float:
        end = searched[name]["average_precision"][other]["low"]
        return -1.0 if end is None else float(end)

    promising = [name for name in searched if low(name, "shuffled") > 0 and low(name, "without") > 0]
    promising.sort(key=lambda name: low(name, "without"), reverse=True)
    return [
        name for layer in BASES for name in [one for one in promising if one.startswith(f"{layer}:")][:CHOSEN]
    ]


def beats(models: Mapping[str, Mapping[str, Any]], name: str, other: str) -> bool:
    """Whether a variant's average precision is above the other map's on all models, intervals by photo."""
    differences = [of["variants"][name]["average_precision"][other] for of in models.values()]
    return all(one["low"] is not None and one["low"] > 0 for one in differences)


def run(options: Options) -> dict[str, Any]:
    """The benchmark's result."""
    search = answers(options, SEARCH, variants()) if options.search else {}
    names = chosen(together(search))
    asked = [*presets(), *(variant for variant in variants() if variant.name in names)]
    return result_of(search, answers(options, UNSEEN, asked))


def result_of(search: Answers, found: Answers) -> dict[str, Any]:
    """The result: of the answers of the search, and those of the presets and chosen variants on the other half."""
    searched = together(search)
    models: dict[str, Any] = {
        spec: {
            "questions": len(questions),
            "variants": {name: figures(questions, rows) for name, rows in of.items()},
        }
        for spec, (questions, of) in found.items()
    }
    names = next(iter(models.values()))["variants"]
    verdicts = {
        name: {f"beats_{other}": beats(models, name, other) for other in ("shuffled", "without")}
        for name in names
    }
    asked = sum(len(questions) for questions, _ in search.values())
    return {
        "chosen": chosen(searched),
        "verdicts": verdicts,
        "models": models,
        "search": {"questions": asked, "variants": searched},
    }


def show(result: dict[str, Any]) -> None:
    """Prints a table for each model."""
    for spec, of in result["models"].items():
        rows = [(name, *_cells(figure)) for name, figure in of["variants"].items()]
        heads = ("clusters", "noise", "dead", "precision", "less shuffled", "less without")
        print_table(f"{spec}, {of['questions']} questions of the held-out half", ("variant", *heads), rows)


def _cells(figure: Mapping[str, Any]) -> Iterator[object]:
    yield from (figure[name] for name in ("clusters", "noise", "dead"))
    precision = figure["average_precision"]
    yield precision["mean"]
    for other in ("shuffled", "without"):
        one = precision[other]
        interval = "" if one["low"] is None else f" [{one['low']:+.3f}, {one['high']:+.3f}]"
        yield f"{one['difference']:+.3f}{interval}"


if __name__ == "__main__":
    command("clusters", Options, run, show, __doc__)
