"""What a sample is, and the strings that say where its image lies.

A URI is the plain path of a file, or a scheme and parts divided by "#":

    tar:SHARD#MEMBER@OFFSET+SIZE    a member of an uncompressed tar file, read with one seek
    hf:FOLDER#FILE#COLUMN#ROW       a cell of an Arrow file below a Hugging Face dataset's folder
    file:PATH                       a path that cannot stand as it is
    broken:WHERE#REASON             a sample known to be unreadable when it was listed

Within a part "%", "#", control characters and bytes that are no UTF-8 are percent-encoded, so that
every URI is valid text and can be stored.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePath, PurePosixPath
from urllib.parse import unquote

#: Scheme -> number of parts.
SCHEMES = {"tar": 2, "hf": 4, "file": 1, "broken": 2}

#: Extensions of the images that are looked for among other members; the decoder goes by content.
IMAGE_SUFFIXES = frozenset((
    ".avif", ".bmp", ".dcm", ".gif", ".ico", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".jpx",
    ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp",
))  # fmt: skip

_SPECIAL = re.compile(r"[%#\x00-\x1f\x7f\udc80-\udcff]+")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\\]")
_MAX_NAME_BYTES = 180  # a file's name may have 255 bytes; suffixes and numbers are added to it


@dataclass(frozen=True, slots=True)
class Sample:
    """One image to explain.

    Attributes:
        sample_id: stable and unique in a run: a path, a tar key, an id that the manifest or data set
            gives; never a row number.
        uri: where the image lies, for `open_image`; valid in any process, whatever its folder.
        label: the true class as given, an index or a name; None: unknown.
        target: the class asked for, an index or a name; None: the run's.
        name: what outputs are called: a relative path with forward slashes and without extension,
            unique among the samples, also where capital and small letters are the same.
        mask: where the object lies in the image, for `masks.open_mask`; None: not known.
    """

    sample_id: str
    uri: str
    label: str | None = None
    target: str | None = None
    name: str = ""
    mask: str | None = None


def make_uri(scheme: str, *parts: str) -> str:
    """The parts, encoded, behind the scheme."""
    return f"{scheme}:" + "#".join(_SPECIAL.sub(_percent, part) for part in parts)


def split_uri(uri: str) -> tuple[str, list[str]]:
    """Scheme and decoded parts; a plain path comes back as ("file", [path]).

    Raises:
        ValueError: a known scheme with a wrong number of parts.
    """
    scheme, colon, rest = uri.partition(":")
    if not colon or scheme not in SCHEMES:
        return "file", [uri]
    parts = [unquote(part, errors="surrogateescape") for part in rest.split("#")]
    if len(parts) != SCHEMES[scheme]:
        raise ValueError(f"{scheme}: needs {SCHEMES[scheme]} parts divided by '#', got {len(parts)}")
    return scheme, parts


def path_uri(path: str) -> str:
    """The path itself where it can be stored as text and reads like no scheme."""
    scheme, colon, _ = path.partition(":")
    plain = not (colon and scheme in SCHEMES) and not re.search(r"[\x00-\x1f\x7f\udc80-\udcff]", path)
    return path if plain else make_uri("file", path)


def _percent(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogateescape"))


def clean_text(text: str) -> str:
    r"""Valid UTF-8: bytes of a file name that are none become "\xff", lone surrogates "\ud800"."""
    return _SURROGATE.sub(_backslash, text)


def _backslash(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


def safe_name(text: str) -> PurePosixPath:
    """A relative path for outputs made of any text: no root, no "..", no control characters, no endless part."""
    parts = [_short(_CONTROL.sub("_", part)) for part in clean_text(text).split("/")]
    kept = [part for part in parts if part not in ("", ".", "..")]
    return PurePosixPath(*kept) if kept else PurePosixPath("sample")


def _short(part: str) -> str:
    if len(part.encode()) <= _MAX_NAME_BYTES:
        return part
    suffix = PurePath(part).suffix[:10]
    return part.encode()[: _MAX_NAME_BYTES - 40].decode(errors="ignore") + suffix


def image_stem(name: PurePosixPath) -> PurePosixPath:
    """The name without the extension of an image; other dots belong to it ("patient.1")."""
    named = name.stem.strip(".") != ""  # "...png" stays whole, since ".." is no name
    return name.with_suffix("") if named and name.suffix.lower() in IMAGE_SUFFIXES else name
