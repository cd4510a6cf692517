"""What a sample is, and the URIs that say where its image is stored.

A URI is the plain path of a file, or a scheme with parts that are divided by "#":

    tar:SHARD#MEMBER@OFFSET+SIZE    a member of an uncompressed tar file, read with one seek
    hf:FOLDER#FILE#COLUMN#ROW       a cell of an Arrow file in the folder of a Hugging Face data set
    parquet:FILE#COLUMN#GROUP#ROW   a cell of a Parquet file: a row of a row group
    file:PATH                       a path that cannot be written as plain text
    object:TOKEN#INDEX              an item of a data set that this process was given as a Python object
    broken:WHERE#REASON             a sample that could not be read when the samples were listed

In a part, "%", "#", control characters and bytes that are not UTF-8 are percent-encoded. So every URI
is valid text and can be stored.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

#: Scheme -> number of its parts.
_SCHEMES = {"tar": 2, "hf": 4, "parquet": 4, "file": 1, "object": 2, "broken": 2}

_SPECIAL = re.compile(r"[%#\x00-\x1f\x7f\udc80-\udcff]+")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Sample:
    """One image to explain.

    Attributes:
        sample_id: an id that is stable and unique in a run: a path, the key of a tar file, an id from the
            manifest or data set; the number of an item only where a Python object holds nothing better.
        uri: where the image is stored, for `open_image`; valid in every process, whatever its working folder, but
            for `object:` URIs.
        label: the true class as it was given, an index or a name; None: unknown.
        target: the class to explain, an index or a name; None: the run's.
        name: from which the names of output files are made: a relative path with forward slashes and
            without extension, unique among the samples of a run, also where case is ignored.
        mask: where the object lies in the image, for `masks.open_mask`; None: unknown.

    Example:
        >>> Sample("cat.jpg", "/photos/cat.jpg", label="cat", name="cat").target is None
        True
    """

    sample_id: str
    uri: str
    label: str | None = None
    target: str | None = None
    name: str = ""
    mask: str | None = None


def make_uri(scheme: str, *parts: str) -> str:
    """A URI of a scheme, with its parts encoded.

    Example:
        >>> make_uri("tar", "/data/#1.tar", "000.jpg@512+4096")
        'tar:/data/%231.tar#000.jpg@512+4096'
    """
    return f"{scheme}:" + "#".join(_SPECIAL.sub(_percent, part) for part in parts)


def split_uri(uri: str) -> tuple[str, list[str]]:
    """The scheme of a URI and its decoded parts; for a plain path ("file", [path]).

    Raises:
        ValueError: a known scheme with a wrong number of parts.

    Example:
        >>> split_uri("tar:/data/%231.tar#000.jpg@512+4096")
        ('tar', ['/data/#1.tar', '000.jpg@512+4096'])
        >>> split_uri("/photos/cat.jpg")
        ('file', ['/photos/cat.jpg'])
    """
    scheme, colon, rest = uri.partition(":")
    if not colon or scheme not in _SCHEMES:
        return "file", [uri]
    parts = [unquote(part, errors="surrogateescape") for part in rest.split("#")]
    if len(parts) != _SCHEMES[scheme]:
        raise ValueError(f"{scheme}: needs {_SCHEMES[scheme]} parts divided by '#', got {len(parts)}")
    return scheme, parts


def path_uri(path: str) -> str:
    r"""The URI of a file: its path, or a `file:` URI where the path is no valid text or begins like a scheme.

    Example:
        >>> path_uri("/photos/cat.jpg"), path_uri("/photos/cat\n.jpg")
        ('/photos/cat.jpg', 'file:/photos/cat%0A.jpg')
    """
    scheme, colon, _ = path.partition(":")
    plain = not (colon and scheme in _SCHEMES) and not re.search(r"[\x00-\x1f\x7f\udc80-\udcff]", path)
    return path if plain else make_uri("file", path)


def _percent(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogateescape"))


def clean_text(text: str) -> str:
    r"""The text as valid UTF-8: bytes of a file name that are not UTF-8 become "\xff", lone surrogates "\ud800".

    Example:
        >>> clean_text("caf\udce9.jpg")
        'caf\\xe9.jpg'
    """
    return _SURROGATE.sub(_backslash, text)


def _backslash(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"
