"""Data sets given as Python objects: their samples and images, and what is refused in one clear sentence."""

from __future__ import annotations

import re
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from cfcam_gpu.dataset.sources import object_kinds
from cfcam_gpu.dataset.sources.columns import pieces_of
from cfcam_gpu.dataset.sources.object_kinds import is_object, object_samples
from cfcam_gpu.dataset.sources.objects import _MOST_KEPT
from cfcam_gpu.dataset.sources.open_image import open_image
from cfcam_gpu.dataset.sources.sample import Sample
from cfcam_gpu.errors import ImageError, InputError
from tests.helpers.smallnet import photo

datasets = pytest.importorskip("datasets", reason="Hugging Face's library is not installed")

PHOTOS = [photo(seed) for seed in range(5)]
FLOAT = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]


class Pairs(Dataset[Any]):
    """(image, label) as a user writes it, without `targets`."""

    classes = ("ant", "bee", "cat")

    def __init__(self, transform: Any = None) -> None:
        self.transform = transform

    def __len__(self) -> int:
        return len(PHOTOS)

    def __getitem__(self, index: int) -> Any:
        image = PHOTOS[index]
        return (image if self.transform is None else self.transform(image)), index % 3


def opened(inputs: Any) -> list[np.ndarray]:
    return [np.asarray(open_image(sample.uri)) for sample in object_samples(inputs).samples]


def first_sample(inputs: Any) -> Sample:
    return next(iter(object_samples(inputs).samples))


def arrays() -> list[np.ndarray]:
    return [np.array(image) for image in PHOTOS]


FORMS = {
    "PIL": PHOTOS,
    "arrays": arrays(),
    "channels first": [torch.from_numpy(a).permute(2, 0, 1) for a in arrays()],
    "floats": [torch.from_numpy(a).permute(2, 0, 1) / 255 for a in arrays()],
    "one array": np.stack(arrays()),
    "one tensor": torch.from_numpy(np.stack(arrays())).permute(0, 3, 1, 2).float() / 255,
    "data set": Pairs(),
    "tensors": Pairs(v2.Compose(FLOAT)),
    "loader": DataLoader(Pairs(v2.Compose(FLOAT)), batch_size=2, shuffle=True),
    "mappings": [{"image": image, "label": 1} for image in PHOTOS],
    "hub": datasets.Dataset.from_dict(
        {"image": PHOTOS, "label": [0] * 5},
        features=datasets.Features(
            {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])}
        ),
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_pixels(form):
    for pixels, expected in zip(opened(FORMS[form]), arrays(), strict=True):
        np.testing.assert_array_equal(pixels, expected)


def labels(inputs: Any) -> list[str | None]:
    return [sample.label for sample in object_samples(inputs).samples]


def test_labels_are_names_where_the_data_set_has_them():
    given = object_samples(Pairs())
    assert given.class_names == ("ant", "bee", "cat")
    assert given.in_memory
    assert [sample.label for sample in given.samples] == ["ant", "bee", "cat", "ant", "bee"]
    assert [sample.sample_id for sample in given.samples] == ["0", "1", "2", "3", "4"]
    assert labels(Subset(Pairs(), [4, 2])) == ["bee", "cat"]
    assert labels(PHOTOS) == [None] * 5
    stack = torch.zeros(3, 1, 4, 4)
    assert labels(TensorDataset(stack, torch.tensor([2, 0, 1]))) == ["2", "0", "1"]


def test_listed_targets_are_taken_only_where_they_are_the_items():
    reads: list[int] = []

    class Listed(Pairs):
        targets = torch.tensor([0, 1, 2, 0, 1])

        def __getitem__(self, index: int) -> Any:
            reads.append(index)
            return super().__getitem__(index)

    assert labels(Listed()) == ["ant", "bee", "cat", "ant", "bee"]

    class Wrong(Listed):
        targets = torch.tensor([1, 1, 1, 1, 1])

    assert labels(Wrong()) == ["ant", "bee", "cat", "ant", "bee"]


class Many(Dataset[Any]):
    """Small gray pictures, each made as it is read."""

    classes = tuple(f"class {n}" for n in range(300))

    def __init__(self, values: Any) -> None:
        self.values, self.reads = values, 0

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> Any:
        self.reads += 1
        return np.full((2, 2), index % 256, np.uint8), self.values[index]


class Listed(Many):
    """Lists its labels as `targets`."""

    @property
    def targets(self) -> Any:
        return self.values


