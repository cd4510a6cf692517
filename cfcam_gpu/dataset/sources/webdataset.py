"""WebDataset shards: uncompressed tar files in which the members with the same base name make one sample.

Nothing is extracted, and no member's name is used as a path: a shard is listed once, and workers then
read the bytes of single members at their offsets.
"""

from __future__ import annotations

import logging
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from cfcam_gpu._utils.messages import plural, printable
from cfcam_gpu._utils.places.masking import hidden
from cfcam_gpu._utils.places.place import Place
from cfcam_gpu._utils.places.schemes import is_url
from cfcam_gpu.dataset.sources.labels import label_text, parsed_json, target_text
from cfcam_gpu.dataset.sources.sample import Sample, clean_text, make_uri
from cfcam_gpu.dataset.sources.shard_keys import LABEL_SUFFIXES, Key, KeyedImage
from cfcam_gpu.errors import ImageError, InputError

log = logging.getLogger("cfcam_gpu")

#: Extensions of compressed shards, which cannot be read at an offset -> the command that unpacks them.
_COMPRESSED = {
    ".tar.gz": "gunzip",
    ".tgz": "gunzip --suffix .tgz",
    ".tar.bz2": "bunzip2",
    ".tar.xz": "unxz",
    ".tar.zst": "unzstd",
}

#: The first bytes of a compressed file -> the command that unpacks it to standard output.
_COMPRESSED_STARTS = {
    b"\x1f\x8b": "gunzip",
    b"BZh": "bunzip2",
    b"\xfd7zXZ\0": "unxz",
    b"\x28\xb5\x2f\xfd": "unzstd",
}

#: Members of more bytes are not read: an image, a label file.
_MAX_IMAGE_BYTES = 1 << 30
_MAX_LABEL_BYTES = 1 << 20

_BLOCK = 512
_PLACE = re.compile(r"(.*)@([0-9]{1,18})\+([0-9]{1,18})", re.DOTALL)


def is_compressed(path: Path | Place) -> bool:
    """Whether a file has the name of a compressed tar file, or the name of a tar file and compressed content.

    Example:
        >>> is_compressed(Path("train-000.tar.gz")), is_compressed(Path("train-000.tar"))
        (True, False)
    """
    return _unpacking(path) is not None


def refuse_compressed(path: Path | Place) -> None:
    """Raises InputError for a compressed shard, with the command that unpacks it.

    Example:
        >>> refuse_compressed(Path("train.tgz"))
        Traceback (most recent call last):
        cfcam_gpu.errors.InputError: shard 'train.tgz' is compressed, and images are read from the middle of a shard; \
unpack it first: gunzip --suffix .tgz train.tgz
    """
    command = _unpacking(path)
    if command is not None:
        raise InputError(
            f"shard {str(path)!r} is compressed, and images are read from the middle of a shard; "
            f"unpack it first: {command}"
        )


def _unpacking(path: Path | Place) -> str | None:
    """The command that unpacks a compressed shard; None for any other file."""
    name = path.name.lower()
    for suffix, command in _COMPRESSED.items():
        if name.endswith(suffix):
            return f"{command} {path.name}"
    if isinstance(path, Place) or not name.endswith(".tar") or not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError:  # listing the shard tells it
        return None
    commands = [command for start, command in _COMPRESSED_STARTS.items() if head.startswith(start)]
    return f"{commands[0]} < {path.name} > {path.stem}-unpacked.tar" if commands else None


