"""Real photos with their classes and boxes, objects cut out of them, and composites of two such objects.

The photos are part of installed packages (extras `demo` and `evaluate`), so nothing is downloaded. They are split
into two halves without a common class: parameters are tuned on `SEARCH` only, results are reported on `UNSEEN`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from cfcam_gpu.cli.demo_photos import package_folder
from cfcam_gpu.errors import InputError
from cfcam_gpu.images.decode import load_image

SEARCH, UNSEEN = "search", "unseen"

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Photo:
    """A photo inside a package.

    Attributes:
        package, path: the package, and the file's path in it.
        target: index of its ImageNet class.
        half: `SEARCH` or `UNSEEN`.
        boxes: (left, top, right, bottom) of every object of the class, as fractions of the photo's width and
            height, drawn by hand; empty if the class is not an object that a box can enclose.
        cut: whether the object in the first box is cut out for composites.
    """

    package: str
    path: str
    target: int
    half: str
    boxes: tuple[Box, ...] = ()
    cut: bool = False

    def open(self) -> Image.Image:
        """The photo, RGB.

        Raises:
            InputError: the package or the photo in it is missing.
        """
        folder = package_folder(self.package)
        path = folder / self.path if folder else None
        if path is None or not path.is_file():
            raise InputError(
                f"the photo {self.path} comes with the package {self.package}, which is not installed or "
                "does not hold it; run: pip install 'cfcam-gpu[demo,evaluate]'"
            )
        return load_image(path)


def _imagenet(number: int, target: int, half: str, *boxes: Box, cut: bool = False) -> Photo:
    return Photo("foolbox", f"data/imagenet_{number:02}_{target}.jpg", target, half, boxes, cut)


#: Name -> photo. The halves have no class in common.
PHOTOS: dict[str, Photo] = {
    "bull mastiff": _imagenet(0, 243, SEARCH, (0.24, 0.11, 0.58, 0.91), cut=True),
    "folding chair": _imagenet(1, 559, SEARCH),
    "beaker": _imagenet(2, 438, UNSEEN, (0.35, 0.42, 0.63, 0.96), (0.72, 0.4, 1.0, 0.98)),
    "buckeye": _imagenet(3, 990, UNSEEN, (0.08, 0.25, 0.88, 0.99), cut=True),
    "strawberry": _imagenet(4, 949, SEARCH),
    "thatch": _imagenet(5, 853, SEARCH, (0.2, 0.14, 1.0, 0.4)),
    "jeep on sand": _imagenet(6, 609, SEARCH, (0.19, 0.26, 0.83, 0.67)),
    "jeep on rocks": _imagenet(7, 609, SEARCH, (0.07, 0.28, 0.99, 0.79), cut=True),
    "yurt": _imagenet(8, 915, UNSEEN, (0.0, 0.58, 0.43, 0.9), (0.53, 0.38, 1.0, 0.9)),
    "bottlecap": _imagenet(9, 455, UNSEEN, (0.07, 0.14, 0.92, 0.97), cut=True),
    "drum": _imagenet(10, 541, SEARCH, (0.1, 0.08, 0.94, 0.92), cut=True),
    "loafer": _imagenet(11, 630, SEARCH, (0.0, 0.16, 1.0, 0.68), cut=True),
    "prayer rug": _imagenet(12, 741, SEARCH),
    "cannon": _imagenet(13, 471, UNSEEN, (0.0, 0.1, 0.86, 0.92), cut=True),
    "spoonbill": _imagenet(14, 129, UNSEEN, (0.34, 0.3, 0.53, 0.59), (0.84, 0.34, 0.99, 0.56)),
    "goose": _imagenet(15, 99, SEARCH),
    "dalmatian": _imagenet(16, 251, UNSEEN, (0.0, 0.0, 0.96, 0.84)),
    "bald eagle": _imagenet(17, 22, UNSEEN, (0.0, 0.22, 1.0, 0.72), cut=True),
    "leafhopper": _imagenet(18, 317, SEARCH, (0.25, 0.11, 0.79, 0.89), cut=True),
    "dung beetle": _imagenet(19, 305, UNSEEN, (0.04, 0.27, 0.84, 0.91), cut=True),
    "cat": Photo("skimage", "data/chelsea.png", 285, SEARCH, ((0.0, 0.0, 0.86, 1.0),), cut=True),
    "espresso": Photo("skimage", "data/coffee.png", 967, UNSEEN, ((0.12, 0.03, 0.81, 0.98),), cut=True),
    "moped": Photo("skimage", "data/motorcycle_left.png", 665, UNSEEN, ((0.12, 0.13, 0.93, 0.92),), cut=True),
    "tripod": Photo("skimage", "data/camera.png", 872, UNSEEN, ((0.44, 0.35, 0.8, 1.0),)),
}

#: Backgrounds of composites: package, path. None of them shows an object of ImageNet's classes.
GROUNDS = (
    ("skimage", "data/grass.png"),
    ("skimage", "data/gravel.png"),
    ("skimage", "data/brick.png"),
    ("skimage", "data/hubble_deep_field.jpg"),
    ("sklearn", "datasets/images/china.jpg"),
    ("skimage", "data/ihc.png"),
)

#: Sides in pixels: of a composite, of the photo that an object is cut out of, and (least, most) of a pasted object.
SIDE, CUT_SIDE, PASTED = 224, 320, (112, 150)


@dataclass(frozen=True)
class Composite:
    """Two objects on a background: image (SIDE, SIDE, 3) uint8, and each object's name and mask (SIDE, SIDE) bool."""

    image: NDArray[np.uint8]
    names: tuple[str, str]
    masks: tuple[NDArray[np.bool_], NDArray[np.bool_]]


