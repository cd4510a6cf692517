"""The kinds of Python objects that are data sets, one entry each; and those that are refused, with the reason."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path, PurePath
from typing import Any

from cfcam_gpu.dataset.sources.columns import AT_ONCE
from cfcam_gpu.dataset.sources.huggingface import are_names, image_columns, label_of
from cfcam_gpu.dataset.sources.labels import label_text
from cfcam_gpu.dataset.sources.listing import Listing, Unnamed
from cfcam_gpu.dataset.sources.names import names_of
from cfcam_gpu.dataset.sources.objects import Contents, Ids, ImageItems
from cfcam_gpu.dataset.sources.sample import Sample, clean_text, path_uri
from cfcam_gpu.errors import InputError

#: Keys under which an item that is a mapping holds its image, and its label.
_IMAGES, _LABELS = ("image", "img"), ("label", "labels", "target")

#: Different labels whose texts are kept while labels are read, so that equal ones are made once.
_MOST_TEXTS = 65_536

#: Names of torchvision's transforms that normalise; and of those that change an image at random.
_NORMALISING = ("Normalize", "ImageClassification")
_RANDOM = ("Random", "ColorJitter", "AutoAugment", "RandAugment", "TrivialAugment", "AugMix", "Elastic")

#: What inputs that are no object hold.
_PLACES = (str, os.PathLike, Sample)


@dataclass(frozen=True)
class ObjectSamples:
    """The samples of a data set that was given as an object.

    Attributes:
        class_names: names of the classes that its labels number; None: not known.
        in_memory: whether only this process can open the images.
    """

    samples: Collection[Sample]
    class_names: tuple[str, ...] | None
    in_memory: bool


@dataclass(frozen=True)
class _Kind:
    """A kind of object: whether an object is of it, and its samples."""

    includes: Callable[[Any], bool]
    samples: Callable[[Any], ObjectSamples]


def is_object(inputs: Any) -> bool:
    """Whether inputs are a data set in this process, and not paths or samples.

    Example:
        >>> is_object("photos"), is_object(["a.png", Path("b.png")]), is_object([object()])
        (False, False, True)
    """
    if isinstance(inputs, (str, os.PathLike)):
        return False
    if isinstance(inputs, (list, tuple)):
        return any(not isinstance(item, _PLACES) for item in inputs)
    if isinstance(inputs, Mapping) or not isinstance(inputs, Collection) or _is_table(inputs):
        return True
    return not isinstance(next(iter(inputs), None), _PLACES)


def object_samples(dataset: Any) -> ObjectSamples:
    """The samples of a data set that is given as an object.

    A `DataLoader` stands for its data set. An item of a map-style data set (`torch.utils.data.Dataset`, a list, a
    batch) is an image, or (image, label), or a mapping with them under "image" and "label"; an image is a PIL image, or
    an array or tensor (H,W), (H,W,C) or (C,H,W), uint8 or floating-point in [0, 1]. Of a `datasets.Dataset` the columns
    are those that are read of a saved one (see `huggingface.dataset_samples`). The images of a torchvision
    `ImageFolder` without transforms are read as files.

    Labels come from `targets`, where the data set has it and it agrees with the items, else all items are read for
    them. The names of `classes` stand for their numbers.

    Raises:
        InputError: no such data set, or one whose items are no pixels, or change each time.

    Example:
        >>> import numpy as np
        >>> pairs = [(np.zeros((4, 4), np.uint8), 1), (np.ones((4, 4), np.uint8), 0)]
        >>> [(sample.sample_id, sample.label, sample.name) for sample in object_samples(pairs).samples]
        [('0', '1', '000000'), ('1', '0', '000001')]
    """
    for kind in _KINDS:
        if kind.includes(dataset):
            return kind.samples(dataset)
    raise InputError(
        f"inputs must be paths, samples, or a data set with a length and numbered items, got {type(dataset).__name__}"
    )


def _is(module: str, name: str) -> Callable[[Any], bool]:
    """Whether an object is an instance of a class of a module, which need not be imported."""

    def includes(dataset: Any) -> bool:
        kind = getattr(sys.modules.get(module), name, None)
        return kind is not None and isinstance(dataset, kind)

    return includes


def _is_table(dataset: Any) -> bool:
    """Whether this is a table of pandas or polars, which yields the names of its columns."""
    return any(_is(module, "DataFrame")(dataset) for module in ("pandas", "polars"))


def _refusal(reason: str) -> Callable[[Any], ObjectSamples]:
    def refuse(dataset: Any) -> ObjectSamples:
        raise InputError(f"{type(dataset).__name__}: {reason}")

    return refuse


def _loader_samples(loader: Any) -> ObjectSamples:
    """The samples of a loader's data set. Raises InputError where the loader gives others, or changes them."""
    data = sys.modules["torch.utils.data"]
    if loader.collate_fn not in (data.default_collate, data.default_convert):
        raise InputError(
            "the DataLoader's collate_fn may change the images, and heatmaps need their pixels; give its data set, "
            "loader.dataset, if its items are (image, label)"
        )
    sampler = loader.sampler
    if _is("torch.utils.data", "IterableDataset")(loader.dataset):
        return object_samples(loader.dataset)
    in_order = type(sampler) is data.SequentialSampler
    shuffled = type(sampler) is data.RandomSampler and not sampler.replacement
    whole = in_order or (shuffled and sampler.num_samples == len(loader.dataset))
    if not whole or (
        loader.batch_sampler is not None and type(loader.batch_sampler) is not data.BatchSampler
    ):
        raise InputError(
            f"the DataLoader's {type(sampler).__name__} chooses the items, and a run explains each item of the data "
            "set once; give loader.dataset, or a torch.utils.data.Subset of it"
        )
    return object_samples(loader.dataset)


