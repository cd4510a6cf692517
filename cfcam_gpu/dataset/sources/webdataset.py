"""WebDataset shards: uncompressed tar files in which the members with the same base name make one sample.

Nothing is extracted, and no member's name is used as a path: a shard is listed once, and workers then
read the bytes of single members at their offsets.
"""

from __future__ import annotations

import json
import logging
import os
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from cfcam_gpu.dataset.sources.names import IMAGE_SUFFIXES
from cfcam_gpu.dataset.sources.sample import Sample, clean_text, make_uri
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

#: Members of more bytes are not read: an image, a label file.
_MAX_IMAGE_BYTES = 1 << 30
_MAX_LABEL_BYTES = 1 << 20

_BLOCK = 512
_PLACE = re.compile(r"(.*)@([0-9]{1,18})\+([0-9]{1,18})", re.DOTALL)


def is_compressed(path: Path) -> bool:
    """Whether a file has the name of a compressed tar file.

    Example:
        >>> is_compressed(Path("train-000.tar.gz")), is_compressed(Path("train-000.tar"))
        (True, False)
    """
    return path.name.lower().endswith(tuple(_COMPRESSED))


def refuse_compressed(path: Path) -> None:
    """Raises InputError for a compressed shard, with the command that unpacks it.

    Example:
        >>> refuse_compressed(Path("train.tgz"))
        Traceback (most recent call last):
        cfcam_gpu.errors.InputError: shard 'train.tgz' is compressed, and images are read from the middle of a shard; \
unpack it first: gunzip --suffix .tgz train.tgz
    """
    for suffix, command in _COMPRESSED.items():
        if path.name.lower().endswith(suffix):
            raise InputError(
                f"shard {str(path)!r} is compressed, and images are read from the middle of a shard; "
                f"unpack it first: {command} {path.name}"
            )


def tar_samples(path: Path, name: str) -> list[Sample]:
    """The samples of a shard, in the order of their first members.

    The key of a sample is the folder and the base name of its members up to the first dot; its id is NAME/KEY.
    Its image is the member with the extension of an image. If there are several, those with a simple
    extension count ("000.jpg", not "000.mask.png"); if there are still several, each makes a sample,
    with its extension in the id. The label comes from KEY.cls, or from "label" in KEY.json, which may
    hold "target" as well. Hidden members are ignored.

    What cannot be read makes a sample with a "broken:" URI that says why: a link instead of an image,
    a key without image, the rest of a truncated or corrupt shard.

    Args:
        path: the tar file.
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
    shard = _Shard(str(path.absolute()), name)
    if os.path.exists(path) and not os.path.isfile(path):
        return [shard.broken("unread", "not a regular file")]
    groups: dict[str, _Group] = {}
    problem = None
    try:
        with path.open("rb") as file:
            for member in _members(file):
                if isinstance(member, str):
                    problem = member
                elif not member.isdir() and not _hidden(member.name):
                    key, extension = _split_key(member.name)
                    groups.setdefault(key, _Group()).add(extension, member)
            samples = [sample for key, group in groups.items() for sample in shard.samples(key, group, file)]
    except OSError as error:
        return [shard.broken("unread", f"the shard cannot be read: {error.strerror or error}")]
    if shard.bad_labels:
        log.warning("%s: %s", path, _bad_labels(shard.bad_labels))
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
class _Group:
    """The members of one key: images, label files, and the extensions of all others."""

    images: list[tuple[str, tarfile.TarInfo]] = field(default_factory=list)
    labels: dict[str, tarfile.TarInfo] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)

    def add(self, extension: str, member: tarfile.TarInfo) -> None:
        if PurePosixPath("x" + extension).suffix in IMAGE_SUFFIXES:
            self.images.append((extension, member))
        elif extension in _LABELS:
            self.labels[extension] = member
        else:
            self.others.append(extension or "no extension")

    def chosen(self) -> list[tuple[str, tarfile.TarInfo]]:
        """The images with a simple extension, or all where none has one."""
        plain = [(extension, member) for extension, member in self.images if extension.count(".") == 1]
        return plain or self.images


@dataclass
class _Shard:
    """Makes the samples of a shard; `bad_labels` collects the label files that cannot be read."""

    path: str
    name: str
    bad_labels: list[str] = field(default_factory=list)

    def samples(self, key: str, group: _Group, file: BinaryIO) -> Iterator[Sample]:
        if not group.images:
            extensions = ", ".join(sorted({*group.labels, *group.others}))
            yield self.broken(key, f"no image among the members of this key, only {extensions}")
            return
        labels = self.labels(group, file)
        chosen = group.chosen()
        for extension, member in chosen:
            name = key if len(chosen) == 1 else key + extension
            reason = _not_readable(member)
            if reason:
                yield self.broken(name, reason, **labels)
            else:
                place = f"{member.name}@{member.offset_data}+{member.size}"
                yield self.sample(name, make_uri("tar", self.path, place), **labels)

    def sample(self, key: str, uri: str, label: str | None = None, target: str | None = None) -> Sample:
        return Sample(clean_text(f"{self.name}/{key}"), uri, label, target)

    def broken(self, key: str, reason: str, **labels: str | None) -> Sample:
        return self.sample(key, make_uri("broken", f"{self.path}: {key}", reason), **labels)

    def labels(self, group: _Group, file: BinaryIO) -> dict[str, str | None]:
        labels: dict[str, str | None] = {}
        for extension, read in _LABELS.items():
            member = group.labels.get(extension)
            if member is None:
                continue
            try:
                values = read(_label_text(file, member))
            except ValueError as error:
                self.bad_labels.append(f"{clean_text(member.name)}: {error}")
                continue
            labels |= {
                name: value for name, value in values.items() if value is not None and name not in labels
            }
        return labels


def _bad_labels(bad: list[str]) -> str:
    return f"{len(bad)} label files could not be read, their samples go without a label; the first: {bad[0]}"


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
    return content.decode()


def _from_cls(text: str) -> dict[str, str | None]:
    return {"label": clean_text(text.strip()) or None}


def _from_json(text: str) -> dict[str, str | None]:
    try:
        content = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(content, dict):
        raise ValueError(f"expected a JSON object, got {type(content).__name__}")
    return {name: _scalar(name, content.get(name)) for name in ("label", "target")}


def _scalar(name: str, value: Any) -> str | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, (str, int))):
        raise ValueError(f"{name!r} must be an index or a name, got {type(value).__name__}")
    return None if value is None else clean_text(str(value).strip()) or None


#: Extension of a label file -> its reader. The first that has a value for "label" or "target" decides.
_LABELS: dict[str, Callable[[str], dict[str, str | None]]] = {".cls": _from_cls, ".json": _from_json}


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
