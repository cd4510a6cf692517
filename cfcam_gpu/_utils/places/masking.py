"""Credentials in URLs: masked wherever a URL is printed or stored, and kept in memory to read the file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

MASK = "***"

#: What stands before an "@" in the host of a URL.
_USER = re.compile(r"(://)[^/?#@\s]*(?:@[^/?#@\s]*)*@")

#: Parameters of signed URLs (S3, Google, Azure, CloudFront) and of APIs: credentials, and what changes with them.
_PARAMETER = re.compile(
    r"(?<=[?&;])([^=&;#\s]*(?:sign|token|secret|cred|passw|pwd|auth|key|hmac|hash|digest|session|jwt|policy|expire)"
    r"[^=&;#\s]*|x-amz-[^=&;#\s]*|x-goog-[^=&;#\s]*|sig|s[eprtv]|spr|pass|code)=([^&;#\s'\"]*)",
    re.IGNORECASE,
)

#: Masked URL -> the URL. Only in this process: files of a run hold masked URLs.
_urls: dict[str, str] = {}


def masked(text: str) -> str:
    """A text in which the credentials of all URLs are masked: user and password, and signed queries.

    Example:
        >>> masked("https://me:word@host/cat.png?size=5&X-Amz-Signature=0a1b cannot be read")
        'https://***@host/cat.png?size=5&X-Amz-Signature=*** cannot be read'
    """
    if "://" not in text:
        return text
    return _PARAMETER.sub(rf"\1={MASK}", _USER.sub(rf"\1{MASK}@", text))


def hidden(url: str) -> str:
    """The URL masked, so that it can be stored; `revealed` gives it back in this process.

    URLs that differ only in what is masked stay different.

    Example:
        >>> revealed(hidden("https://host/cat.png?sig=0a1b"))
        'https://host/cat.png?sig=0a1b'
    """
    if "@" not in url and "?" not in url:
        return url
    text = masked(url)
    if text == url:
        return url
    if _urls.setdefault(text, url) != url:
        text += f"&{hashlib.sha256(url.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
        _urls[text] = url
    return text


def revealed(text: str) -> str:
    """The URL that was hidden in this process; any other text as it is."""
    return _urls.get(text, text)


def remember(urls: Mapping[str, str]) -> None:
    """Takes masked URLs with what they stand for, from another process."""
    _urls.update(urls)
