"""From the inputs of a run to its samples: which kind each input is, and the ids and names of all samples."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from cfcam_gpu._utils.messages import listed
from cfcam_gpu.dataset.sources.folders import InputFile, expand_input
from cfcam_gpu.dataset.sources.hub_parquet import hub_samples, is_hub_parquet
from cfcam_gpu.dataset.sources.huggingface import dataset_samples, is_saved_dataset, refuse_cache
from cfcam_gpu.dataset.sources.manifests import is_manifest, manifest_samples
from cfcam_gpu.dataset.sources.names import (
    all_differ,
    image_stem,
    name_key,
    names_of,
    output_name,
    safe_name,
    unique_names,
)
from cfcam_gpu.dataset.sources.sample import Sample, clean_text, make_uri, path_uri
from cfcam_gpu.dataset.sources.webdataset import is_compressed, refuse_compressed, tar_samples
from cfcam_gpu.errors import InputError


def find_samples(
    inputs: Sequence[str], exclude: Path | None = None, path_column: str | None = None
) -> list[Sample]:
    """The samples of all inputs, in their order; a file that is named twice comes once.

    An input is a file, folder or glob pattern (see `expand_input`). A .csv, .tsv, .jsonl or .parquet file, or a
    .txt file that lists paths, is a manifest, unless it was found in a folder. A .tar file is a WebDataset
    shard, a folder that `save_to_disk` wrote a Hugging Face data set; a .parquet file with images in it is one
    too. Every other file counts as an image;
    whether it is one shows when it is decoded.

    An image found in a folder is named by its path below that folder, any other by its file name, both without
    extension. Names that clash keep the extension ("cat.png"), and get numbers if they still clash ("cat-2").

    The id of an image is its path below the folder if that folder is the only input, else its path as it was
    given. Where samples of several shards, manifests or data sets have the same id, the path of theirs
    stands before it.

    Args:
        inputs: files, folders or glob patterns.
        exclude: the output folder, whose files are no inputs (see `expand_input`).
        path_column: the column of the manifests with the paths of the images; None: `path` or `uri`.

    Raises:
        InputError: an input does not exist, cannot be read or is empty; a shard is compressed; a manifest has
            a mistake, which the message names with its line.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("cat.png", "cat.jpg", "dog.png"):
        ...     (folder / name).touch()
        >>> [(sample.sample_id, sample.name) for sample in find_samples([str(folder)])]
        [('cat.jpg', 'cat.jpg'), ('cat.png', 'cat.png'), ('dog.png', 'dog')]
    """
    if not inputs:
        raise InputError("no inputs: name at least one image file, folder, pattern, manifest or shard")
    listed_files: set[str] = set()
    unnamed: list[_Unnamed] = []
    manifests = 0
    for text in inputs:
        in_folder = os.path.isdir(os.path.expanduser(text))
        for file in _expand(text, exclude):
            if file.real not in listed_files:
                listed_files.add(file.real)
                source = _Input(
                    file, in_folder, alone=in_folder and len(inputs) == 1, path_column=path_column
                )
                manifests += _KINDS["manifest"].includes(source)
                unnamed += _samples_of(source)
    del listed_files
    if path_column is not None and not manifests:
        raise InputError(f"the path column {path_column!r} is for manifests, and none of the inputs is one")
    if not unnamed:
        raise InputError(f"no samples in {listed(inputs)}: the shards are empty")
    return _named(unnamed)


@dataclass(frozen=True, slots=True)
class _Input:
    """A file among the inputs.

    Attributes:
        in_folder: whether it was found in a folder that the user gave.
        alone: whether that folder is the only input.
        path_column: as for `find_samples`.
    """

    file: InputFile
    in_folder: bool
    alone: bool
    path_column: str | None = None

    @property
    def path(self) -> Path:
        return self.file.path

    @property
    def file_id(self) -> str:
        return clean_text((self.file.relative if self.alone else self.path).as_posix())


@dataclass(frozen=True, slots=True)
class _Unnamed:
    """A sample whose id and name are not yet compared with those of the others.

    Attributes:
        origin: path of its shard, manifest or data set as given; empty for a file.
        stem: name of its output files.
        full: their name where others have the same stem.
    """

    sample: Sample
    origin: str
    stem: str
    full: str


#: The relative path of a saved data set. No file has it, so a data set is recognised without the disk.
_WHOLE_FOLDER = PurePath()


def _expand(text: str, exclude: Path | None) -> Iterator[InputFile]:
    path = Path(os.path.expanduser(text))
    if is_saved_dataset(path):
        return iter([InputFile(path, os.path.realpath(path), _WHOLE_FOLDER)])
    if os.path.isdir(path):
        refuse_cache(path)
    return expand_input(text, exclude)


def _samples_of(source: _Input) -> Iterator[_Unnamed]:
    if source.file.problem is not None:
        broken = _broken(source, source.file.problem)
        yield _Unnamed(broken, "", *names_of(PurePath(clean_text(str(source.file.relative)))))
        return
    for kind in _KINDS.values():
        if kind.includes(source):
            for sample in kind.samples(source):
                name = safe_name(sample.sample_id)
                yield _Unnamed(sample, source.path.as_posix(), str(image_stem(name)), str(name))
            return
    # Equal texts are one object: of millions of samples each text counts.
    sample_id, uri = source.file_id, path_uri(os.path.abspath(source.path))
    stem, full = names_of(PurePath(clean_text(str(source.file.relative))))
    sample = Sample(sample_id, source.file.real if uri == source.file.real else uri)
    yield _Unnamed(sample, "", stem, sample_id if full == sample_id else full)


@dataclass(frozen=True)
class _Kind:
    """A kind of input that holds several samples: whether an input is one, and the samples of one."""

    includes: Callable[[_Input], bool]
    samples: Callable[[_Input], list[Sample]]


def _shard_samples(source: _Input) -> list[Sample]:
    name = source.file_id if source.in_folder else clean_text(source.path.name)
    return tar_samples(source.path, name[: -len(".tar")])


def _hub_samples(source: _Input) -> list[Sample]:
    """The images of a Parquet file; one that is damaged is an error if it was named, else a failing sample."""
    name = source.file_id if source.in_folder else clean_text(source.path.name)
    try:
        return hub_samples(source.path, name[: -len(".parquet")])
    except InputError as error:
        if not source.in_folder:
            raise
        return [_broken(source, str(error))]


def _compressed_samples(source: _Input) -> list[Sample]:
    """An error if the shard was named, else a sample that fails with that error's message."""
    try:
        refuse_compressed(source.path)
    except InputError as error:
        if not source.in_folder:
            raise
        return [_broken(source, str(error))]
    return []