def _is_image_folder(dataset: Any) -> bool:
    """Whether a data set is one of torchvision's folders that reads its files and changes nothing."""
    folder = sys.modules.get("torchvision.datasets.folder")
    if folder is None or not isinstance(dataset, folder.DatasetFolder):
        return False
    plain = dataset.transform is None and dataset.target_transform is None
    return plain and dataset.loader is folder.default_loader


def _folder_samples(dataset: Any) -> ObjectSamples:
    listing, classes = Listing(), [clean_text(name) for name in dataset.classes]
    for path, label in dataset.samples:
        sample_id = clean_text(PurePath(os.path.relpath(path, dataset.root)).as_posix())
        sample = Sample(sample_id, path_uri(os.path.abspath(path)), classes[label])
        listing.add(Unnamed(sample, "", *names_of(sample_id)))
    return ObjectSamples(listing.named(), tuple(dataset.classes), in_memory=False)


def _hub_samples(dataset: Any) -> ObjectSamples:
    """The samples of a `datasets.Dataset`, whose images are read as the files that it holds."""
    if dataset.format["type"] == "custom":
        raise InputError(
            "the data set has a transform (set_transform), and heatmaps need the images themselves, which the model's "
            "preprocessing resizes and normalises; give dataset.with_format(None)"
        )
    plain = dataset.with_format(None)
    columns = image_columns(Path("datasets.Dataset"), plain.features.to_dict())
    files = plain.cast_column(columns.image, sys.modules["datasets"].Image(decode=False))

    def image(index: int) -> bytes:
        cell = files[index][columns.image]
        if cell["bytes"] is not None:
            return bytes(cell["bytes"])
        return Path(cell["path"]).read_bytes()

    def labels() -> list[str | None]:
        if columns.label is None:
            return [None] * len(plain)
        text = lru_cache(_MOST_TEXTS, typed=True)(partial(label_of, classes=columns.classes))
        values = _cells(plain, columns.label, 0, len(plain))
        return [text(tuple(value) if isinstance(value, list) else value) for value in values]

    contents = Contents(
        "datasets.Dataset", len(plain), image, labels, columns.classes, _hub_ids(plain, columns.sample_id)
    )
    return ObjectSamples(ImageItems(contents).samples(), columns.classes, in_memory=True)