def cut_out(photo: Photo) -> Image.Image:
    """The object in the photo's first box, RGBA, cropped to the object; by GrabCut (Rother et al. 2004)."""
    image = photo.open()
    scale = CUT_SIDE / max(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
    left, top, right, bottom = photo.boxes[0]
    x, y = max(1, round(left * image.width)), max(1, round(top * image.height))
    width = min(image.width - 1, round(right * image.width)) - x
    height = min(image.height - 1, round(bottom * image.height)) - y
    labels = np.zeros((image.height, image.width), np.uint8)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)
    pixels = np.asarray(image)[:, :, ::-1].copy()
    cv2.grabCut(pixels, labels, (x, y, width, height), *models, 8, cv2.GC_INIT_WITH_RECT)
    alpha = _largest_part(np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)))
    image.putalpha(Image.fromarray(alpha).filter(ImageFilter.GaussianBlur(0.7)))
    return image.crop(Image.fromarray(alpha).getbbox())


def _largest_part(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The largest connected part without its holes, 255 inside."""
    closed = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    outlines, _ = cv2.findContours(closed, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled: NDArray[np.uint8] = np.zeros(mask.shape, np.uint8)
    cv2.drawContours(filled, [max(outlines, key=cv2.contourArea)], -1, 255, cv2.FILLED)
    return filled


def compose(half: str, count: int, seed: int = 0) -> list[Composite]:
    """`count` composites of two different objects of one half, side by side or one above the other."""
    rng = np.random.default_rng([seed, half == UNSEEN])
    cuts = {name: cut_out(photo) for name, photo in PHOTOS.items() if photo.half == half and photo.cut}
    classes = {name: PHOTOS[name].target for name in cuts}
    pairs = [pair for pair in itertools.permutations(cuts, 2) if len({classes[name] for name in pair}) == 2]
    order = [pairs[i] for i in rng.permutation(len(pairs))]
    grounds = [_ground(*ground) for ground in GROUNDS]
    return [
        _composite(order[i % len(order)], cuts, grounds[i % len(grounds)], rng, upright=bool(i % 2))
        for i in range(count)
    ]


def _ground(package: str, path: str) -> Image.Image:
    image = Photo(package, path, 0, "").open()
    side = min(image.size)
    return image.resize((SIDE, SIDE), Image.Resampling.LANCZOS, (0, 0, side, side))


def _composite(
    names: tuple[str, str],
    cuts: dict[str, Image.Image],
    ground: Image.Image,
    rng: np.random.Generator,
    *,
    upright: bool,
) -> Composite:
    """`upright`: one object above the other, else side by side."""
    image = ground.copy()
    masks = []
    for place, name in enumerate(names):
        side = int(rng.integers(*PASTED, endpoint=True))
        cut = cuts[name].copy()
        cut = cut.resize(_fitted(cut.size, side, SIDE // 2 - 4, axis=int(upright)), Image.Resampling.LANCZOS)
        if rng.random() < 0.5:
            cut = cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        along = place * SIDE // 2 + int(rng.integers(0, SIDE // 2 - cut.size[int(upright)], endpoint=True))
        across = int(rng.integers(0, SIDE - cut.size[1 - int(upright)], endpoint=True))
        corner = (across, along) if upright else (along, across)
        image.paste(cut, corner, cut)
        mask = Image.new("L", (SIDE, SIDE))
        mask.paste(cut.getchannel("A"), corner)
        masks.append(np.asarray(mask) > 127)
    return Composite(np.asarray(image), names, (masks[0], masks[1]))


def _fitted(size: Sequence[int], side: int, room: int, *, axis: int) -> tuple[int, int]:
    """The size, scaled so that its longer side has at most `side` pixels, and its `axis` at most `room`."""
    scale = min(side / max(size), room / size[axis])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
