"""The packaged model, real photos and their features, made once; a browser for the pages."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

if not torch.cuda.is_available():
    # Read when Triton is imported, which torchvision and scikit-image do too.
    os.environ.setdefault("TRITON_INTERPRET", "1")

from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor

from cfcam_gpu.capture import capture
from cfcam_gpu.capture.layers import find_layer
from cfcam_gpu.models import LoadedModel, load_model
from tests.helpers.browser import chromium
from tests.helpers.places import LocalS3, WebServer, local_s3, web_server

#: The head (global average pooling follows), and two earlier layers where the filters act.
REAL_LAYERS = ("_swish", "_blocks.10", "_blocks.4")


#: Below `tests`: what `make quick` leaves out as a whole. Real processes, clusters and browsers, kernels under the
#: interpreter, compilers, package indexes, evaluations and their metrics, large models, pages, and benchmarks.
SLOW = (
    "bench",
    "kernels",
    "capture/test_compiled.py",
    "cli/test_demo.py",
    "cli/test_evaluate.py",
    "cli/test_startup.py",
    "dataset/execution/test_decoding.py",
    "dataset/execution/test_pool.py",
    "dataset/execution/test_ray.py",
    "dataset/test_few_images.py",
    "dataset/test_kills.py",
    "dataset/output_places",
    "dataset/test_places.py",
    "dataset/test_survival.py",
    "engines/test_triton_engine.py",
    "evaluation",
    "methods/test_interruption.py",
    "methods/test_peers.py",
    "metrics",
    "models/test_prepare.py",
    "models/test_timm.py",
    "models/test_torchvision.py",
    "report",
    "test_discrimination.py",
    "test_documents.py",
    "test_extras.py",
    "test_notebooks.py",
    "test_readme.py",
    "test_site.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the slow files, so that a list says what they are."""
    folder = Path(__file__).parent
    slow = [folder / name for name in SLOW]
    for item in items:
        if any(path == item.path or path in item.path.parents for path in slow):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def device() -> str:
    """Where the Triton kernels run: on the GPU, or on the CPU under Triton's interpreter."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(scope="session")
def lite0() -> LoadedModel:
    return load_model("efficientnet-lite0")


@pytest.fixture(scope="session")
def photos() -> list[Image.Image]:
    """Cat, espresso, motorcycle, rocket, astronaut, temple, flower: RGB."""
    import skimage.data  # an extra that the GPU check does without

    arrays = [
        skimage.data.chelsea(),
        skimage.data.coffee(),
        skimage.data.stereo_motorcycle()[0],
        skimage.data.rocket(),
        skimage.data.astronaut(),
        *load_sample_images().images,
    ]
    return [Image.fromarray(np.ascontiguousarray(array)) for array in arrays]


@pytest.fixture(scope="session")
def photo_batch(lite0: LoadedModel, photos: list[Image.Image]) -> Tensor:
    """(7,3,224,224), preprocessed for the packaged model."""
    return torch.stack([lite0.preprocess(photo) for photo in photos])


@pytest.fixture(scope="session")
def real_features(lite0: LoadedModel, photo_batch: Tensor) -> Callable[[str], tuple[Tensor, Tensor]]:
    """Activations (7,C,h,w) and gradients (7,1,C,h,w) of the predicted class at a layer of the packaged model."""
    cache: dict[str, tuple[Tensor, Tensor]] = {}

    def features(layer: str) -> tuple[Tensor, Tensor]:
        if layer not in cache:
            captured = capture(lite0.model, find_layer(lite0.model, layer), photo_batch)
            cache[layer] = captured.activations, captured.gradients
        return cache[layer]

    return features


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser for the tests of one module."""
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def s3() -> Iterator[LocalS3]:
    with local_s3() as server:
        yield server


@pytest.fixture
def web() -> Iterator[WebServer]:
    with web_server() as server:
        yield server
