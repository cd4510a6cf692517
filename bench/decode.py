"""Which decoder is fastest from the file to the model's view, and do the decoders' pixels agree?

    python -m bench.decode [--images 8] [--repeats 7]

Decodes generated, photo-like images of three sizes, as JPEG and PNG, from files that the system keeps in memory,
to the model's view: 224×224 RGB uint8, resized by the same code for every decoder. One thread; its CPU time is
measured. The pixels are compared with Pillow's, for plain images and where decoders differ: EXIF orientation,
transparency, 16-bit grayscale, CMYK. torchcodec is measured if it is installed. Prints a table, then one line of
JSON, which it also stores in bench/results/.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from bench.common import ratio, save, summary
from cfcam_gpu.images.decode import load_image
from cfcam_gpu.images.preprocess import PUBLISHED_PREPROCESS

SIZES = ((500, 375), (1024, 768), (2048, 1536))
SETTINGS: dict[str, dict[str, Any]] = {"jpg": {"quality": 90}, "png": {}}
PACKAGES = {"pillow": "pillow", "opencv": "opencv-python-headless", "torchcodec": "torchcodec"}
Decoder = Callable[[Path], Image.Image]


def decode_opencv(path: Path) -> Image.Image:
    pixels = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    if pixels is None:
        raise ValueError("OpenCV cannot read it")
    return Image.fromarray(pixels)


def decoders() -> dict[str, Decoder]:
    """Name -> function from a file to an RGB image; the first one is this package's: Pillow, with checks."""
    by_name: dict[str, Decoder] = {"pillow": load_image, "opencv": decode_opencv}
    try:
        from torchcodec.decoders import decode_image  # type: ignore[import-not-found,unused-ignore]
    except (ImportError, OSError, RuntimeError) as error:
        print(f"torchcodec is left out: {(str(error).splitlines() or ['not installed'])[0]}")
        return by_name

    def decode_torchcodec(path: Path) -> Image.Image:
        return Image.fromarray(decode_image(path).permute(1, 2, 0).contiguous().numpy())

    return {**by_name, "torchcodec": decode_torchcodec}


def photo(size: tuple[int, int], seed: int) -> Image.Image:
    """Noise of several scales, roughly as detailed as a photo."""
    generator = np.random.default_rng(seed)
    width, height = size
    total = np.zeros((height, width, 3), np.float32)
    for cells, weight in ((4, 90), (16, 60), (64, 30), (256, 12)):
        noise = generator.standard_normal((cells, cells, 3)).astype(np.float32)
        total += weight * cv2.resize(noise, size, interpolation=cv2.INTER_CUBIC)
    return Image.fromarray(np.clip(total + 128, 0, 255).astype(np.uint8))


def awkward(folder: Path) -> dict[str, Path]:
    """One file for each thing that decoders treat differently."""
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = photo((64, 48), 0)
    alpha = picture.convert("RGBA")
    alpha.putalpha(Image.linear_gradient("L").resize((64, 48)))
    wide = Image.fromarray(np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16))
    images: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {
        "EXIF orientation": (picture, "o.jpg", {"exif": exif, "quality": 95}),
        "transparency": (alpha, "t.png", {}),
        "16-bit grayscale": (wide, "w.png", {}),
        "CMYK": (picture.convert("CMYK"), "c.jpg", {"quality": 95}),
    }
    for image, name, options in images.values():
        image.save(folder / name, **options)
    return {kind: folder / name for kind, (_, name, _) in images.items()}


def difference(decode: Decoder, path: Path) -> int | str:
    """Largest difference from Pillow's pixels; or why there is none: the decoder fails, or the size differs."""
    expected = np.asarray(load_image(path)).astype(int)
    try:
        got = np.asarray(decode(path)).astype(int)
    except (ValueError, RuntimeError, TypeError) as error:
        return f"fails: {(str(error).splitlines() or [''])[0][:80]}"
    return int(np.abs(got - expected).max()) if got.shape == expected.shape else f"size {got.shape[1::-1]}"


def view_all(decode: Decoder, paths: list[Path]) -> None:
    for path in paths:
        PUBLISHED_PREPROCESS.view(decode(path))


def cpu_seconds(cases: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Like `interleaved`, but of this process's CPU time: one thread does everything, and the files are in memory."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(-1, repeats):
        for name, case in cases.items():
            start = time.process_time()
            case()
            if turn >= 0:
                seconds[name].append(time.process_time() - start)
    return seconds


def measure(decoders: dict[str, Decoder], paths: list[Path], repeats: int) -> dict[str, Any]:
    seconds = cpu_seconds(
        {name: partial(view_all, decode, paths) for name, decode in decoders.items()}, repeats
    )
    per_image = {name: summary(s, len(paths))["ms_per_image"] for name, s in seconds.items()}
    return {
        "images_per_cpu_second": {name: round(1000 / ms, 1) for name, ms in per_image.items()},
        "speed_over_pillow": {name: ratio(seconds["pillow"], s) for name, s in seconds.items()},
        "difference": {name: difference(decode, paths[0]) for name, decode in decoders.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    competing = decoders()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        kinds = {
            kind: {name: difference(decode, path) for name, decode in competing.items()}
            for kind, path in awkward(folder).items()
        }
        for suffix, settings in SETTINGS.items():
            for size in SIZES:
                paths = [folder / f"{size[0]}-{i}.{suffix}" for i in range(options.images)]
                for seed, path in enumerate(paths):
                    photo(size, seed).save(path, **settings)
                file = f"{size[0]}x{size[1]} {suffix}"
                rows.append({"file": file, **measure(competing, paths, options.repeats)})
    table = Table(
        "file", *(f"{name}, images/CPU s" for name in competing), *(f"{n} / pillow" for n in competing)
    )
    for row in rows:
        speeds = [f"{value:.0f}" for value in row["images_per_cpu_second"].values()]
        table.add_row(row["file"], *speeds, *(f"{value:.2f}" for value in row["speed_over_pillow"].values()))
    Console().print(table)
    for kind, differences in kinds.items():
        print(f"{kind}: largest difference from Pillow's pixels {differences}")
    view = "224x224 RGB uint8, one thread"
    versions = {name: version(PACKAGES[name]) for name in competing}
    save("decode", {"view": view, "rows": rows, "kinds": kinds, "decoders": versions})


if __name__ == "__main__":
    main()
