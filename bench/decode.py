"""Which decoder is fastest from the file to the model's view, and do the decoders' pixels agree?

    python -m bench.decode [--images 8] [--repeats 7] [--photos FOLDER] [--pictures 12]

Decodes generated, photo-like images of several sizes, as JPEG and PNG, from files that the system keeps in memory,
to the model's view: 224×224 RGB uint8, resized by the same code for every decoder. One thread; its CPU time is
measured. Three decoders give the full size; the scaled ones decode JPEGs at the scale that `--decode scaled` takes.
`pillow, 1/8` is no decoder to use: the smallest size shows what reading the compressed data alone costs.

The full decoders' pixels are compared with Pillow's, for plain images and where decoders differ: EXIF orientation,
transparency, 16-bit grayscale, CMYK. The views by `--decode scaled` are compared with the full decode's on pictures
made of real photos: those that packages bring, or the JPEGs in FOLDER. Prints tables, then one line of JSON, which
it also stores in bench/results/.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from bench.common import command, print_table, ratio, summary
from bench.scaled_views import measure_views, read_photos
from cfcam_gpu._utils.messages import first_line
from cfcam_gpu.images.decode import decode, load_image
from cfcam_gpu.images.preprocess import PUBLISHED_PREPROCESS
from cfcam_gpu.images.scaled import jpeg_scale

#: (width, height), file name extension, and settings of the encoder.
FILES: tuple[tuple[tuple[int, int], str, dict[str, Any]], ...] = (
    ((500, 375), "jpg", {"quality": 90}),
    ((1024, 768), "jpg", {"quality": 90}),
    ((2048, 1536), "jpg", {"quality": 75}),
    ((2048, 1536), "jpg", {"quality": 90}),
    ((2048, 1536), "jpg", {"quality": 90, "progressive": True}),
    ((4000, 3000), "jpg", {"quality": 90}),
    ((500, 375), "png", {}),
    ((2048, 1536), "png", {}),
)
PACKAGES = {
    "pillow": "pillow",
    "opencv": "opencv-python-headless",
    "torchcodec": "torchcodec",
    "simplejpeg": "simplejpeg",
    "PyTurboJPEG": "PyTurboJPEG",
}
REDUCED = {
    1: cv2.IMREAD_COLOR_RGB,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
#: Decoders that are measured at the full size; decoders that can decode a JPEG smaller.
FULL = ("pillow", "opencv", "torchcodec")
SCALED = ("pillow", "opencv", "simplejpeg", "PyTurboJPEG")
#: From a file and the scale of the decoded image to an RGB image.
Decoder = Callable[[Path, int], Image.Image]


@dataclass(frozen=True)
class Options:
    """Options of the command: images of each kind of file, turns, a folder of photos, and pictures made of them."""

    images: int = 8
    repeats: int = 7
    photos: str = ""
    pictures: int = 12


def decode_pillow(path: Path, scale: int) -> Image.Image:
    """As this package does it, with its checks."""
    with path.open("rb") as stream:
        return decode(stream, scale=None if scale == 1 else lambda _width, _height: scale).image


def decode_opencv(path: Path, scale: int) -> Image.Image:
    pixels = cv2.imread(str(path), REDUCED[scale])
    if pixels is None:
        raise ValueError("OpenCV cannot read it")
    return Image.fromarray(pixels if scale == 1 else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))


def torchcodec_decoder() -> Decoder:
    from torchcodec.decoders import decode_image  # type: ignore[import-not-found,unused-ignore]

    return lambda path, _scale: Image.fromarray(decode_image(path).permute(1, 2, 0).contiguous().numpy())


def simplejpeg_decoder() -> Decoder:
    import simplejpeg  # type: ignore[import-not-found,unused-ignore]

    def decode_simplejpeg(path: Path, scale: int) -> Image.Image:
        content = path.read_bytes()
        height, width, _, _ = simplejpeg.decode_jpeg_header(content)
        least = {"min_width": math.ceil(width / scale), "min_height": math.ceil(height / scale)}
        return Image.fromarray(simplejpeg.decode_jpeg(content, "RGB", **least))

    return decode_simplejpeg


def turbojpeg_decoder() -> Decoder:
    import turbojpeg  # type: ignore[import-not-found,unused-ignore]

    decoder = turbojpeg.TurboJPEG()

    def decode_turbojpeg(path: Path, scale: int) -> Image.Image:
        pixels = decoder.decode(path.read_bytes(), turbojpeg.TJPF_RGB, scaling_factor=(1, scale))
        return Image.fromarray(pixels)

    return decode_turbojpeg


def decoders() -> tuple[dict[str, Decoder], dict[str, str]]:
    """Name -> decoder, the first one this package's; and name -> why a decoder is left out."""
    by_name: dict[str, Decoder] = {"pillow": decode_pillow, "opencv": decode_opencv}
    absent: dict[str, str] = {}
    for name, make in (
        ("torchcodec", torchcodec_decoder),
        ("simplejpeg", simplejpeg_decoder),
        ("PyTurboJPEG", turbojpeg_decoder),
    ):
        try:
            by_name[name] = make()
        except (ImportError, OSError, RuntimeError) as error:
            absent[name] = first_line(error)
    return by_name, absent