@pytest.mark.parametrize(
    "values",
    [
        [0, 1.0, "2", None, [4], (1, 2), np.int64(3), torch.tensor(5), 299, 300, float("nan"), 1],
        np.arange(40),
        torch.arange(40, dtype=torch.uint8),
        torch.tensor([1.0, 2.0] * 20),
    ],
)
def test_listed_labels_are_those_of_the_items(values):
    listed = Listed(values)
    assert labels(listed) == labels(Many(values))
    assert listed.reads <= 2 * 16 + 3


def test_listed_labels_that_are_none_are_read():
    many = [True, [0, 1]] * 20
    with pytest.raises(InputError, match="a label must be an index or a name, got bool"):
        labels(Listed(many))
    rows = torch.eye(3)
    with pytest.raises(InputError, match=r"got Tensor of shape \(3,\)"):
        labels(Listed(rows))


def test_memory_does_not_grow_with_the_items():
    """But for 8 bytes a label and 8 a digest; it were 290 if the samples were held."""

    def peak(count: int) -> int:
        targets = torch.arange(count, dtype=torch.int32) % 1000
        tracemalloc.start()
        samples = object_samples(Listed(targets)).samples
        assert sum(len(piece["uri"]) for piece in pieces_of(samples, "sample_id", "uri")) == count
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    assert peak(120_000) - peak(40_000) < 30 * 80_000


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (["x", "y", "z"], ["x", "y", "z"]),
        (["x", "y", "x"], ["0", "1", "2"]),
        (["x", "", "z"], ["0", "1", "2"]),
    ],
)
def test_a_column_of_ids_counts_where_it_names_the_rows(monkeypatch, ids, expected):
    monkeypatch.setattr(object_kinds, "AT_ONCE", 2)
    given = datasets.Dataset.from_dict({"image": PHOTOS[:3], "id": ids})
    given = given.cast_column("image", datasets.Image())
    assert [sample.sample_id for sample in object_samples(given).samples] == expected


def test_the_columns_of_a_hub_data_set():
    features = datasets.Features(
        {
            "img": datasets.Image(),
            "label": datasets.ClassLabel(names=["a", "b"]),
            "id": datasets.Value("string"),
        }
    )
    columns = {"img": PHOTOS[:3], "label": [1, 0, -1], "id": ["x", "y", "z"]}
    given = object_samples(datasets.Dataset.from_dict(columns, features=features).select([2, 0]))
    assert [(sample.sample_id, sample.label) for sample in given.samples] == [("z", None), ("x", "b")]
    np.testing.assert_array_equal(np.asarray(open_image(list(given.samples)[1].uri)), arrays()[0])