def _hub_ids(dataset: Any, column: str | None) -> Ids | None:
    """The ids in a column of a `datasets.Dataset`; None where it has none that name its rows."""
    if column is None or not are_names(lambda: _cells(dataset, column, 0, len(dataset))):
        return None
    return lambda start, stop: [clean_text(str(cell)) for cell in _cells(dataset, column, start, stop)]


def _cells(dataset: Any, column: str, start: int, stop: int) -> Iterator[Any]:
    """The values of some rows of a `datasets.Dataset`, of which some thousand are in memory."""
    values = dataset.select_columns([column])
    for first in range(start, stop, AT_ONCE):
        yield from values[first : min(first + AT_ONCE, stop)][column]


def _map_style_samples(dataset: Any) -> ObjectSamples:
    """The samples of whatever has a length and numbered items."""
    for part in _parts(dataset):
        _refuse_transforms(part)
    names = _class_names(dataset)
    kind = type(dataset).__name__
    contents = Contents(
        kind, len(dataset), lambda index: _image(dataset[index]), lambda: _labels(dataset, names), names
    )
    return ObjectSamples(ImageItems(contents).samples(), names, in_memory=True)


def _parts(dataset: Any) -> Iterator[Any]:
    """The data set and those inside it, as in torch's `Subset` and `ConcatDataset`."""
    yield dataset
    inner = getattr(dataset, "dataset", None)
    for one in [inner] if inner is not None else getattr(dataset, "datasets", ()):
        yield from _parts(one)


def _refuse_transforms(dataset: Any) -> None:
    """Raises InputError for a transform that normalises or is random."""
    for name in _transform_names(getattr(dataset, "transform", None) or getattr(dataset, "transforms", None)):
        normalises = name in _NORMALISING
        if normalises or name.startswith(_RANDOM):
            raise InputError(
                f"the data set's transform {name} {'normalises' if normalises else 'changes'} the images"
                f"{'' if normalises else ' at random'}, and heatmaps need their pixels; make the data set without the "
                "transform, and pass preprocess= with the model, which may be the evaluation transform itself"
            )


def _transform_names(transform: Any) -> Iterator[str]:
    if transform is None:
        return
    yield type(transform).__name__
    inner = [getattr(transform, "transform", None)]  # of torchvision's StandardTransform
    steps = getattr(transform, "transforms", ())
    for one in [*inner, *(steps if isinstance(steps, (list, tuple)) else ())]:
        yield from _transform_names(one)


def _image(item: Any) -> Any:
    """The image of an item. Raises InputError for an item without one."""
    if isinstance(item, Mapping):
        key = next((key for key in _IMAGES if key in item), None)
        if key is None:
            raise InputError(
                f"the item has {', '.join(map(str, item)) or 'nothing'}, and no image under "
                f"{' or '.join(_IMAGES)}; pixel_values are normalised already, and heatmaps need the pixels"
            )
        image = item[key]
    else:
        image = item[0] if isinstance(item, (tuple, list)) and item else item
    if isinstance(image, (str, os.PathLike)):
        raise InputError(
            "the item names a file; give the paths alone, or samples (cfcam_gpu.dataset.Sample) with their labels"
        )
    if not hasattr(image, "convert") and not hasattr(image, "ndim"):
        raise InputError(
            f"expected a path, a sample or an image (PIL, array or tensor), got {type(image).__name__}"
        )
    return image


def _label(item: Any) -> str | None:
    """The label of an item as text. Raises InputError for what is no label."""
    if isinstance(item, Mapping):
        value: Any = next((item[key] for key in _LABELS if key in item), None)
    else:
        value = item[1] if isinstance(item, (tuple, list)) and len(item) > 1 else None
    if getattr(value, "ndim", None) == 0:
        value = value.item()
    advice = "give a data set of (image, class), or of images alone"
    if hasattr(value, "ndim"):
        got = f"{type(value).__name__} of shape {tuple(value.shape)}"
        raise InputError(f"a label must be an index or a name, got {got}; {advice}")
    try:
        return label_text(value)
    except ValueError as error:
        raise InputError(f"a label {error}; {advice}") from error


