"""What the methods are asked about real photos: a photo, a class that the model sees in it, and the object's mask.

A question of the part `scenes` is a COCO photo and a category whose mask covers 0.5 to 60 % of it, one of whose
ImageNet classes is among the model's ten likeliest with p of at least 0.02; the likeliest of these is explained. A
question of the part `photos` is a photo of ImageNet and its class, if that is among the ten likeliest with p of at
least 0.02; there is no mask. The photos are squashed to the model's input size.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from cfcam_gpu.errors import ConfigError
from cfcam_gpu.evaluation.maps import normaliser
from cfcam_gpu.models import LoadedModel

CATEGORIES = Path(__file__).with_name("coco_to_imagenet.json")

#: The halves of the photos: what cfcam-sharp was tuned on, and what it was not.
SEARCH, UNSEEN, ALL = "search", "unseen", "all"

#: Shares of a photo that an object's mask covers; the least p of its class, and among how many likeliest it is.
COVERED, LEAST_P, LIKELIEST = (0.005, 0.6), 0.02, 10


@dataclass(frozen=True)
class Question:
    """A photo as the model sees it (3,H,W) in [0,1], a class, the kind of its object, and the object's mask (H,W) bool.

    Photos are of one ImageNet class or show one COCO category: `kind` is its number. Without masks `mask` is None.
    """

    photo: str
    kind: str
    pixels: Tensor
    target: int
    mask: Tensor | None


def halved(files: list[Path], half: str, *, mixed: bool) -> list[Path]:
    """The files of one half. Every second file, after mixing where neighbours in the order of names are alike.

    Example:
        >>> names = [Path(name) for name in "abcd"]
        >>> [str(name) for name in halved(names, "unseen", mixed=False)]
        ['b', 'd']
        >>> sorted(halved(names, "search", mixed=True) + halved(names, "unseen", mixed=True)) == names
        True
    """
    if half not in (SEARCH, UNSEEN, ALL):
        raise ConfigError(f"half must be {SEARCH}, {UNSEEN} or {ALL}, got {half!r}")
    order = np.random.default_rng(5).permutation(len(files)).tolist() if mixed else range(len(files))
    ordered = [files[index] for index in order]
    return ordered if half == ALL else ordered[half == UNSEEN :: 2]


def scene_questions(loaded: LoadedModel, folder: Path, half: str, limit: int) -> list[Question]:
    """Questions of the part `scenes` about `limit` photos of a half, 0: all.

    Raises:
        ConfigError: the folder has no photos, or one has no mask.
    """
    categories = {int(name): classes for name, classes in json.loads(CATEGORIES.read_text()).items()}
    found = []
    for file in halved(_files(folder / "images"), half, mixed=False)[: limit or None]:
        image = Image.open(file)
        mask = _mask(folder, file, image)
        pixels = _pixels(loaded, image)
        seen = _seen(loaded, pixels)
        for category, classes in categories.items():
            answers = [index for index in seen if index in classes]
            if answers and COVERED[0] <= (mask == category).mean() <= COVERED[1]:
                shown = _squashed(mask == category, loaded)
                found.append(Question(file.stem, str(category), pixels, answers[0], shown))
    return found


def photo_questions(loaded: LoadedModel, folder: Path, half: str, limit: int) -> list[Question]:
    """The first `limit` questions of the part `photos` about a half, 0: all.

    Raises:
        ConfigError: the folder has no photos, or one whose name does not begin with the number of its class.
    """
    found: list[Question] = []
    for file, target in _with_classes(halved(_files(folder), half, mixed=True)):
        pixels = _pixels(loaded, Image.open(file))
        if target in _seen(loaded, pixels):
            found.append(Question(file.stem, str(target), pixels, target, None))
        if len(found) == limit:
            break
    return found


def _files(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.jpg"))
    if not files:
        raise ConfigError(f"{folder} has no photos *.jpg; where they are: python -m bench.scenes --help")
    return files


def _with_classes(files: list[Path]) -> Iterator[tuple[Path, int]]:
    for file in files:
        number = file.stem.partition("_")[0]
        if not number.isdecimal():
            raise ConfigError(f"photos are named NNNN_name.jpg, NNNN the ImageNet class, got {file.name}")
        yield file, int(number)


def _mask(folder: Path, file: Path, image: Image.Image) -> npt.NDArray[np.uint8]:
    """(h,w) of category numbers, at the photo's size."""
    path = folder / "masks" / f"{file.stem}.png"
    if not path.exists():
        raise ConfigError(f"{file.name} has no mask: {path} is missing")
    return np.asarray(Image.open(path).resize(image.size, Image.Resampling.NEAREST))


def _squashed(mask: npt.NDArray[np.bool_], loaded: LoadedModel) -> Tensor:
    small = Image.fromarray(mask).resize(loaded.preprocess.size[::-1], Image.Resampling.NEAREST)
    return torch.from_numpy(np.array(small))


def _seen(loaded: LoadedModel, pixels: Tensor) -> list[int]:
    """The classes that may be asked about, the likeliest first."""
    with torch.inference_mode():
        p = loaded.model(normaliser(loaded.preprocess)(pixels[None])).softmax(1)[0]
    return [index for index in p.topk(min(LIKELIEST, len(p))).indices.tolist() if p[index] >= LEAST_P]


def _pixels(loaded: LoadedModel, image: Image.Image) -> Tensor:
    """(3,H,W) in [0,1]: the photo squashed to the model's input size."""
    size = loaded.preprocess.size[::-1]
    squashed = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(squashed)).permute(2, 0, 1) / 255
