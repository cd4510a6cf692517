"""Does the map depend on the class asked for? The packaged model, real photos, every preset.

    python -m bench.discrimination

- correlation: between the maps of the likeliest and of the least likely class; mean over the demo's photos;
- share: for two confidently recognised photos side by side, in both orders: the fraction of the map's sum that
  lies on the half of the class asked for (0.5 is chance), without blank maps;
- blank: the fraction of those maps that are blank.
"""

from __future__ import annotations

import itertools
import statistics
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor

from bench.common import command, print_table
from bench.equivalence import check_engine, correlation
from cfcam_gpu import CFCAM, PRESETS, CFCAMConfig
from cfcam_gpu.cli.demo_photos import MODEL, find_photos
from cfcam_gpu.dataset.sources.open_image import open_image
from cfcam_gpu.models import LoadedModel, load_model


@dataclass(frozen=True)
class Options:
    """`confident`: a photo is used in composites if its predicted class is at least this likely."""

    confident: float = 0.4


def composites(loaded: LoadedModel, photos: list[Image.Image], classes: list[int]) -> tuple[Tensor, Tensor]:
    """Every ordered pair side by side (P, 3, H, 2W), and the classes (P, 2) of the left and the right half."""
    h, w = loaded.preprocess.size
    halves = [loaded.preprocess(ImageOps.fit(photo, (w, h))) for photo in photos]
    pairs = list(itertools.permutations(range(len(photos)), 2))
    images = torch.stack([torch.cat([halves[i], halves[j]], dim=2) for i, j in pairs])
    return images, torch.tensor([[classes[i], classes[j]] for i, j in pairs])


def measure(
    loaded: LoadedModel, photos: list[Image.Image], preset: str, confident: float
) -> dict[str, float | int | None]:
    """The figures of one preset."""
    cam = CFCAM(loaded.model, config=CFCAMConfig.preset(preset))
    batch = torch.stack([loaded.preprocess(photo) for photo in photos])
    logits = loaded.model(batch).detach()
    extremes = cam(batch, torch.stack([logits.argmax(1), logits.argmin(1)], dim=1)).heatmap
    correlations = [value for pair in extremes if (value := correlation(*pair)) is not None]
    probability, predicted = logits.softmax(1).max(1)
    sure = (probability >= confident).nonzero().flatten().tolist()
    images, classes = composites(loaded, [photos[i] for i in sure], predicted[sure].tolist())
    result = cam(images, classes)
    half = result.heatmap.shape[-1] // 2
    sums = torch.stack([result.heatmap[..., :half].sum((2, 3)), result.heatmap[..., half:].sum((2, 3))], 2)
    own = torch.stack([sums[:, 0, 0], sums[:, 1, 1]], dim=1) / sums.sum(2)
    shares = own[~result.blank]
    return {
        "correlation": round(statistics.mean(correlations), 4) if correlations else None,
        "share": round(float(shares.mean()), 4) if len(shares) else None,
        "blank": round(float(result.blank.float().mean()), 4),
        "photos": len(photos),
        "composite_maps": result.blank.numel(),
    }


def run(options: Options) -> dict[str, Any]:
    """The benchmark's result.

    Raises:
        SystemExit: the engine differs from the reference; nothing is measured.
    """
    loaded = load_model(MODEL)
    photos = [open_image(sample.uri) for sample in find_photos()[0]]
    batch = torch.stack([loaded.preprocess(photo) for photo in photos])
    equivalence = {
        preset: check_engine(loaded.model, None, batch, CFCAMConfig.preset(preset), "auto")
        for preset in PRESETS
    }
    return {
        "model": loaded.spec,
        "confident": options.confident,
        "equivalence": equivalence,
        "presets": {preset: measure(loaded, photos, preset, options.confident) for preset in PRESETS},
    }


def show(result: dict[str, Any]) -> None:
    """Prints one row for each preset."""
    print_table(
        "class discrimination",
        ("preset", "correlation", "share on the asked-for half", "blank"),
        [
            (preset, *(figures[name] for name in ("correlation", "share", "blank")))
            for preset, figures in result["presets"].items()
        ],
    )


if __name__ == "__main__":
    command("discrimination", Options, run, show, __doc__)