def _labels(dataset: Any, names: tuple[str, ...] | None) -> list[str | None]:
    """The labels of all items, with the names of the classes for their numbers; equal ones are one object."""
    listed = _listed_targets(dataset)
    texts = _read_labels(dataset, range(len(dataset))) if listed is None else listed
    return list(map(lru_cache(_MOST_TEXTS)(partial(_named, names=names)), texts))


def _listed_targets(dataset: Any) -> list[str | None] | None:
    """The labels that a data set lists beside its items; None where it lists none, or others than its items have."""
    try:
        targets = _target_texts(getattr(dataset, "targets", ()))
    except (InputError, TypeError):
        return None
    if not targets or len(targets) != len(dataset):
        return None
    some = sorted({0, len(dataset) // 2, len(dataset) - 1})
    return targets if list(_read_labels(dataset, some)) == [targets[index] for index in some] else None


def _target_texts(targets: Any) -> list[str | None]:
    """The labels in a list, an array or a tensor. Raises InputError and TypeError for what holds others."""
    text = lru_cache(_MOST_TEXTS, typed=True)(lambda value: _label((None, value)))
    spans = (targets[first : first + AT_ONCE] for first in range(0, len(targets), AT_ONCE))
    one_each = getattr(targets, "ndim", 0) == 1  # an array's own numbers are objects that take longer
    values = chain.from_iterable(span.tolist() for span in spans) if one_each else targets
    return [text(value) if isinstance(value, Hashable) else _label((None, value)) for value in values]


def _read_labels(dataset: Any, indices: Sequence[int]) -> Iterator[str | None]:
    for index in indices:
        try:
            item = dataset[index]
        except Exception:  # explaining it will tell why
            yield None
        else:
            yield _label(item)


def _named(text: str | None, names: tuple[str, ...] | None) -> str | None:
    is_index = text is not None and text.isdecimal() and names is not None and int(text) < len(names)
    return clean_text(names[int(text)]) if is_index and names and text else text


def _class_names(dataset: Any) -> tuple[str, ...] | None:
    """The `classes` of a data set, or of the only one inside it."""
    classes = getattr(dataset, "classes", None)
    if isinstance(classes, (list, tuple)) and classes and all(isinstance(name, str) for name in classes):
        return tuple(classes)
    inner = getattr(dataset, "dataset", None)
    return None if inner is None else _class_names(inner)


def _is_map_style(dataset: Any) -> bool:
    return hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")


def _is_one_array(dataset: Any) -> bool:
    return hasattr(dataset, "ndim") and hasattr(dataset, "shape") and dataset.ndim != 4


_ITERABLE = (
    "an iterable data set has no numbers by which a run could be resumed; give a data set with a length and numbered "
    "items, a list, or image files (a folder, or tar shards)"
)

#: The kinds of objects; an object is of the first that includes it.
_KINDS = (
    _Kind(_is("torch.utils.data", "DataLoader"), _loader_samples),
    _Kind(_is("torch.utils.data", "IterableDataset"), _refusal(_ITERABLE)),
    _Kind(_is("datasets", "IterableDataset"), _refusal(_ITERABLE)),
    _Kind(_is("datasets", "Dataset"), _hub_samples),
    _Kind(
        _is_table,
        _refusal(
            "a table is no data set; give its column of paths, as frame['path'], or write it as a CSV file, whose "
            "columns path, label and target are read"
        ),
    ),
    _Kind(
        lambda dataset: isinstance(dataset, Mapping),
        _refusal("expected one data set, got a mapping; choose one of its entries, such as data['test']"),
    ),
    _Kind(_is("PIL.Image", "Image"), _refusal("expected several images; give a list, [image]")),
    _Kind(_is_one_array, _refusal("expected images (B,C,H,W) or (B,H,W,C); give a list, [image]")),
    _Kind(_is_image_folder, _folder_samples),
    _Kind(_is_map_style, _map_style_samples),
    _Kind(lambda dataset: hasattr(dataset, "__iter__"), _refusal(_ITERABLE)),
)
