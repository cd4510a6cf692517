"""Does the model's score follow what the heatmap marks? Drop, deletion and insertion.

A blank map is measured like any other: it keeps nothing in `drop`, and deletes and inserts in reading order.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cfcam_gpu.metrics.base import Case, Column, Metric
from cfcam_gpu.metrics.masking import black, blurred, masked_probabilities, probability, ranks
from cfcam_gpu.metrics.options import MetricOptions

#: What takes the place of pixels that are deleted or not yet inserted.
BASELINES = {"black": black, "blur": blurred}

#: From these heatmap values on the published code keeps a pixel, in `ad.py` and in `ai.py`.
PUBLISHED_DROP_THRESHOLD = 0.5
PUBLISHED_INCREASE_THRESHOLD = 0.3

#: Baseline of the published code's `ai.py`. It writes ImageNet's mean m where normalised values belong,
#: which is the colour m + m·std, in [0,1].
PUBLISHED_COLOUR = (0.485 * 1.229, 0.456 * 1.224, 0.406 * 1.225)


def drop(case: Case, options: MetricOptions) -> dict[str, Tensor]:
    """Average Drop and Increase in Confidence on the image times its heatmap, black where the map is 0.

    Each is one image's term of the average: max(0, Y-O)/Y as a fraction, NaN where Y is 0, and O > Y as 0 or 1.
    """
    kept = probability(case, case.images * case.heatmaps[:, None])
    return {
        "average_drop": (case.clean - kept).relu() / case.clean,
        "increase": (kept > case.clean).float(),
    }


def drop_published(case: Case, options: MetricOptions) -> dict[str, Tensor]:
    """The figures that the published CF-CAM code calls Average Drop and Average Increase.

    Drop: (Y-O)/Y with pixels at most 0.5 black; negative where the probability rises, NaN where Y is 0.
    Increase: the probability with pixels at most 0.3 in one colour, less that of an image all in this
    colour; no comparison with Y. The published code masks for the drop before it resizes the image to the
    model's input; here the model's input is masked.
    """
    marked = case.heatmaps[:, None] > PUBLISHED_DROP_THRESHOLD
    kept = probability(case, case.images * marked)
    colour = torch.tensor(PUBLISHED_COLOUR, device=case.images.device)[:, None, None].expand_as(case.images)
    shown = case.heatmaps[:, None] > PUBLISHED_INCREASE_THRESHOLD
    inserted = probability(case, torch.where(shown, case.images, colour))
    return {
        "drop_raw_pixels": (case.clean - kept) / case.clean,
        "increase_mean_colour": inserted - probability(case, colour),
    }


def deletion(case: Case, options: MetricOptions) -> dict[str, Tensor]:
    """RISE's deletion: the probability while pixels give way to the baseline, the most important first."""
    places, counts, curves = ranks(case.heatmaps), pixel_counts(case, options.steps), {}
    for name, baseline in BASELINES.items():
        base = baseline(case.images)
        gone = masked_probabilities(case, places, counts[1:], base, case.images, options.batch_size)
        curves[name] = torch.cat([case.clean[:, None], gone], 1)
    return _with_areas("deletion", curves, counts)


def insertion(case: Case, options: MetricOptions) -> dict[str, Tensor]:
    """RISE's insertion: the probability while pixels come back into the baseline, the most important first."""
    places, counts, curves = ranks(case.heatmaps), pixel_counts(case, options.steps), {}
    for name, baseline in BASELINES.items():
        base = baseline(case.images)
        back = masked_probabilities(case, places, counts[:-1], case.images, base, options.batch_size)
        curves[name] = torch.cat([back, case.clean[:, None]], 1)
    return _with_areas("insertion", curves, counts)


def _with_areas(kind: str, curves: dict[str, Tensor], counts: Tensor) -> dict[str, Tensor]:
    """Each baseline's curve (B,S) and the area under it (B,), by their columns."""
    areas = {f"{kind}_{name}_auc": area(curve, counts) for name, curve in curves.items()}
    return areas | {f"{kind}_{name}_curve": curve for name, curve in curves.items()}


def pixel_counts(case: Case, steps: int) -> Tensor:
    """Pixels (S,) int64 that are replaced at each step: none at the first, all at the last, evenly between."""
    pixels = case.heatmaps[0].numel()
    return torch.arange(steps, device=case.heatmaps.device) * pixels // (steps - 1)


def area(curve: Tensor, counts: Tensor) -> Tensor:
    """Area (B,) under curves (B,S) over the share of pixels, by the trapezoidal rule; in [0,1]."""
    return torch.trapezoid(curve, counts / counts[-1], dim=1)


def _curve_columns(kind: str, better: str, about: str) -> tuple[Column, ...]:
    """The area and the curve for each of `BASELINES`."""
    shown = {"black": "black", "blur": "the blurred image"}
    areas = [
        Column(
            f"{kind}_{name}_auc", better, f"Area under {kind}_{name}_curve over the share of pixels, 0 to 1."
        )
        for name in BASELINES
    ]
    curves = [
        Column(f"{kind}_{name}_curve", better, about.format(baseline=shown[name]), curve=True)
        for name in BASELINES
    ]
    return (*areas, *curves)


DROP = Metric(
    "drop",
    drop,
    (
        Column(
            "average_drop",
            "lower",
            "Share of the target's probability that is lost on the image times its map, 0 to 1.",
        ),
        Column("increase", "higher", "1 where the probability rises on the image times its map, else 0."),
    ),
    "Chattopadhyay et al., Grad-CAM++, WACV 2018, arXiv 1710.11063, section 4.1",
)

DROP_PUBLISHED = Metric(
    "drop_published",
    drop_published,
    (
        Column(
            "drop_raw_pixels",
            "lower",
            "Share of the probability that is lost with pixels at most 0.5 black, at most 1, negative for a rise.",
        ),
        Column(
            "increase_mean_colour",
            "higher",
            "Probability with pixels at most 0.3 in one colour, less that of the colour alone, -1 to 1.",
        ),
    ),
    "CF-CAM's published code (arXiv 2504.00060), metrics/ad.py and metrics/ai.py",
)

_RISE = "Petsiuk et al., RISE, BMVC 2018, arXiv 1806.07421, section 3.3"

DELETION = Metric(
    "deletion",
    deletion,
    _curve_columns(
        "deletion", "lower", "Target's probability while the most important pixels turn to {baseline}."
    ),
    _RISE,
)

INSERTION = Metric(
    "insertion",
    insertion,
    _curve_columns(
        "insertion",
        "higher",
        "Target's probability while the most important pixels come back into {baseline}.",
    ),
    _RISE,
)
