"""From the inputs of a run to its samples: which kind each input is, and the ids and names of all samples."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cfcam_gpu._utils.messages import listed
from cfcam_gpu._utils.places.masking import hidden, masked
from cfcam_gpu._utils.places.place import Place
from cfcam_gpu._utils.places.schemes import is_url
from cfcam_gpu.dataset.sources.folders import InputFile, expand_input
from cfcam_gpu.dataset.sources.hub_parquet import hub_samples, is_hub_parquet
from cfcam_gpu.dataset.sources.huggingface import dataset_samples, is_saved_dataset, refuse_cache
from cfcam_gpu.dataset.sources.listing import Listing, Unnamed
from cfcam_gpu.dataset.sources.manifests import is_manifest, manifest_samples
from cfcam_gpu.dataset.sources.names import IMAGE_SUFFIXES, names_of, names_of_id
from cfcam_gpu.dataset.sources.places import expand_url
from cfcam_gpu.dataset.sources.sample import Sample, clean_text, make_uri, path_uri, url_uri
from cfcam_gpu.dataset.sources.spool import SpooledSamples
from cfcam_gpu.dataset.sources.webdataset import is_compressed, refuse_compressed, tar_samples
from cfcam_gpu.errors import InputError


def find_samples(
    inputs: Sequence[str], exclude: str | Path | None = None, path_column: str | None = None
) -> list[Sample]:
    """The samples of all inputs, in their order; a file that is named twice comes once.

    An input is a file, folder or glob pattern (see `expand_input`), or the URL of one (see `expand_url`).
    A .csv, .tsv, .jsonl or .parquet file, or a
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
        exclude: the output folder or its URL, whose files are no inputs (see `expand_input`).
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
    return list(listed_samples(inputs, exclude, path_column))


def listed_samples(
    inputs: Sequence[str], exclude: str | Path | None = None, path_column: str | None = None
) -> SpooledSamples:
    """As `find_samples`, but the samples of folders and shards are never all in memory."""
    if not inputs:
        raise InputError("no inputs: name at least one image file, folder, pattern, manifest or shard")
    listing = Listing()
    manifests = 0
    for text in inputs:
        in_folder, files = _expand(text, exclude)
        for file in files:
            source = _Input(file, in_folder, alone=in_folder and len(inputs) == 1, path_column=path_column)
            kind = _kind_of(source)
            if kind is None:
                listing.add_file(_file_sample(source), file.real)
            elif listing.is_new(file.real):
                manifests += _KINDS["manifest"].includes(source)
                origin = str(source.path) if isinstance(source.path, Place) else source.path.as_posix()
                for sample in kind.samples(source):
                    listing.add(Unnamed(sample, origin, *names_of_id(_without_scheme(sample.sample_id))))
    if path_column is not None and not manifests:
        raise InputError(f"the path column {path_column!r} is for manifests, and none of the inputs is one")
    if not len(listing):
        raise InputError(f"no samples in {masked(listed(inputs))}: the shards are empty")
    return listing.named()


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
    def path(self) -> Path | Place:
        return self.file.path

    @property
    def place(self) -> str:
        """The absolute path, or the URL without credentials."""
        given = self.file.given
        return hidden(given.url) if isinstance(given, Place) else os.path.abspath(given)

    @property
    def file_id(self) -> str:
        if self.alone:
            return clean_text(self.file.relative)
        return clean_text(self.place if isinstance(self.path, Place) else self.path.as_posix())


#: The relative path of a saved data set. No file has it, so a data set is recognised without the disk.
_WHOLE_FOLDER = ""


def _expand(text: str, exclude: str | Path | None) -> tuple[bool, Iterable[InputFile]]:
    """Whether an input is a folder, and its files."""
    if is_url(text):
        return expand_url(text, exclude)
    path = Path(os.path.expanduser(text))
    in_folder = os.path.isdir(path)
    if is_saved_dataset(path):
        return in_folder, [InputFile(str(path), os.path.realpath(path), _WHOLE_FOLDER)]
    if in_folder:
        refuse_cache(path)
    return in_folder, expand_input(text, exclude)


def _file_sample(source: _Input) -> Unnamed:
    """The image in a file, or the sample that says why there is none."""
    stem, full = names_of(clean_text(source.file.relative))
    if source.file.problem is not None:
        return Unnamed(_broken(source, source.file.problem), "", stem, full)
    given = source.file.given
    uri = url_uri(given.url) if isinstance(given, Place) else path_uri(source.place)
    return Unnamed(Sample(source.file_id, uri), "", stem, full)


def _without_scheme(sample_id: str) -> str:
    return Place(sample_id).path if is_url(sample_id) else sample_id


@dataclass(frozen=True)
class _Kind:
    """A kind of input that holds several samples: whether an input is one, and the samples of one."""

    includes: Callable[[_Input], bool]
    samples: Callable[[_Input], Iterable[Sample]]


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
    return Sample(source.file_id, make_uri("broken", source.place, reason))


#: The kinds of input other than images; an input is of the first kind that includes it.
_KINDS = {
    "Hugging Face data set": _Kind(
        lambda source: source.file.relative == _WHOLE_FOLDER,
        lambda source: dataset_samples(Path(source.place)),
    ),
    "Parquet file with images": _Kind(lambda source: is_hub_parquet(source.path), _hub_samples),
    "manifest": _Kind(
        lambda source: not source.in_folder and is_manifest(source.path),
        lambda source: manifest_samples(source.path, source.path_column),
    ),
    "compressed shard": _Kind(lambda source: is_compressed(source.path), _compressed_samples),
    "WebDataset shard": _Kind(lambda source: source.path.suffix.lower() == ".tar", _shard_samples),
}


def _kind_of(source: _Input) -> _Kind | None:
    """The kind of an input that holds several samples; None for an image, and for what cannot be read."""
    _, dot, suffix = source.file.relative.rpartition(".")
    if source.file.problem or f"{dot}{suffix.lower()}" in IMAGE_SUFFIXES:
        return None
    return next((kind for kind in _KINDS.values() if kind.includes(source)), None)
