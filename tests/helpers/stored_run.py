"""Stored runs made of rows, for tests of the report; and what their page holds."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate

from cfcam_gpu.config import CFCAMConfig
from cfcam_gpu.dataset.sources.sample import Sample
from cfcam_gpu.dataset.store.schema import Row as StoredRow
from cfcam_gpu.dataset.store.store import Store
from cfcam_gpu.explainer import CFCAM
from cfcam_gpu.models import LoadedModel

GRID = (7, 7)
HOSTILE_NAME = "<img src=x onerror=window.hacked=1>.png"
HOSTILE_LABEL = "</script><script>window.hacked=1</script><!--"
LABELS = ("Egyptian cat", "espresso", "moped", "missile", None, HOSTILE_LABEL, "daisy")

#: A row whose columns a test may change as it likes.
Row = dict[str, Any]


def write_store(out: Path, rows: list[Row], names: list[str] | None = None, part_size: int = 8) -> Path:
    """A finished run of these rows."""
    store = Store(out)
    store.make_folder()
    samples = [Sample(row["sample_id"], row["uri"], row.get("label")) for row in rows]
    plan = store.write_plan(samples, part_size)
    for part in range(plan.parts):
        start, stop = plan.bounds(part)
        store.write_part(part, cast(list[StoredRow], rows[start:stop]), GRID)
    store.write_run(
        {
            "fingerprint": {
                "config": asdict(CFCAMConfig()),
                "model": "efficientnet-lite0",
                "layer": "_swish",
            },
            "shard_size": part_size,
            "grid": list(GRID),
            "size": [224, 224],
            "class_names": names,
            "preprocess": {"size": [224, 224], "mean": [0.5] * 3, "std": [0.5] * 3, "resize": 256},
            "info": {"engine": "torch", "device": "cpu", "command": ["cfcam", "explain", "<my photos>"]},
        }
    )
    return out


def made_row(number: int, **changes: Any) -> Row:
    """An explained sample whose original does not exist."""
    grid = np.random.default_rng(number).random(GRID, np.float32)
    fields = {
        "sample_id": f"made/{number:05}.jpg",
        "uri": f"/nowhere/{number:05}.jpg",
        "status": "ok",
        "target": number % 5,
        "target_name": f"class {number % 5}",
        "target_prob": 0.5,
        "pred": number % 5,
        "pred_name": f"class {number % 5}",
        "prob": 0.5,
        "n_clusters": 1,
        "noise_fraction": 0.25,
        "blank": False,
        "grid": grid,
        "heatmap_max": float(grid.max()),
        "width": 400,
        "height": 300,
        "box": [0, 0, 400, 300],
    }
    return fields | changes


def failed_row(number: int, stage: str, kind: str, message: str, **changes: Any) -> Row:
    fields = {"sample_id": f"bad/{number:03}.jpg", "uri": f"/nowhere/bad/{number:03}.jpg", "status": "error"}
    return fields | {"stage": stage, "error_type": kind, "message": message} | changes


def photo_rows(lite0: LoadedModel, photos: list[Image.Image], folder: Path) -> list[Row]:
    """Seven photos, whole and in two crops, explained by the packaged model; files below `folder`."""
    rows: list[Row] = []
    with CFCAM(lite0.model) as cam:
        for part in range(3):
            images = [crop(photo, part) for photo in photos]
            batch = torch.stack([lite0.preprocess(image) for image in images])
            result = cam(batch)
            for i, image in enumerate(images):
                name = HOSTILE_NAME if (part, i) == (2, 5) else f"photo-{i}-{part}.jpg"
                path = folder / f"set {part}" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                image.save(path, quality=90) if path.suffix == ".jpg" else image.save(path)
                rows.append(explained(lite0, result, i, image, path, f"set {part}/{name}", LABELS[i]))
    return rows


def crop(photo: Image.Image, part: int) -> Image.Image:
    """0: whole; 1: the left 70 %; 2: the right 70 %, mirrored."""
    width, height = photo.size
    if part == 0:
        return photo
    if part == 1:
        return photo.crop((0, 0, int(0.7 * width), height))
    return photo.crop((int(0.3 * width), 0, width, height)).transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def explained(
    lite0: LoadedModel, result: Any, i: int, image: Image.Image, path: Path, sample_id: str, label: str | None
) -> Row:
    probabilities = result.logits[i].softmax(0)
    pred = int(probabilities.argmax())
    grid = result.grid[i].numpy()
    return {
        "sample_id": sample_id,
        "uri": str(path),
        "status": "ok",
        "label": label,
        "target": pred,
        "target_name": lite0.class_name(pred),
        "target_prob": float(probabilities[pred]),
        "pred": pred,
        "pred_name": lite0.class_name(pred),
        "prob": float(probabilities[pred]),
        "n_clusters": int(result.n_clusters[i]),
        "noise_fraction": float(result.noise_fraction[i]),
        "blank": bool(result.blank[i]),
        "grid": grid,
        "heatmap_max": upsampled_peak(grid),
        "width": image.width,
        "height": image.height,
        "box": list(lite0.preprocess.visible_box(*image.size)),
    }


def upsampled_peak(grid: np.ndarray) -> float:
    return float(interpolate(torch.from_numpy(grid)[None, None], (224, 224), mode="bilinear").max())


def demo_rows(lite0: LoadedModel, photos: list[Image.Image], folder: Path) -> list[Row]:
    """Photos and what can go wrong with them: three errors, a blank map, an original that is gone."""
    rows = photo_rows(lite0, photos, folder)
    blank = rows[3] | {
        "sample_id": "blank map.jpg",
        "target": 1,
        "target_name": "goldfish",
        "target_prob": 1e-6,
        "grid": np.zeros(GRID, np.float32),
        "blank": True,
        "heatmap_max": 0.0,
    }
    gone = rows[7] | {"sample_id": "moved away.jpg", "uri": str(folder / "moved away.jpg")}
    seen = Path(rows[4]["uri"])
    return [
        *rows,
        blank,
        gone,
        failed_row(1, "decode", "SyntaxError", "truncated or corrupt: broken data stream", label="daisy"),
        failed_row(2, "read", "FileNotFoundError", "the file does not exist"),
        failed_row(
            3, "explain", "NonFinite", "activations contain NaN or Inf", uri=str(seen), width=512, height=512
        ),
    ]


def made_store(out: Path, count: int, change: Callable[[int], Row] = lambda _number: {}) -> Path:
    return write_store(out, [made_row(i, **change(i)) for i in range(count)], part_size=64)


def embedded(page: Path, name: str = "index") -> Any:
    """The JSON of a data element of the page."""
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', page.read_text("utf-8"))
    assert found, f"no element {name}"
    return json.loads(found[1])


def column(index: dict[str, Any], name: str) -> list[Any]:
    return [row[index["fields"].index(name)] for row in index["rows"]]
