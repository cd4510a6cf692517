"""What the cells of a manifest name: files beside it, files anywhere on this machine, URLs."""

from __future__ import annotations

import os
import posixpath
import re
import unicodedata
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote

from cfcam_gpu._utils.places.place import Place
from cfcam_gpu._utils.places.schemes import is_url, unread_scheme
from cfcam_gpu.dataset.sources.names import is_plain
from cfcam_gpu.dataset.sources.sample import make_uri, path_uri, split_uri, url_uri

#: How a path or URI of this machine begins, also one of Windows.
_OF_A_MACHINE = re.compile(r"[/\\]|[A-Za-z]:[/\\]|file:", re.IGNORECASE)


def resolve_path(manifest: Path | Place, text: str) -> str:
    """The URI of the file that a path or URL in a manifest names.

    Raises:
        ValueError: the manifest may not hold it. The message completes a sentence that begins with the text.

    Example:
        >>> resolve_path(Place("s3://bucket/lists/train.csv"), "cats/1.png")
        's3://bucket/lists/cats/1.png'
        >>> resolve_path(Path("/lists/train.csv"), "s3://bucket/cats/1.png")
        's3://bucket/cats/1.png'
    """
    if is_plain(text) and isinstance(manifest, Path) and manifest.is_absolute():
        return path_uri(f"{_folder_of(manifest)}{text}")
    if is_url(text.strip()):
        return _checked_url(text.strip())
    if isinstance(manifest, Place):
        return url_uri(_beside(manifest, text).url)
    return path_uri(_inside(manifest, _spelling(manifest.parent, text)))


def resolve_uri(manifest: Path | Place, text: str) -> str:
    """The URI that a URI in a manifest stands for, with absolute paths. Raises as `resolve_path`."""
    if is_url(text) or isinstance(manifest, Place):
        return resolve_path(manifest, text)
    problem = None if text.startswith("file:") else unread_scheme(text)
    if problem is not None:
        raise ValueError(problem)
    if text.startswith("file:///"):
        return path_uri(unquote(text.removeprefix("file://")))
    if text.startswith("file://"):
        raise ValueError("is of the kind file:// with a host, which is not read; write file:///PATH")
    kind, parts = split_uri(text)
    if kind == "broken":
        raise ValueError("names no image")
    if kind in ("tar", "url") and is_url(parts[0]):
        return make_uri(kind, _checked_url(parts[0]), *parts[1:])
    parts = [_inside(manifest, parts[0]), *parts[1:]]
    return path_uri(parts[0]) if kind == "file" else make_uri(kind, *parts)


def _checked_url(url: str) -> str:
    Place(url).check_package()
    return url_uri(url)


def _beside(manifest: Place, text: str) -> Place:
    """The file beside a manifest at a URL. Raises ValueError for anything else: others wrote the manifest."""
    kind, _ = split_uri(text)
    if _OF_A_MACHINE.match(text) or kind != "file":
        raise ValueError("names a file of this machine, which a manifest at a URL may not")
    if unread_scheme(text):
        raise ValueError(str(unread_scheme(text)))
    relative = posixpath.normpath(text.replace("\\", "/"))
    if "\0" in text or relative.split("/")[0] == ".." or ".." in re.split(r"[/\\]", text):
        raise ValueError("leaves the manifest's folder by '..', which a manifest at a URL may not")
    return manifest.beside(relative)


@lru_cache(maxsize=8)
def _folder_of(manifest: Path) -> str:
    return os.path.join(manifest.parent, "")


def _spelling(folder: Path, text: str) -> str:
    """A path as it is written, or in another spelling under which the file exists."""
    plain = text.isascii() and "\\" not in text and text == text.strip()
    if plain or "\0" in text:
        return text
    spellings = [text, text.strip()]
    spellings += [spelling.replace("\\", "/") for spelling in spellings]
    spellings += [unicodedata.normalize(form, spelling) for form in ("NFC", "NFD") for spelling in spellings]
    # A backslash at the beginning makes no path of this file system's root.
    spellings = [s for s in spellings if os.path.isabs(s) <= os.path.isabs(text.strip())]
    return next((s for s in spellings if os.path.lexists(os.path.join(folder, s))), text)


def _inside(manifest: Path, text: str) -> str:
    """The absolute path. Raises ValueError for a relative path that leads out of the manifest's folder."""
    if "\0" in text:
        raise ValueError("holds a null character")
    if not os.path.isabs(text) and ".." in re.split(r"[/\\]", text):
        raise ValueError(
            "leaves the manifest's folder by '..'; write an absolute path or put the manifest higher up"
        )
    return os.path.join(manifest.parent.absolute(), os.path.normpath(text))
