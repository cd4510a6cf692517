"""Files at http:// and https:// URLs, read with Python's own client."""

from __future__ import annotations

import base64
import http.client
import io
import math
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cfcam_gpu._utils.messages import first_line
from cfcam_gpu._utils.places.schemes import LEAST_RATE
from cfcam_gpu.errors import PlaceError

#: What stays as it is in a URL: its own marks, and what is percent-encoded.
_MARKS = "%/:?#[]@!$&'()*+,;=~"

_CHUNK = 1 << 18


def read(url: str, start: int, length: int, timeout: float) -> bytes:
    """So many bytes from `start`, fewer at the end of the file. Raises PlaceError."""
    headers = {"Range": f"bytes={start}-{start + length - 1}"} if start else {}
    with _opened(url, timeout, headers) as response:
        if start and response.status != 206:
            raise PlaceError(
                "the server gives no parts of files (no HTTP range requests); copy the file to a disk"
            )
        pieces, missing = [], length
        for piece in _pieces(response):
            pieces.append(piece[:missing])
            missing -= len(piece)
            if missing <= 0:
                break
    return b"".join(pieces)


def chunks(url: str, timeout: float) -> Iterator[bytes]:
    """The whole file, piece by piece. Raises PlaceError."""
    with _opened(url, timeout) as response:
        yield from _pieces(response)


def size(url: str, timeout: float) -> int | None:
    """Number of bytes of the file; None: the server does not say. Raises PlaceError."""
    with _opened(url, timeout) as response:
        return _length(response)


def version(url: str, timeout: float) -> str | None:
    """A text that changes with the file; None: the server gives none. Raises PlaceError."""
    with _opened(url, timeout) as response:
        marks = [response.headers.get(name) for name in ("ETag", "Last-Modified", "Content-Length")]
    return " ".join(filter(None, marks)) if any(marks[:2]) else None


def is_folder(url: str, timeout: float) -> bool:
    """False for a file that can be read. Raises PlaceError for any other URL: folders cannot be listed."""
    with _opened(url, timeout):
        return False


def _pieces(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """The content as it arrives. Raises PlaceError where it ends early, which http.client does not notice."""
    expected, got = _length(response), 0
    while piece := response.read1(_CHUNK):
        got += len(piece)
        yield piece
    if expected is not None and got < expected:
        raise PlaceError(f"the server sent {got:,} of {expected:,} bytes", passing=True)


class _Watched(io.RawIOBase):
    """What a server sends. Raises PlaceError where it arrives too slowly: a byte now and then is no silence.

    Args:
        source: the socket's file.
        patience: seconds in which a server may send fewer bytes than `LEAST_RATE` a second.
    """

    def __init__(self, source: io.RawIOBase, patience: float) -> None:
        self.source, self.patience = source, patience
        self.begin()

    def begin(self) -> None:
        """Forgets what was sent until now."""
        self.waited = 0.0  # seconds in which the server was waited for
        self.got = 0  # bytes that came in them

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self.waited > self.patience:
            if self.got < self.waited * LEAST_RATE:
                text = f"the server sent {self.got:,} bytes in {self.waited:.0f} s, too few to go on"
                raise PlaceError(text, passing=True)
            self.begin()
        start = time.monotonic()
        count = self.source.readinto(buffer)
        self.waited += time.monotonic() - start
        self.got += count or 0
        return count

    def close(self) -> None:
        self.source.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """An answer whose head and content each have a limit of slowness."""

    def __init__(self, sock: socket.socket, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        self._watched = _Watched(self.fp.detach(), sock.gettimeout() or math.inf)
        self.fp = io.BufferedReader(self._watched)

    def begin(self) -> None:
        super().begin()
        self._watched.begin()


class _Watching(urllib.request.AbstractHTTPHandler):
    """Reads every answer as a `_Response`, those of proxies too."""

    def do_open(self, http_class: Any, req: urllib.request.Request, **options: Any) -> Any:
        def connection(*arguments: Any, **settings: Any) -> http.client.HTTPConnection:
            made: http.client.HTTPConnection = http_class(*arguments, **settings)
            made.response_class = _Response
            return made

        return super().do_open(connection, req, **options)


class _HTTPHandler(_Watching, urllib.request.HTTPHandler):
    pass


class _HTTPSHandler(_Watching, urllib.request.HTTPSHandler):
    pass


def _length(response: http.client.HTTPResponse) -> int | None:
    text = response.headers.get("Content-Length") or ""
    return int(text) if text.isdecimal() else None


@contextmanager
def _opened(url: str, timeout: float, headers: dict[str, str] | None = None) -> Iterator[Any]:
    try:
        with _client().open(_request(url, headers or {}), timeout=timeout) as response:
            yield response
    except PlaceError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _problem(error, timeout) from error


def _client() -> urllib.request.OpenerDirector:
    """A client that opens nothing but HTTP: urllib's usual one reads local files as well."""
    client = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler, _HTTPHandler, _HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler, urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor, urllib.request.UnknownHandler,
    ):  # fmt: skip
        client.add_handler(handler())
    return client


def _request(url: str, headers: dict[str, str]) -> urllib.request.Request:
    """The request; a user and password in the URL go into a header, which no redirect takes elsewhere."""
    parts = urllib.parse.urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    plain = urllib.parse.urlunsplit(parts._replace(netloc=host))
    request = urllib.request.Request(
        urllib.parse.quote(plain, safe=_MARKS), headers={"User-Agent": "cfcam-gpu", **headers}
    )
    if at:
        secret = base64.b64encode(urllib.parse.unquote_to_bytes(user)).decode()
        request.add_unredirected_header("Authorization", f"Basic {secret}")
    return request


#: HTTP status -> reason.
_STATUSES = {
    401: "access denied (HTTP 401); the server wants credentials",
    403: "access denied (HTTP 403); a signed URL may have expired",
    404: "there is no such file (HTTP 404)",
    410: "the file is gone (HTTP 410)",
}


def _problem(error: Exception, timeout: float) -> PlaceError:
    if isinstance(error, urllib.error.HTTPError):
        reason = _STATUSES.get(error.code, f"the server answered HTTP {error.code}")
        return PlaceError(reason, passing=error.code >= 500 or error.code == 429)
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return PlaceError(f"the server did not answer for {timeout:g} s", passing=True)
    if isinstance(error, ValueError):
        return PlaceError(f"no valid URL ({first_line(error)})")
    text = getattr(cause, "strerror", None) or (first_line(cause) if isinstance(cause, Exception) else cause)
    return PlaceError(f"the server cannot be reached ({text})", passing=True)
