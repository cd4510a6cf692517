"""WebDataset shards: uncompressed tar files whose members of one base name make one sample.

Nothing is ever extracted and no member's name is used as a path: a shard is listed once, and a
worker later reads the bytes of one regular member at its offset.
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

from cfcam_gpu.dataset.sources.sample import IMAGE_SUFFIXES, Sample, clean_text, make_uri
from cfcam_gpu.errors import ImageError, InputError

log = logging.getLogger("cfcam_gpu")

#: Extensions of compressed shards, which cannot be read at an offset, and what unpacks them.
COMPRESSED = {
    ".tar.gz": "gunzip",
    ".tgz": "gunzip --suffix .tgz",
    ".tar.bz2": "bunzip2",
    ".tar.xz": "unxz",
    ".tar.zst": "unzstd",
}

MAX_IMAGE_BYTES = 1 << 30
MAX_LABEL_BYTES = 1 << 20

_BLOCK = 512
_PLACE = re.compile(r"(.*)@([0-9]{1,18})\+([0-9]{1,18})", re.DOTALL)


def is_compressed(path: Path) -> bool:
    """Whether the name is that of a compressed tar file."""
    return path.name.lower().endswith(tuple(COMPRESSED))


def refuse_compressed(path: Path) -> None:
    """Raises InputError for a shard that is compressed."""
    for suffix, command in COMPRESSED.items():
        if path.name.lower().endswith(suffix):
            raise InputError(
                f"shard {str(path)!r} is compressed, and images are read from the middle of a shard; "
                f"unpack it first: {command} {path.name}"
            )


def tar_samples(path: Path, name: str) -> list[Sample]:
    """The samples of a shard, whose ids begin with `name`, in the order of their first members.

    A sample's key is the member's folder and base name up to its first dot; the id is NAME/KEY.
    Its image is the member with an image's extension; of several, those with a plain extension
    count ("000.jpg", not "000.mask.png"), and if these are several as well each is a sample with
    its extension in the id. The label comes from KEY.cls, or from "label" in KEY.json, where
    "target" may stand as well. Hidden members do not count.

    What cannot be read is a sample as well, with a "broken:" URI that says why: a link in an
    image's place, a key without an image, the rest of a truncated or corrupt shard.
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
                    key, extension = split_key(member.name)
                    groups.setdefault(key, _Group()).add(extension, member)
            samples = [sample for key, group in groups.items() for sample in shard.samples(key, group, file)]
    except OSError as error:
        return [shard.broken("unread", f"the shard cannot be read: {error.strerror or error}")]
    if shard.bad_labels:
        log.warning("%s: %s", path, _bad_labels(shard.bad_labels))
    return samples + ([shard.broken("rest of the shard", problem)] if problem else [])


def split_key(member: str) -> tuple[str, str]:
    """ "train/000.mask.png" -> ("train/000", ".mask.png"), the way WebDataset does it."""
    folder, _, base = member.removeprefix("./").lstrip("/").rpartition("/")
    stem, dot, extension = base.partition(".")
    return (f"{folder}/{stem}" if folder else stem), (dot + extension).lower()


def _hidden(member: str) -> bool:
    return any(part.startswith(".") and part not in (".", "..") for part in member.split("/"))


@dataclass
class _Group:
    """The members of one key: images and label files; of others only what extensions there are."""

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
        plain = [(extension, member) for extension, member in self.images if extension.count(".") == 1]
        return plain or self.images


@dataclass
class _Shard:
    path: str
    name: str
    bad_labels: list[str] = field(default_factory=list)

    def samples(self, key: str, group: _Group, file: BinaryIO) -> Iterator[Sample]:
        if not group.images:
            found = ", ".join(sorted({*group.labels, *group.others}))
            yield self.broken(key, f"no image among the members of this key, only {found}")
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
        identity = clean_text(f"{self.name}/{key}")
        return Sample(identity, uri, label, target)

    def broken(self, key: str, reason: str, **labels: str | None) -> Sample:
        return self.sample(key, make_uri("broken", f"{self.path}: {key}", reason), **labels)

    def labels(self, group: _Group, file: BinaryIO) -> dict[str, str | None]:
        found: dict[str, str | None] = {}
        for extension, read in _LABELS.items():
            member = group.labels.get(extension)
            if member is None:
                continue
            try:
                told = read(_small(file, member))
            except ValueError as error:
                self.bad_labels.append(f"{clean_text(member.name)}: {error}")
                continue
            found |= {name: value for name, value in told.items() if value is not None and name not in found}
        return found


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


def _small(file: BinaryIO, member: tarfile.TarInfo) -> str:
    reason = _not_readable(member)
    if reason or member.size > MAX_LABEL_BYTES:
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


#: Extension of a label file -> its reader; the first that tells wins.
_LABELS: dict[str, Callable[[str], dict[str, str | None]]] = {".cls": _from_cls, ".json": _from_json}


def _members(file: BinaryIO) -> Iterator[tarfile.TarInfo | str]:
    """The members, and at last a sentence if the archive does not end as it should."""
    last, position = "its start", -1
    try:
        with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape") as archive:
            while (member := archive.next()) is not None:
                if member.size < 0 or archive.offset <= position:
                    raise tarfile.ReadError("a member of negative size")
                position = archive.offset
                archive.members = []  # type: ignore[attr-defined]  # tarfile keeps all it has met
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
    """tarfile stops without a word at a damaged header and at the first block of zeros."""
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
        ImageError: the shard is gone, too short or another one than when it was listed.
    """
    found = _PLACE.fullmatch(place)
    if found is None:
        raise ImageError(f"expected MEMBER@OFFSET+SIZE behind the shard, got {place!r}")
    name, offset, size = found[1], int(found[2]), int(found[3])
    content = _read_at(shard, offset - _BLOCK, size + _BLOCK)
    _check_header(content[:_BLOCK], name, size)
    if len(content) < size + _BLOCK:
        raise ImageError("the shard is truncated within this member")
    return content[_BLOCK:], name


def _read_at(shard: str, start: int, length: int) -> bytes:
    if length > MAX_IMAGE_BYTES:
        raise ImageError(f"a member of {length:,} bytes is over the limit of {MAX_IMAGE_BYTES:,}")
    try:
        with open(shard, "rb") as file:
            file.seek(start)
            return file.read(length)
    except (OSError, ValueError, OverflowError) as error:
        raise ImageError(f"the shard cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _check_header(block: bytes, name: str, size: int) -> None:
    """The header before the data must still be this member's; long and non-ASCII names stand elsewhere."""
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError):
        raise ImageError("the shard has changed since it was listed") from None
    short = name.isascii() and len(name) <= 100
    if header.size != size or (short and header.name != name):
        raise ImageError("the shard has changed since it was listed")
