"""The photos of the demo, which ship inside installed packages."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from cfcam_gpu._utils.optional import INSTALL
from cfcam_gpu.dataset.sources.sample import Sample, path_uri
from cfcam_gpu.errors import MissingPackageError

#: The model that explains them.
MODEL = "efficientnet-lite0"

#: Name -> package and path of the file inside it.
PHOTOS = {
    "cat": ("skimage", "data/chelsea.png"),
    "espresso": ("skimage", "data/coffee.png"),
    "motorcycle": ("skimage", "data/motorcycle_left.png"),
    "cameraman": ("skimage", "data/camera.png"),
    "rocket": ("skimage", "data/rocket.jpg"),
    "astronaut": ("skimage", "data/astronaut.png"),
    "temple": ("sklearn", "datasets/images/china.jpg"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
}

#: The two photos pasted side by side, and the class asked for in each.
QUESTION = {"cat": "Egyptian cat", "espresso": "espresso"}


def find_photos() -> tuple[list[Sample], list[str]]:
    """The photos that are installed, and a sentence for each that its package no longer contains.

    Raises:
        MissingPackageError: scikit-image is not installed.
    """
    samples, missing = [], []
    for name, (package, inside) in PHOTOS.items():
        folder = package_folder(package)
        if folder is None:
            raise MissingPackageError(
                f"the demo's photos come with the package {package}, which is not installed; "
                f"run: {INSTALL.format(extra='demo')}"
            )
        path = folder / inside
        if path.is_file():
            samples.append(Sample(inside, path_uri(str(path)), name=name))
        else:
            missing.append(f"{name}: the installed {package} does not contain {inside}")
    return samples, missing


def package_folder(package: str) -> Path | None:
    """The folder of an installed package, found without importing it; None: it is not installed.

    Example:
        >>> package_folder("json").name, package_folder("no_such_package")
        ('json', None)
    """
    spec = importlib.util.find_spec(package)
    return Path(spec.origin).parent if spec and spec.origin else None
