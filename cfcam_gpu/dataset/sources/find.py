"""From the inputs of a run to its samples, and from a sample's URI to its image."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from PIL import Image

from cfcam_gpu.dataset.sources.folders import Found, expand_input, names_of, unique_names
from cfcam_gpu.dataset.sources.huggingface import dataset_samples, is_saved_dataset, read_cell
from cfcam_gpu.dataset.sources.manifests import MANIFESTS, manifest_samples
from cfcam_gpu.dataset.sources.sample import (
    Sample,
    clean_text,
    image_stem,
    make_uri,
    path_uri,
    safe_name,
    split_uri,
)
from cfcam_gpu.dataset.sources.webdataset import is_compressed, read_member, refuse_compressed, tar_samples
from cfcam_gpu.errors import ImageError, InputError
from cfcam_gpu.images.decode import MAX_PIXELS, load_image, load_image_bytes

__all__ = ["Sample", "find_samples", "open_image"]


def find_samples(inputs: Sequence[str], exclude: Path | None = None) -> list[Sample]:
    """The samples that `inputs` stand for, in that order; a file named twice comes once.

    An input is a file, folder or glob pattern (see `expand_input`); among these a .csv, .tsv or
    .parquet file is a manifest (unless it was found in a folder), a .tar file a WebDataset shard and
    a folder that `save_to_disk` wrote a Hugging Face data set. Everything else is taken for an
    image, and decoding it tells.

    A file found in a folder is named by its path below that folder, any other by its stem. Names
    that clash keep their extension ("cat.png"); if that does not tell them apart, they are
    numbered ("cat-2").

    The id of an image file is its path below the folder if that is the only input, else its path as
    given. Equal ids of different shards, manifests and data sets get these as a prefix.

    Raises:
        InputError: an input that does not exist, cannot be read or holds nothing, a compressed shard, or a
            manifest with a mistake, with its line.
    """
    if not inputs:
        raise InputError("no inputs: name at least one image file, folder, pattern, manifest or shard")
    seen: set[str] = set()
    listed: list[_Listed] = []
    for text in inputs:
        folder = os.path.isdir(os.path.expanduser(text))
        for found in _expand(text, exclude):
            if found.real not in seen:
                seen.add(found.real)
                listed += _list(found, folder, alone=folder and len(inputs) == 1)
    return _named(listed)


@dataclass(frozen=True, slots=True)
class _Listed:
    sample: Sample
    origin: str  # the shard, manifest or data set it came from, as given; empty for a file
    stem: str  # its outputs' name
    full: str  # and where others have the same stem


#: Below itself a folder is this; no file is, so that a data set is known without a look at the disk.
_WHOLE = PurePath()


def _expand(text: str, exclude: Path | None) -> list[Found]:
    path = Path(os.path.expanduser(text))
    if is_saved_dataset(path):
        return [Found(path, os.path.realpath(path), _WHOLE)]
    return expand_input(text, exclude)


def _list(found: Found, in_folder: bool, alone: bool) -> Iterator[_Listed]:
    for kind, lists in _KINDS.items():
        if kind(found, in_folder):
            origin = found.path.as_posix()
            for sample in lists(found, in_folder, alone):
                name = safe_name(sample.sample_id)
                yield _Listed(sample, origin, str(image_stem(name)), str(name))
            return
    sample = Sample(_file_id(found, alone), path_uri(os.path.abspath(found.path)))
    yield _Listed(sample, "", *names_of(PurePath(clean_text(str(found.relative)))))


def _file_id(found: Found, alone: bool) -> str:
    return clean_text((found.relative if alone else found.path).as_posix())


def _is_dataset(found: Found, in_folder: bool) -> bool:
    return found.relative == _WHOLE


def _is_manifest(found: Found, in_folder: bool) -> bool:
    return not in_folder and found.path.suffix.lower() in MANIFESTS


def _is_shard(found: Found, in_folder: bool) -> bool:
    return found.path.suffix.lower() == ".tar"


def _is_compressed(found: Found, in_folder: bool) -> bool:
    return is_compressed(found.path)


def _shard(found: Found, in_folder: bool, alone: bool) -> list[Sample]:
    name = _file_id(found, alone) if in_folder else clean_text(found.path.name)
    return tar_samples(found.path, name[: -len(".tar")])


def _compressed(found: Found, in_folder: bool, alone: bool) -> list[Sample]:
    """An error at once if it was named, a sample that fails if it lay in a folder."""
    try:
        refuse_compressed(found.path)
    except InputError as error:
        if not in_folder:
            raise
        return [Sample(_file_id(found, alone), make_uri("broken", os.path.abspath(found.path), str(error)))]
    return []


#: Kind of input -> its samples, the first that fits; an image file is none of them.
_KINDS: dict[Callable[[Found, bool], bool], Callable[[Found, bool, bool], list[Sample]]] = {
    _is_dataset: lambda found, in_folder, alone: dataset_samples(found.path),
    _is_manifest: lambda found, in_folder, alone: manifest_samples(found.path),
    _is_shard: _shard,
    _is_compressed: _compressed,
}


def _named(listed: list[_Listed]) -> list[Sample]:
    names = unique_names([item.stem for item in listed], [item.full for item in listed])
    return [
        replace(item.sample, sample_id=identity, name=name)
        for item, identity, name in zip(listed, _unique_ids(listed), names, strict=True)
    ]


def _unique_ids(listed: list[_Listed]) -> Iterator[str]:
    counts = Counter(item.sample.sample_id for item in listed)
    taken: set[str] = set()
    for item in listed:
        identity = item.sample.sample_id
        if counts[identity] > 1 and item.origin:
            identity = clean_text(f"{item.origin}#{identity}")
        unique, number = identity, 1
        while unique in taken:  # a tar file may hold a key twice
            number += 1
            unique = f"{identity}-{number}"
        taken.add(unique)
        yield unique


def open_image(uri: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The image that a sample's URI names: RGB, 8 bits a channel, upright; its `info` is that of `load_image`.

    Needs no PyTorch and nothing but the URI, so that any process can do it.

    Raises:
        ImageError: it cannot be read or decoded; the message is the reason, without the URI.
    """
    try:
        scheme, parts = split_uri(uri)
    except ValueError as error:
        raise ImageError(f"not a URI of this program: {error}") from error
    return _OPENERS[scheme](parts, max_pixels)


def _open_file(parts: list[str], max_pixels: int) -> Image.Image:
    return load_image(Path(parts[0]), max_pixels)


def _open_member(parts: list[str], max_pixels: int) -> Image.Image:
    content, name = read_member(*parts)
    return load_image_bytes(content, name, max_pixels)


def _open_cell(parts: list[str], max_pixels: int) -> Image.Image:
    return load_image_bytes(read_cell(*parts), max_pixels=max_pixels)


def _open_broken(parts: list[str], max_pixels: int) -> Image.Image:
    raise ImageError(parts[1])


#: Scheme of a URI -> what opens its parts.
_OPENERS: dict[str, Callable[[list[str], int], Image.Image]] = {
    "file": _open_file,
    "tar": _open_member,
    "hf": _open_cell,
    "broken": _open_broken,
}