def tar_samples(path: Path | Place, name: str) -> list[Sample]:
    """The samples of a shard, in the order of their first members.

    The key of a sample is the folder and the base name of its members up to the first dot; its id is NAME/KEY.
    Its image is the member with the extension of an image. If there are several, those with a simple
    extension count ("000.jpg", not "000.mask.png"); if there are still several, each makes a sample,
    with its extension in the id. Images with dots in their names and label files of their own ("22.05.png",
    "22.05.json") are samples as well (see `shard_keys.Key`).

    The label comes from KEY.cls, or from "label" in KEY.json, which may hold "target" as well; two indices that
    differ are no label. A key that comes
    twice makes two samples if both have the same kinds of members; else both fail, since no order tells which
    label belongs to which image. Hidden members are ignored.

    What cannot be read makes a sample with a "broken:" URI that says why: a link instead of an image,
    a key without image, the rest of a truncated or corrupt shard.

    Args:
        path: the tar file; one at a URL is read as a whole to list it, and its images are then read by themselves.
        name: with which the ids begin.

    Example:
        >>> import io, tempfile
        >>> path = Path(tempfile.mkdtemp()) / "train.tar"
        >>> with tarfile.open(path, "w") as archive:
        ...     for member in ("000.png", "000.cls"):
        ...         info = tarfile.TarInfo(member)
        ...         info.size = 1
        ...         archive.addfile(info, io.BytesIO(b"7"))
        >>> [(sample.sample_id, sample.label) for sample in tar_samples(path, "train")]
        [('train/000', '7')]
    """
    shard = _Shard(hidden(path.url) if isinstance(path, Place) else str(path.absolute()), name)
    if isinstance(path, Path) and path.exists() and not path.is_file():
        return [shard.broken("unread", "not a regular file")]
    keys: dict[str, Key] = {}
    problem = None
    try:
        with path.open("rb") as file:
            for member in _members(file):
                if isinstance(member, str):
                    problem = member
                elif not member.isdir() and not _hidden(member.name):
                    name, extension = _split_key(member.name)
                    keys.setdefault(name, Key(name)).add(extension, member)
            samples = [sample for key in keys.values() for sample in shard.samples(key, file)]
    except OSError as error:
        return [shard.broken("unread", f"the shard cannot be read: {error.strerror or error}")]
    if shard.bad_labels:
        log.warning("%s", printable(f"{path}: {_bad_labels(shard.bad_labels)}"))
    return samples + ([shard.broken("rest of the shard", problem)] if problem else [])


def _split_key(member: str) -> tuple[str, str]:
    """The key of a member and its extension, divided as WebDataset divides them.

    Example:
        >>> _split_key("train/000.mask.png")
        ('train/000', '.mask.png')
    """
    folder, _, base = member.removeprefix("./").lstrip("/").rpartition("/")
    stem, dot, extension = base.partition(".")
    return (f"{folder}/{stem}" if folder else stem), (dot + extension).lower()


def _hidden(member: str) -> bool:
    return any(part.startswith(".") and part not in (".", "..") for part in member.split("/"))


@dataclass
class _Shard:
    """Makes the samples of a shard; `bad_labels` collects the label files that cannot be read."""

    path: str
    name: str
    bad_labels: list[str] = field(default_factory=list)

    def samples(self, key: Key, file: BinaryIO) -> Iterator[Sample]:
        for image in key.images():
            labels = self.labels(image, file)
            reason = image.problem or (_not_readable(image.member) if image.member else None)
            if image.member is None or reason:
                yield self.broken(image.name, reason or "no image", **labels)
            else:
                place = f"{image.member.name}@{image.member.offset_data}+{image.member.size}"
                yield self.sample(image.name, make_uri("tar", self.path, place), **labels)

    def sample(self, key: str, uri: str, label: str | None = None, target: str | None = None) -> Sample:
        return Sample(clean_text(f"{self.name}/{key}"), uri, label, target)

    def broken(self, key: str, reason: str, **labels: str | None) -> Sample:
        return self.sample(key, make_uri("broken", f"{self.path}: {key}", reason), **labels)

    def labels(self, image: KeyedImage, file: BinaryIO) -> dict[str, str | None]:
        labels: dict[str, str | None] = {}
        for extension, read in _READERS.items():
            member = image.labels.get(extension)
            if member is None:
                continue
            try:
                values = read(_label_text(file, member))
            except ValueError as error:
                values = {}
                self.bad_labels.append(f"{clean_text(member.name)}: {error}")
            for name, (text_of, value) in values.items():
                try:
                    text = text_of(value)
                except ValueError as error:
                    self.bad_labels.append(f"{clean_text(member.name)}: {name!r} {error}")
                    continue
                before = labels.setdefault(name, text) if text is not None else text
                if before != text and _are_indices(before, text):
                    labels[name] = None
                    self.bad_labels.append(
                        f"{clean_text(member.name)}: {name!r} is {text}, and {before} in another label file"
                    )
        return labels


def _bad_labels(bad: list[str]) -> str:
    files = plural(len(bad), "label file")
    return f"{files} cannot be used, the samples go without a label; the first: {bad[0]}"


def _are_indices(*labels: str | None) -> bool:
    """Whether all are indices, which name different classes if they differ; a name and an index may be one class."""
    return all(label is not None and label.isdecimal() for label in labels)


def _not_readable(member: tarfile.TarInfo) -> str | None:
    if member.issym() or member.islnk():
        return "a link in the shard, which is not followed; pack the file itself"
    if not member.isreg():
        return "not a regular file in the shard"
    if member.issparse():
        return "a sparse file in the shard; pack it without --sparse"
    return None


