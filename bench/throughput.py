"""What does an explanation cost beside a forward pass, and beside the published method's steps?

    python -m bench.throughput [--repeats 5] [--batch 16]

ResNet-50 with random weights, layer4, 224×224. All cases run in turn in one process. The engine is
compared with the reference first, and the published steps with the `upstream` preset; a difference
stops the benchmark. Prints a table, then one line of JSON, which it also stores in bench/results/.
"""

from __future__ import annotations

import argparse

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torchvision.models import resnet50

from bench.common import interleaved, ratio, save, summary
from bench.published import published_steps
from cfcam_gpu import CFCAM, CFCAMConfig

MAP_TOLERANCE = 1e-4


def check_equivalence(model: nn.Module, images: Tensor) -> dict[str, float]:
    """Largest difference of heatmaps: engine against reference, and `upstream` against the published steps.

    Raises:
        SystemExit: a difference above the tolerance, or labels that are not equal.
    """
    fast, plain = (CFCAM(model, "layer4", engine=engine)(images) for engine in ("auto", "reference"))
    upstream = CFCAM(model, "layer4", CFCAMConfig.preset("upstream"))(images[:1]).heatmap[0]
    published = torch.from_numpy(published_steps(model, model.get_submodule("layer4"), images[:1]))
    seen = {
        "engine_vs_reference": float((fast.heatmap - plain.heatmap).abs().max()),
        "label_differences": int((fast.labels != plain.labels).sum()),
        "upstream_vs_published": float((upstream - published).abs().max()),
    }
    if max(seen.values()) > MAP_TOLERANCE:
        raise SystemExit(f"equivalence check failed, nothing is timed: {seen}")
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.manual_seed(0)
    model = resnet50().eval()
    images = torch.randn(options.batch, 3, 224, 224)
    cam = CFCAM(model, "layer4")

    def forward() -> None:
        with torch.inference_mode():
            model(images)

    equivalence = check_equivalence(model, images[:2])
    cases = {
        "forward only": forward,
        "explained": lambda: cam(images),
        "published steps": lambda: published_steps(model, model.get_submodule("layer4"), images[:1]),
    }
    counts = {"forward only": options.batch, "explained": options.batch, "published steps": 1}
    seconds = interleaved(cases, options.repeats)
    per_image = {name: [s / counts[name] for s in seconds[name]] for name in cases}
    result = {
        "model": "resnet50, random weights, layer4, 224x224, float32",
        "batch": options.batch,
        "repeats": options.repeats,
        "engine": cam(images[:1]).engine,
        "equivalence": equivalence,
        "cases": {name: summary(seconds[name], counts[name]) for name in cases},
        "explained_over_forward": ratio(per_image["explained"], per_image["forward only"]),
        "published_over_explained": ratio(per_image["published steps"], per_image["explained"]),
    }
    table = Table(
        "case", "ms/image", "min", "max", title=f"batch {options.batch}, medians of {options.repeats}"
    )
    for name, row in result["cases"].items():
        table.add_row(name, *(f"{row[key]:.1f}" for key in ("ms_per_image", "ms_min", "ms_max")))
    Console().print(table)
    print(f"explained / forward only: {result['explained_over_forward']:.2f}")
    print(f"published steps / explained: {result['published_over_explained']:.1f}")
    save("throughput", result)


if __name__ == "__main__":
    main()
