"""How far views and heatmaps by `--decode scaled` are from those by the full decode, on real photos."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cfcam_gpu import CFCAM
from cfcam_gpu.cli.demo_photos import find_photos
from cfcam_gpu.dataset.sources.open_image import open_image
from cfcam_gpu.images.decode import load_image
from cfcam_gpu.images.decoders import DECODERS
from cfcam_gpu.images.preprocess import PUBLISHED_PREPROCESS, Preprocess
from cfcam_gpu.images.views import View
from cfcam_gpu.models import load_model

MODEL = "efficientnet-lite0"
SIZE = (2048, 1536)
QUALITY = 90
TILE = 256
#: Enlarged photos get noise of this standard deviation, as a camera adds it.
NOISE = 5.0

#: Models' ways from an image to a view of 224×224.
PREPROCESSES = {
    "squashed, bilinear": PUBLISHED_PREPROCESS,
    "squashed, bicubic": Preprocess((224, 224), (0.0,) * 3, (1.0,) * 3, None, "bicubic"),
    "resized to 256 and cropped, bilinear": Preprocess((224, 224), (0.0,) * 3, (1.0,) * 3, 256),
}


def read_photos(folder: str) -> list[Image.Image]:
    """The photos in a folder, in the order of their names; without one, those that packages bring."""
    if not folder:
        return [open_image(sample.uri) for sample in find_photos()[0]]
    return [load_image(path) for path in sorted(Path(folder).glob("*.jpg"))]


def mosaics(photos: Sequence[Image.Image], count: int) -> Iterator[Image.Image]:
    """Pictures of photos side by side at their own resolution: more detail than a photo of that size has."""
    width, height = SIZE
    corners = [(x, y) for y in range(0, height, TILE) for x in range(0, width, TILE)]
    for first in range(0, count * len(corners), len(corners)):
        picture = Image.new("RGB", SIZE)
        for i, corner in enumerate(corners, first):
            picture.paste(_square(photos[i % len(photos)]), corner)
        yield picture


def enlarged(photos: Sequence[Image.Image], count: int) -> Iterator[Image.Image]:
    """Photos enlarged to the size of a camera's, with noise: less detail than a photo of that size has."""
    generator = np.random.default_rng(0)
    for i in range(count):
        photo = photos[i * len(photos) // count]
        pixels = np.asarray(photo.resize(SIZE, Image.Resampling.LANCZOS), np.float32)
        noise = generator.normal(0, NOISE, (*pixels.shape[:2], 1)).astype(np.float32)
        yield Image.fromarray(np.clip(pixels + noise, 0, 255).round().astype(np.uint8))


def _square(photo: Image.Image) -> Image.Image:
    side = min(photo.size)
    left, top = (photo.width - side) // 2, (photo.height - side) // 2
    square = photo.crop((left, top, left + side, top + side))
    return square if side == TILE else square.resize((TILE, TILE), Image.Resampling.BICUBIC)


def view(file: io.BytesIO, decode: str, preprocess: Preprocess) -> np.ndarray:
    file.seek(0)
    result = DECODERS[decode].read(file, "", preprocess)
    assert isinstance(result, View)
    assert isinstance(result.pixels, np.ndarray)
    return result.pixels


def measure_views(photos: Sequence[Image.Image], count: int) -> dict[str, Any]:
    """The worst of `count` pictures of each kind: views in levels of 0 to 255, heatmaps in [0, 1]."""
    loaded = load_model(MODEL)
    results: dict[str, Any] = {}
    with CFCAM(loaded.model) as cam:
        for kind, pictures in (("mosaics", mosaics(photos, count)), ("enlarged", enlarged(photos, count))):
            views: dict[str, list[tuple[float, int]]] = {name: [] for name in PREPROCESSES}
            maps: list[tuple[float, float, float]] = []
            same = 0
            for picture in pictures:
                file = io.BytesIO()
                picture.save(file, "jpeg", quality=QUALITY)
                for name, preprocess in PREPROCESSES.items():
                    full, scaled = (view(file, decode, preprocess) for decode in ("full", "scaled"))
                    difference = np.abs(full.astype(int) - scaled)
                    views[name].append((float(difference.mean()), int(difference.max())))
                pair = [view(file, decode, loaded.preprocess) for decode in ("full", "scaled")]
                images = loaded.preprocess.normalise(torch.from_numpy(np.stack(pair)))
                expected = cam(images[:1])
                actual = cam(images[1:], targets=expected.targets)
                assert expected.logits is not None
                assert actual.logits is not None
                same += int(expected.logits.argmax() == actual.logits.argmax())
                a, b = expected.heatmap.flatten(), actual.heatmap.flatten()
                correlation = float(torch.corrcoef(torch.stack([a, b]))[0, 1])
                maps.append((float((a - b).abs().mean()), float((a - b).abs().max()), correlation))
            results[kind] = {
                "views": {
                    name: {
                        "mean": round(max(m for m, _ in found), 3),
                        "largest": max(most for _, most in found),
                    }
                    for name, found in views.items()
                },
                "heatmaps": {
                    "mean": round(max(m for m, _, _ in maps), 4),
                    "largest": round(max(most for _, most, _ in maps), 4),
                    "correlation": round(min(c for _, _, c in maps), 4),
                    "same_prediction": f"{same} of {count}",
                },
            }
    return {"photos": len(photos), "pictures": count, "size": list(SIZE), "model": MODEL, **results}