def _label_text(file: BinaryIO, member: tarfile.TarInfo) -> str:
    reason = _not_readable(member)
    if reason or member.size > _MAX_LABEL_BYTES:
        raise ValueError(reason or f"{member.size:,} bytes are too many for a label")
    file.seek(member.offset_data)
    content = file.read(member.size)
    if len(content) < member.size:
        raise ValueError("the shard ends within it")
    return content.decode("utf-8-sig")


#: What a label file says: name of the field of `Sample` -> the function that makes its text, and the value.
_Values = dict[str, tuple[Callable[[Any], str | None], Any]]


def _from_cls(text: str) -> _Values:
    if len(text.strip().splitlines()) > 1:
        raise ValueError("expected one line, got several")
    return {"label": (label_text, text)}


def _from_json(text: str) -> _Values:
    content = parsed_json(text)
    if not isinstance(content, dict):
        raise ValueError(f"expected a JSON object, got {type(content).__name__}")
    return {"label": (label_text, content.get("label")), "target": (target_text, content.get("target"))}


#: Extension of a label file -> its reader. The first that has a value for "label" or "target" decides.
_READERS: dict[str, Callable[[str], _Values]] = dict(
    zip(LABEL_SUFFIXES, (_from_cls, _from_json), strict=True)
)


def _members(file: BinaryIO) -> Iterator[tarfile.TarInfo | str]:
    """The members, and at the end a sentence if the archive is damaged."""
    last, position = "its start", -1
    try:
        with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape") as archive:
            while (member := archive.next()) is not None:
                if member.size < 0 or archive.offset <= position:
                    raise tarfile.ReadError("a member of negative size")
                position = archive.offset
                archive.members = []  # type: ignore[attr-defined]  # tarfile keeps every member it has read
                yield member
                last = f"member {clean_text(member.name)!r}"
            reason = _ending(file, archive.offset)
    except tarfile.ReadError as error:
        reason = f"the tar is truncated or corrupt ({' '.join(str(error).split())})"
    except (tarfile.TarError, ValueError, RecursionError, OverflowError, MemoryError) as error:
        reason = f"the tar is corrupt ({type(error).__name__})"
    if reason:
        yield f"{reason} after {last}; what follows is not read"


def _ending(file: BinaryIO, offset: int) -> str | None:
    """What is wrong with the end of the archive: tarfile silently stops at a damaged header or a block of zeros."""
    file.seek(offset)
    block = file.read(_BLOCK)
    if len(block) < _BLOCK:
        return "the tar is truncated: its end marker is missing"
    if block.strip(b"\0"):
        return "the tar is corrupt: a damaged header"
    while chunk := file.read(1 << 20):
        if chunk.strip(b"\0"):
            return "the tar holds more data behind its end (several tars in one file?)"
    return None


def read_member(shard: str, place: str) -> tuple[bytes, str]:
    """The bytes and the name of the member that a "tar:" URI names.

    Raises:
        ImageError: the shard is missing or too short, or has changed since it was listed.

    Example:
        >>> import io, tempfile
        >>> path = str(Path(tempfile.mkdtemp()) / "train.tar")
        >>> with tarfile.open(path, "w") as archive:
        ...     member = tarfile.TarInfo("a.png")
        ...     member.size = 4
        ...     archive.addfile(member, io.BytesIO(b"data"))
        >>> read_member(path, "a.png@512+4")
        (b'data', 'a.png')
    """
    match = _PLACE.fullmatch(place)
    if match is None:
        raise ImageError(f"expected MEMBER@OFFSET+SIZE behind the shard, got {place!r}")
    name, offset, size = match[1], int(match[2]), int(match[3])
    content = _read_at(shard, offset - _BLOCK, size + _BLOCK)
    _check_header(content[:_BLOCK], name, size)
    if len(content) < size + _BLOCK:
        raise ImageError("the shard is truncated within this member")
    return content[_BLOCK:], name


def _read_at(shard: str, start: int, length: int) -> bytes:
    if length > _MAX_IMAGE_BYTES:
        raise ImageError(f"a member of {length:,} bytes is over the limit of {_MAX_IMAGE_BYTES:,}")
    try:
        if is_url(shard):
            return Place(shard).read(start, length)
        with open(shard, "rb") as file:
            file.seek(start)
            return file.read(length)
    except (OSError, ValueError, OverflowError) as error:
        raise ImageError(f"the shard cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _check_header(block: bytes, name: str, size: int) -> None:
    """Raises ImageError unless the header before the data is this member's.

    Names that are long or not ASCII are stored elsewhere and cannot be compared.
    """
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError):
        raise ImageError("the shard has changed since it was listed") from None
    short = name.isascii() and len(name) <= 100
    if header.size != size or (short and header.name != name):
        raise ImageError("the shard has changed since it was listed")