def _broken(source: _Input, reason: str) -> Sample:
    return Sample(source.file_id, make_uri("broken", os.path.abspath(source.path), reason))


#: The kinds of input other than images; an input is of the first kind that includes it.
_KINDS = {
    "Hugging Face data set": _Kind(
        lambda source: source.file.relative == _WHOLE_FOLDER,
        lambda source: dataset_samples(source.path),
    ),
    "Parquet file with images": _Kind(lambda source: is_hub_parquet(source.path), _hub_samples),
    "manifest": _Kind(
        lambda source: not source.in_folder and is_manifest(source.path),
        lambda source: manifest_samples(source.path, source.path_column),
    ),
    "compressed shard": _Kind(lambda source: is_compressed(source.path), _compressed_samples),
    "WebDataset shard": _Kind(lambda source: source.path.suffix.lower() == ".tar", _shard_samples),
}


def _named(unnamed: list[_Unnamed]) -> list[Sample]:
    """The samples with their final ids and names; the list is emptied, so that they are never there twice."""
    stems = [output_name(one.stem) for one in unnamed]
    names = stems if all_differ(map(name_key, stems)) else _names_that_differ(unnamed, stems)
    ids = None if all_differ(one.sample.sample_id for one in unnamed) else list(_unique_ids(unnamed))
    unnamed.reverse()
    samples = []
    for position, name in enumerate(names):
        sample = unnamed.pop().sample
        sample_id = sample.sample_id if ids is None else ids[position]
        samples.append(Sample(sample_id, sample.uri, sample.label, sample.target, name, sample.mask))
    return samples


def _names_that_differ(unnamed: list[_Unnamed], stems: list[str]) -> list[str]:
    return unique_names(stems, [output_name(one.full) for one in unnamed])


def _unique_ids(unnamed: list[_Unnamed]) -> Iterator[str]:
    counts = Counter(one.sample.sample_id for one in unnamed)
    taken: set[str] = set()
    last_number: Counter[str] = Counter()
    for one in unnamed:
        sample_id = one.sample.sample_id
        if counts[sample_id] > 1 and one.origin:
            sample_id = clean_text(f"{one.origin}#{sample_id}")
        unique = sample_id
        while unique in taken:  # a tar file may hold a key twice
            last_number[sample_id] += 1
            unique = f"{sample_id}-{last_number[sample_id] + 1}"
        taken.add(unique)
        yield unique
