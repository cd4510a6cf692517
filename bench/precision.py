"""How do reduced precision, the memory format and BatchNorm folding change the heatmaps and the speed of a real model?

    python -m bench.precision [--repeats 7] [--device cuda]

The packaged EfficientNet-Lite0 explains the demo's photos. Every variant explains the classes that float32
predicts, so that differences come from the precision and not from another class.
"""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.common import Case, command, interleaved, print_table, summary
from bench.equivalence import CORRELATION, MEAN_TOLERANCE, check_engine, closeness
from cfcam_gpu import CFCAM, CFCAMConfig, Explanation
from cfcam_gpu.cli.demo_photos import MODEL, find_photos
from cfcam_gpu.dataset.sources.open_image import open_image
from cfcam_gpu.models import load_model
from cfcam_gpu.models.prepare import prepared

VARIANTS: dict[str, dict[str, Any]] = {
    "float32": {},
    "float32, channels last": {"channels_last": True},
    "float32, folded": {"fold_batchnorm": True},
    "float32, folded, channels last": {"fold_batchnorm": True, "channels_last": True},
    "bfloat16": {"precision": "bfloat16"},
    "bfloat16 autocast": {"autocast": True},
    "bfloat16, folded": {"precision": "bfloat16", "fold_batchnorm": True},
    "bfloat16, folded, channels last": {
        "precision": "bfloat16",
        "fold_batchnorm": True,
        "channels_last": True,
    },
    "float16": {"precision": "float16"},
    "float16, folded, channels last": {
        "precision": "float16",
        "fold_batchnorm": True,
        "channels_last": True,
    },
}


@dataclass(frozen=True)
class Options:
    """Options of this benchmark; after `limit_s` seconds no further turn starts, once there are three."""

    device: str = "cpu"
    repeats: int = 7
    limit_s: float = 60.0


def run(options: Options) -> dict[str, Any]:
    """The benchmark's result.

    Raises:
        SystemExit: the engine differs from the reference; nothing is timed.
    """
    loaded = load_model(MODEL)
    photos = [open_image(sample.uri) for sample in find_photos()[0]]
    images = torch.stack([loaded.preprocess(photo) for photo in photos]).to(options.device)
    model = loaded.model.to(options.device)
    equivalence = check_engine(model, None, images, CFCAMConfig(), "auto")
    plain = CFCAM(model)(images)
    cases = {name: variant(model, images, plain, **how) for name, how in VARIANTS.items()}
    changes = {name: differences(case(), plain) for name, case in cases.items()}
    seconds = interleaved(cases, options.repeats, warmup=0, limit_s=options.limit_s)
    return {
        "model": f"{MODEL}, {len(photos)} photos in one batch",
        "device": options.device,
        "equivalence": equivalence,
        "repeats": len(seconds["float32"]),
        "tolerance": {"mean": MEAN_TOLERANCE, "correlation": CORRELATION},
        "variants": {name: {**summary(seconds[name], len(photos)), **changes[name]} for name in cases},
    }


def variant(
    model: torch.nn.Module, images: Tensor, plain: Explanation, *, autocast: bool = False, **how: Any
) -> Case:
    """A case that explains the images with the model prepared as `how` says."""
    ready = prepared(model, images[:1], **how)
    memory_format = torch.channels_last if how.get("channels_last") else torch.contiguous_format
    converted = images.to(next(ready.parameters()).dtype, memory_format=memory_format)
    explain = functools.partial(CFCAM(ready, on_invalid="flag"), converted, plain.targets)

    def case() -> Explanation:
        with torch.autocast(images.device.type, torch.bfloat16) if autocast else contextlib.nullcontext():
            return explain()

    return case


def differences(result: Explanation, plain: Explanation) -> dict[str, Any]:
    """`closeness`, and the fraction of images whose likeliest class is the same; or the problems of the images."""
    problems = [problem for problem in result.problems if problem]
    if problems:
        return {"problems": problems}
    assert result.logits is not None
    assert plain.targets is not None
    same = torch.eq(result.logits.argmax(1), plain.targets).float().mean()
    return {**closeness(result, plain), "top1": round(float(same), 4)}


def show(result: dict[str, Any]) -> None:
    """Prints one table."""
    columns = ("mean", "largest", "correlation", "other_labels", "top1", "within")
    times = ("ms_per_image", "ms_min", "ms_max")
    print_table(
        f"{result['model']}, {result['device']}, against float32; medians of {result['repeats']}",
        ("variant", "ms/image", "min", "max", *columns),
        [(name, *(row.get(key) for key in (*times, *columns))) for name, row in result["variants"].items()],
    )
    for name, row in result["variants"].items():
        for problem in row.get("problems", []):
            print(f"{name}: {problem}")


if __name__ == "__main__":
    command("precision", Options, run, show, __doc__)
