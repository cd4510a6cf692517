"""What a sample is, and the URIs that say where its image is stored.

A URI is the plain path of a file, its URL (`s3://bucket/cat.jpg`, see `cfcam_gpu._utils.places`), or a scheme with
parts that are divided by "#":

    tar:SHARD#MEMBER@OFFSET+SIZE    a member of an uncompressed tar file, read with one seek
    hf:FOLDER#FILE#COLUMN#ROW       a cell of an Arrow file in the folder of a Hugging Face data set
    parquet:FILE#COLUMN#GROUP#ROW   a cell of a Parquet file: a row of a row group
    file:PATH                       a path that cannot be written as plain text
    url:URL                         a URL that cannot be written as plain text
    object:TOKEN#INDEX              an item of a data set that this process was given as a Python object
    broken:WHERE#REASON             a sample that could not be read when the samples were listed

In a part, "%", "#", control characters and bytes that are not UTF-8 are percent-encoded. So every URI
is valid text and can be stored. SHARD may be a URL. Credentials in URLs are masked (see `places.masking`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from typing import Any
from urllib.parse import unquote

from cfcam_gpu._utils.places.masking import MASK, hidden, masked, revealed
from cfcam_gpu._utils.places.schemes import is_url

#: Scheme -> number of its parts.
_SCHEMES = {"tar": 2, "hf": 4, "parquet": 4, "file": 1, "url": 1, "object": 2, "broken": 2}

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

    # As the decorator's own, which takes twice as long: it goes by `object.__setattr__`.
    def __init__(
        self,
        sample_id: str,
        uri: str,
        label: str | None = None,
        target: str | None = None,
        name: str = "",
        mask: str | None = None,
    ) -> None:
        _set_sample_id(self, sample_id)
        _set_uri(self, uri)
        _set_label(self, label)
        _set_target(self, target)
        _set_name(self, name)
        _set_mask(self, mask)


_set_sample_id, _set_uri, _set_label, _set_target, _set_name, _set_mask = (
    vars(Sample)[field.name].__set__ for field in fields(Sample)
)


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
        >>> split_uri("s3://bucket/cat.jpg")
        ('url', ['s3://bucket/cat.jpg'])
    """
    scheme, colon, rest = uri.partition(":")
    if is_url(uri) and not _is_cell(uri):
        return "url", [uri]
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
    if path.startswith("/") and path.isascii() and path.isprintable():
        return path
    scheme, colon, _ = path.partition(":")
    plain = not (colon and scheme in _SCHEMES) and not re.search(r"[\x00-\x1f\x7f\udc80-\udcff]", path)
    return path if plain else make_uri("file", path)


def url_uri(url: str) -> str:
    r"""The URI of a file at a URL, with its credentials masked, which this process alone can take back.

    Example:
        >>> url_uri("https://me:word@host/cat.jpg"), url_uri("s3://bucket/cat\n.jpg")
        ('https://***@host/cat.jpg', 'url:s3://bucket/cat%0A.jpg')
    """
    return _written(hidden(url))


def revealed_uri(uri: str) -> str:
    """The URI with the URL in it that `url_uri` masked in this process; any other URI as it is."""
    return _with_url(uri, revealed) if MASK in uri else uri


def without_credentials(sample: Sample) -> Sample:
    """The sample with the credentials in its URLs masked."""
    if "://" not in f"{sample.sample_id}{sample.uri}{sample.mask}":
        return sample
    return replace(sample, **{name: mask(getattr(sample, name)) for name, mask in CREDENTIALS.items()})


def masked_urls(samples: Iterable[Sample]) -> dict[str, str]:
    """Masked URL -> URL, of those samples whose URLs have credentials."""
    uris = (uri for sample in samples for uri in (sample.uri, sample.mask) if uri is not None and MASK in uri)
    urls = (url for uri in uris for url in split_uri(uri)[1][:1])
    return {url: revealed(url) for url in urls if revealed(url) != url}


def _with_url(uri: str, change: Callable[[str], str]) -> str:
    """The URI with the URL in it changed, if there is one."""
    try:
        scheme, parts = split_uri(uri)
    except ValueError:
        return uri
    if scheme not in ("url", "tar", "parquet") or not is_url(parts[0]):
        return uri
    url = change(parts[0])
    return _written(url) if scheme == "url" else make_uri(scheme, url, *parts[1:])


def _without_url_credentials(uri: str | None) -> str | None:
    return None if uri is None else _with_url(uri, hidden)


#: Fields of a sample that may hold URLs -> what masks the credentials in a value.
CREDENTIALS: dict[str, Callable[[Any], Any]] = {
    "sample_id": masked, "uri": _without_url_credentials, "mask": _without_url_credentials,
}  # fmt: skip


def _written(url: str) -> str:
    plain = not _is_cell(url) and not re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", url)
    return url if plain else make_uri("url", url)


def _is_cell(uri: str) -> bool:
    """Whether it is the `hf:` URI of a cell, in a folder that begins with two slashes."""
    return uri.startswith("hf:") and uri.count("#") == _SCHEMES["hf"] - 1


def _percent(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogateescape"))


def clean_text(text: str) -> str:
    r"""The text as valid UTF-8: bytes of a file name that are not UTF-8 become "\xff", lone surrogates "\ud800".

    Example:
        >>> clean_text("caf\udce9.jpg")
        'caf\\xe9.jpg'
    """
    return text if text.isascii() else _SURROGATE.sub(_backslash, text)


def _backslash(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"
