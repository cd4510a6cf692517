"""Which texts are URLs that can be read, and what reads them. Imports nothing else."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cfcam_gpu._utils.messages import either


@dataclass(frozen=True)
class Scheme:
    """A kind of URL.

    Attributes:
        module: the package that fsspec needs for it, beside itself; None: none.
        extra: the extra of this package that installs `module`.
        lists: whether folders can be listed.
    """

    module: str | None = None
    extra: str = ""
    lists: bool = True


SCHEMES = {
    "s3": Scheme("s3fs", "s3"),
    "gs": Scheme("gcsfs", "gs"),
    "hf": Scheme("huggingface_hub", "hf"),
    "https": Scheme(lists=False),
    "http": Scheme(lists=False),
    "memory": Scheme(),
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


#: Scheme -> the command that copies a folder there.
_COPYING = {"s3": "aws s3 sync FOLDER {url}", "gs": "gcloud storage rsync -r FOLDER {url}"}


def not_written(path: str) -> str | None:
    """Why results are not written to or read from a place, if it is a URL; None for a path.

    Args:
        path: as it was given; or the text of a `Path`, which has one slash less.

    Example:
        >>> not_written("s3://bucket/run")
        'results are kept on a disk, not at a URL; give a folder, and copy it: aws s3 sync FOLDER s3://bucket/run'
        >>> not_written("runs/s3")
    """
    match = re.match(r"([A-Za-z0-9+.-]+):/{1,2}(?!/)", path)
    if match is None or not (is_url(path) or match[1] in SCHEMES):
        return None
    copying = _COPYING.get(match[1].lower(), "").format(url=f"{match[1]}://{path[match.end() :]}")
    advice = f", and copy it: {copying}" if copying else ""
    return f"results are kept on a disk, not at a URL; give a folder{advice}"


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