def test_a_folder_without_transforms_is_read_as_files(tmp_path):
    for name in ("cat/1.png", "cat/2.png", "dog/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        PHOTOS[0].save(tmp_path / name)
    given = object_samples(ImageFolder(tmp_path))
    assert not given.in_memory
    assert given.class_names == ("cat", "dog")
    assert list(given.samples)[2] == Sample("dog/1.png", str(tmp_path / "dog/1.png"), "dog", name="dog/1")
    resized = object_samples(ImageFolder(tmp_path, v2.Resize(8)))
    assert resized.in_memory
    assert [sample.label for sample in resized.samples] == ["cat", "cat", "dog"]


def test_sixteen_bits_and_bands_are_kept():
    wide = np.array([[0, 65535], [32768, 257]], np.uint16)
    assert np.asarray(opened([wide])[0])[..., 0].tolist() == [[0, 255], [128, 1]]
    transparent = Image.new("RGBA", (2, 2), (255, 0, 0, 0))
    assert opened([transparent])[0][0, 0].tolist() == [255, 255, 255]


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(PHOTOS)


def normalised(image: Image.Image) -> torch.Tensor:
    return (v2.functional.pil_to_tensor(image) / 255 - 0.5) / 0.2


def loader(**settings: Any) -> DataLoader[Any]:
    return DataLoader(Pairs(v2.PILToTensor()), **settings)


REFUSED = {
    "normalising transform": (
        Pairs(v2.Compose([*FLOAT, v2.Normalize((0.5,) * 3, (0.2,) * 3)])),
        "transform Normalize normalises the images.* without the transform.*preprocess=",
    ),
    "nested": (
        DataLoader(Subset(Pairs(v2.Compose([*FLOAT, v2.Normalize((0.5,) * 3, (0.2,) * 3)])), [0, 1])),
        "transform Normalize normalises",
    ),
    "random": (Pairs(v2.RandomHorizontalFlip()), "RandomHorizontalFlip changes the images at random"),
    "normalised tensors": (
        Pairs(normalised),
        r"item 0 of the Pairs: .*in \[0, 1\], got values from -.*the pixels",
    ),
    "0 to 255": ([np.full((4, 4, 3), 200.0)], r"item 0 of the list: .*values from 200 to 200; divide by 255"),
    "changing": (
        Pairs(lambda _: np.random.default_rng().random((4, 4))),
        "not the same each time it is read",
    ),
    "iterable": (Endless(), "Endless: an iterable data set has no numbers.*tar shards"),
    "loader of iterable": (DataLoader(Endless()), "Endless: an iterable data set"),
    "generator": ((image for image in PHOTOS), "generator: an iterable data set"),
    "hub stream": (FORMS["hub"].to_iterable_dataset(), "IterableDataset: an iterable data set"),
    "splits": (
        datasets.DatasetDict({"test": FORMS["hub"]}),
        r"choose one of its entries, such as data\['test'\]",
    ),
    "hub transform": (FORMS["hub"].with_transform(lambda batch: batch), r"dataset.with_format\(None\)"),
    "collate": (loader(collate_fn=lambda items: items), "collate_fn may change the images"),
    "sampler": (
        loader(sampler=WeightedRandomSampler([1.0] * 5, 5)),
        "WeightedRandomSampler chooses the items",
    ),
    "one image": (PHOTOS[0], r"give a list, \[image\]"),
    "one array": (arrays()[0], r"give a list, \[image\]"),
    "empty": (TensorDataset(torch.zeros(0, 3, 4, 4)), "the TensorDataset holds no items"),
    "two-hot labels": ([(PHOTOS[0], torch.tensor([0, 1]))], "a label must be an index or a name, got Tensor"),
    "boxes": ([(PHOTOS[0], {"boxes": []})], "a label must be an index or a name, got dict"),
    "paths": ([("a.png", 1)], "the item names a file"),
    "path in a mapping": ([{"image": "a.png", "label": 1}], "item 0 of the list: the item names a file"),
    "table": (
        pd.DataFrame({"path": ["a.png"]}),
        r"DataFrame: a table .*; give its column of paths, as frame\['path'\]",
    ),
    "pixel_values": ([{"pixel_values": torch.zeros(3, 4, 4)}], "pixel_values are normalised already"),
    "mixed": ([Path("a.png"), PHOTOS[0]], "item 0 of the list: the item names a file"),
    "number": (7, "inputs must be paths, samples, or a data set"),
    "no image": ([object()], "item 0 of the list: expected a path, a sample or an image .*, got object"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_come_out_wrong_is_refused(name):
    inputs, message = REFUSED[name]
    assert is_object(inputs)
    with pytest.raises(InputError, match=message):
        object_samples(inputs)


def test_paths_and_samples_are_no_objects(tmp_path):
    sample = Sample("a", "/a.png")
    for inputs in ("a.png", tmp_path, ["a.png", tmp_path], [sample], {"a.png": 1}.keys(), {sample}, [], ()):
        assert not is_object(inputs)


def test_an_item_that_changes_later_fails_then():
    pictures = [np.zeros((4, 4, 3), np.uint8) for _ in range(3)]
    samples = list(object_samples(pictures).samples)
    pictures[1] = pictures[1] + 1
    assert np.asarray(open_image(samples[0].uri)).max() == 0
    with pytest.raises(ImageError, match="not the same each time"):
        open_image(samples[1].uri)


def test_other_pixels_or_another_number_of_items_make_other_uris():
    token = re.compile(r"object:([0-9a-f]{16})#0")
    first, same = (first_sample(arrays()).uri for _ in range(2))
    assert first == same
    assert token.fullmatch(first)
    changed = [*arrays()[:4], arrays()[4] // 2]
    assert first != first_sample(changed).uri
    assert first != first_sample(arrays()[:4]).uri


def test_images_of_an_earlier_data_set_are_refused_when_it_is_gone():
    first = first_sample([np.full((2, 2), 9, np.uint8)])
    for level in range(_MOST_KEPT):
        object_samples([np.full((2, 2), 100 + level, np.uint8)])
    with pytest.raises(ImageError, match="this process does not have it; give it to explain_dataset again"):
        open_image(first.uri)
