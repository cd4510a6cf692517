"""Which configuration of CF-CAM is best? A search on the half of the photos that no reported figure uses.

    python -m bench.search

Uses photos and composites of the half `SEARCH` of `bench/photos.py`; `bench.evaluation` reports figures of the
other half. The result is no claim; it shows what was tried.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.common import command
from bench.evaluation import Part, measure, prepare, show
from bench.photos import SEARCH
from cfcam_gpu import CFCAMConfig
from cfcam_gpu.cli.demo_photos import MODEL
from cfcam_gpu.models import load_model

Method = str | CFCAMConfig | tuple[str, CFCAMConfig]

#: Candidates for the layer that is explained by default: the last one.
LAST: dict[str, Method] = {
    "gradcam": "gradcam",
    "layercam": "layercam",
    "cfcam": "cfcam",
    **{f"dominant {p}": CFCAMConfig(dominant_percentile=p) for p in (50.0, 90.0)},
    **{f"eps {p}": CFCAMConfig(eps_percentile=p) for p in (5.0, 50.0)},
    "spatial": "cfcam:spatial",
    **{f"fine {share}": ("cfcam-fine", CFCAMConfig(fine_share=share)) for share in (0.3, 0.4, 0.5, 0.7)},
}


def _spatial(**changes: Any) -> CFCAMConfig:
    return CFCAMConfig.preset("spatial", **changes)


#: Candidates for an earlier layer.
EARLIER: dict[str, Method] = {
    "gradcam": "gradcam",
    "hirescam": "hirescam",
    "layercam": "layercam",
    "cfcam": "cfcam",
    "spatial": "cfcam:spatial",
    "spatial, no filter": _spatial(filter="none"),
    "spatial, gaussian": _spatial(filter="gaussian", sigma_space=1.0),
    "spatial, absolute range": _spatial(filter="bilateral", sigma_range=0.1),
    "spatial, range 0.5": _spatial(sigma_range=0.5),
    "spatial, space 4": _spatial(sigma_space=4.0),
    "spatial, dominant 50": _spatial(dominant_percentile=50.0),
    "spatial, dominant 90": _spatial(dominant_percentile=90.0),
    "spatial, no dominant": _spatial(dominant_percentile=None),
    "spatial, eps 5": _spatial(eps_percentile=5.0),
}

PARTS = {
    "photos": Part("photos", None, LAST, ("drop", "deletion", "insertion", "localisation")),
    "composites": Part("composites", None, LAST, ("localisation", "class_sensitivity")),
    "earlier": Part(
        "composites", "_blocks.9", EARLIER, ("localisation", "class_sensitivity", "gradient_noise")
    ),
}


@dataclass(frozen=True)
class Options:
    """Number of composites, including those that are not recognised; steps of deletion and insertion."""

    composites: int = 80
    steps: int = 6


def run(options: Options) -> dict[str, Any]:
    """The benchmark's result, in the form of `bench.evaluation`."""
    loaded = load_model(MODEL)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        questions = prepare(loaded, folder, SEARCH, options.composites)
        parts = {
            name: measure(loaded, folder, name, part, questions, options.steps)
            for name, part in PARTS.items()
        }
    return {"model": loaded.spec, "steps": options.steps, "parts": parts}


if __name__ == "__main__":
    command("search", Options, run, show, __doc__)