def cases(by_name: dict[str, Decoder], scale: int) -> dict[str, Callable[[Path], Image.Image]]:
    """The full decoders; for a scale above 1 the scaled ones, too."""
    functions: dict[str, Callable[[Path], Image.Image]] = {}
    for name in FULL:
        if name in by_name:
            functions[name] = partial(_call, by_name[name], 1)
    if scale > 1:
        for name in SCALED:
            if name in by_name:
                functions[f"{name}, scaled"] = partial(_call, by_name[name], scale)
        functions["pillow, 1/8"] = partial(_call, decode_pillow, 8)
    return functions


def _call(decoder: Decoder, scale: int, path: Path) -> Image.Image:
    return decoder(path, scale)


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


def difference(decoder: Callable[[Path], Image.Image], path: Path) -> int | str:
    """Largest difference from Pillow's pixels; or why there is none: the decoder fails, or the size differs."""
    expected = np.asarray(load_image(path)).astype(int)
    try:
        got = np.asarray(decoder(path)).astype(int)
    except (ValueError, RuntimeError, TypeError) as error:
        return f"fails: {first_line(error)[:80]}"
    return int(np.abs(got - expected).max()) if got.shape == expected.shape else f"size {got.shape[1::-1]}"


def view_difference(decoder: Callable[[Path], Image.Image], path: Path) -> dict[str, float]:
    """Mean and largest difference of the view from that of Pillow's full decode, levels of 0 to 255."""
    expected = PUBLISHED_PREPROCESS.view(load_image(path)).astype(int)
    change = np.abs(PUBLISHED_PREPROCESS.view(decoder(path)) - expected)
    return {"mean": round(float(change.mean()), 3), "largest": int(change.max())}


def view_all(decoder: Callable[[Path], Image.Image], paths: list[Path]) -> None:
    for path in paths:
        PUBLISHED_PREPROCESS.view(decoder(path))


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


def measure(by_name: dict[str, Decoder], scale: int, paths: list[Path], repeats: int) -> dict[str, Any]:
    functions = cases(by_name, scale)
    seconds = cpu_seconds(
        {name: partial(view_all, function, paths) for name, function in functions.items()}, repeats
    )
    per_image = {name: summary(s, len(paths))["ms_per_image"] for name, s in seconds.items()}
    return {
        "scale": scale,
        "kilobytes": round(sum(path.stat().st_size for path in paths) / len(paths) / 1000),
        "images_per_cpu_second": {name: round(1000 / ms, 1) for name, ms in per_image.items()},
        "speed_over_pillow": {name: ratio(seconds["pillow"], s) for name, s in seconds.items()},
        "view_difference": {
            name: view_difference(function, paths[0]) for name, function in functions.items()
        },
    }


def run(options: Options) -> dict[str, Any]:
    """The benchmark's result."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    by_name, absent = decoders()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        full = cases(by_name, 1)
        kinds = {
            kind: {name: difference(function, path) for name, function in full.items()}
            for kind, path in awkward(folder).items()
        }
        for number, (size, suffix, settings) in enumerate(FILES):
            paths = [folder / f"{number}-{i}.{suffix}" for i in range(options.images)]
            for seed, path in enumerate(paths):
                photo(size, seed).save(path, **settings)
            scale = jpeg_scale(PUBLISHED_PREPROCESS, *size) if suffix == "jpg" else 1
            words = [f"{size[0]}x{size[1]} {suffix}"]
            words += [f"q{settings['quality']}"] if settings else []
            words += ["progressive"] if settings.get("progressive") else []
            row = measure(by_name, scale, paths, options.repeats)
            rows.append({"file": " ".join(words), **row})
    return {
        "view": "224x224 RGB uint8, one thread",
        "rows": rows,
        "kinds": kinds,
        "scaled": measure_views(read_photos(options.photos), options.pictures),
        "gpu": "not measured",
        "decoders": {name: version(PACKAGES[name]) for name in by_name},
        "absent": absent,
    }


def show(result: dict[str, Any]) -> None:
    for row in result["rows"]:
        speeds = row["images_per_cpu_second"]
        title = f"{row['file']}, {row['kilobytes']} kB, scale {row['scale']}"
        lines = [
            (name, speeds[name], row["speed_over_pillow"][name], *row["view_difference"][name].values())
            for name in speeds
        ]
        print_table(title, ("decoder", "images/CPU s", "x Pillow", "mean", "largest"), lines)
    for kind, differences in result["kinds"].items():
        print(f"{kind}: largest difference from Pillow's pixels {differences}")
    for kind in ("mosaics", "enlarged"):
        print(f"{kind}: {result['scaled'][kind]}")
    for name, reason in result["absent"].items():
        print(f"{name} is left out: {reason}")


def main() -> None:
    command("decode", Options, run, show, __doc__)


if __name__ == "__main__":
    main()
