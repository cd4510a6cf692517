"""Which texts are URLs that can be read, and what reads them. Imports little."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cfcam_gpu._utils.messages import either
from cfcam_gpu._utils.places.masking import masked
from cfcam_gpu.errors import InputError

#: Bytes a second under which a server is given up, on average over the seconds of its silence that are borne.
LEAST_RATE = 1000


@dataclass(frozen=True)
class Scheme:
    """A kind of URL.

    Attributes:
        module: the package that fsspec needs for it, beside itself; None: none.
        extra: the extra of this package that installs `module`.
        lists: whether folders can be listed.
        keeps_runs: whether a run may write its results there.
    """

    module: str | None = None
    extra: str = ""
    lists: bool = True
    keeps_runs: bool = False


SCHEMES = {
    "s3": Scheme("s3fs", "s3", keeps_runs=True),
    "gs": Scheme("gcsfs", "gs", keeps_runs=True),
    "hf": Scheme("huggingface_hub", "hf"),
    "https": Scheme(lists=False),
    "http": Scheme(lists=False),
    "memory": Scheme(keeps_runs=True),
}

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def scheme_of(text: str) -> str | None:
    """The scheme of a text that is written like a URL, in lower case; None for other texts.

    Example:
        >>> scheme_of("S3://bucket/cat.png"), scheme_of("az://box/cat.png"), scheme_of("photos/cat.png")
        ('s3', 'az', None)
    """
    match = _URL.match(text)
    return match[1].lower() if match else None


def is_url(text: str) -> bool:
    """Whether a text is a URL of one of `SCHEMES`.

    Example:
        >>> is_url("s3://bucket/cat.png"), is_url("file:///cat.png"), is_url("C:/cat.png")
        (True, False, False)
    """
    return scheme_of(text) in SCHEMES


def run_url(out: object) -> str | None:
    """The URL of a run's output folder, with its scheme in lower case and no slash at its end; None for a path.

    Raises:
        InputError: no results are written there.

    Example:
        >>> run_url("S3://bucket/run/"), run_url("runs/s3")
        ('s3://bucket/run', None)
        >>> run_url("https://host/run")
        Traceback (most recent call last):
        cfcam_gpu.errors.InputError: output folder 'https://host/run': results are not written to https://; give a \
folder, or a URL of s3://, gs:// or memory://
    """
    scheme = scheme_of(out) if isinstance(out, str) else None
    if not isinstance(out, str) or scheme is None:
        return None
    path = out.partition("://")[2].rstrip("/")
    keeping = [f"{name}://" for name, kind in SCHEMES.items() if kind.keeps_runs]
    if scheme not in SCHEMES or not SCHEMES[scheme].keeps_runs:
        raise InputError(
            f"output folder {masked(out)!r}: results are not written to {scheme}://; give a folder, or a URL of "
            f"{either(keeping)}"
        )
    if not path or "@" in path.split("/")[0] or ".." in path.split("/"):
        raise InputError(
            f"output folder {masked(out)!r}: name a bucket and a folder in it, without '..' and without credentials, "
            "which come from where the scheme's package finds them"
        )
    return f"{scheme}://{path}"


def not_written(path: str) -> str | None:
    """Why a file is not written to a place, if it is a URL; None for a path.

    Args:
        path: as it was given; or the text of a `Path`, which has one slash less.

    Example:
        >>> not_written("s3://bucket/maps.npz")
        'is a URL, and this is written to a disk; give a path, and copy it'
        >>> not_written("s3:/bucket/run")
        'has lost a slash; give the URL as a text (str), not as a Path'
        >>> not_written("runs/s3")
    """
    if is_url(path):
        return "is a URL, and this is written to a disk; give a path, and copy it"
    match = re.match(r"([A-Za-z0-9+.-]+):/(?!/)", path)
    if match is None or match[1] not in SCHEMES:
        return None
    return "has lost a slash; give the URL as a text (str), not as a Path"


def unread_scheme(text: str) -> str | None:
    """Why a text that is written like a URL is none that can be read; None for every other text.

    Example:
        >>> unread_scheme("az://box/cat.png")
        'is of the kind az://, which is not read, only s3://, gs://, hf://, https://, http:// or memory://'
    """
    scheme = scheme_of(text)
    if scheme is None or scheme in SCHEMES:
        return None
    return f"is of the kind {scheme}://, which is not read, only {either([f'{name}://' for name in SCHEMES])}"
