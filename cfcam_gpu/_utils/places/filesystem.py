"""Files and folders at the URLs that fsspec reads and writes: object stores, the Hugging Face hub, memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cfcam_gpu._utils.messages import first_line
from cfcam_gpu._utils.optional import require
from cfcam_gpu._utils.places.masking import masked
from cfcam_gpu._utils.places.schemes import LEAST_RATE, SCHEMES, scheme_of
from cfcam_gpu.errors import MissingPackageError, PlaceError

#: Bytes that are asked for at once where a file is read as a whole.
_CHUNK = 8 << 20

#: Seconds to reach a server.
_CONNECT = 10

_NO_CREDENTIALS = (
    "no credentials were found; give them as the package of this scheme reads them (of S3: AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or FSSPEC_S3='{\"anon\": true}' for a public bucket)"
)


def read(url: str, start: int, length: int, timeout: float) -> bytes:
    """So many bytes from `start`, fewer at the end of the file. Raises PlaceError."""
    with _file_system(url, timeout) as (system, path):
        try:
            content: bytes = system.cat_file(
                path, start=start, end=start + length, **_limit(system, timeout, length)
            )
        except OSError as error:
            if not _is_beyond_end(error):
                raise
            return b""
    return content


def chunks(url: str, timeout: float) -> Iterator[bytes]:
    """The whole file, piece by piece. Raises PlaceError."""
    total = size(url, timeout) or 0
    for start in range(0, total, _CHUNK):
        piece = read(url, start, min(_CHUNK, total - start), timeout)
        if len(piece) < min(_CHUNK, total - start):
            raise PlaceError("the file became shorter while it was read", passing=True)
        yield piece


def size(url: str, timeout: float) -> int | None:
    """Number of bytes of the file; None: not known. Raises PlaceError."""
    with _file_system(url, timeout) as (system, path):
        return _whole_number(system.info(path, **_limit(system, timeout)).get("size"))


def version(url: str, timeout: float) -> str | None:
    """A text that changes with the file; None: there is none. Raises PlaceError."""
    with _file_system(url, timeout) as (system, path):
        return _version(system.info(path, **_limit(system, timeout)))


def versions(url: str, timeout: float) -> dict[str, str | None]:
    """The paths below a folder of all files in it and in its folders, with their versions. Raises PlaceError."""
    with _file_system(url, timeout) as (system, path):
        root = path.rstrip("/")
        infos = system.find(path, detail=True)
        return {_below(file, root): _version(infos[file]) for file in infos if not file.endswith("/")}


def modified(url: str, timeout: float) -> float:
    """When the file was written, in seconds by the server's clock. Raises PlaceError."""
    with _file_system(url, timeout) as (system, path):
        moment: float = system.modified(path).timestamp()
        return moment


def is_folder(url: str, timeout: float) -> bool:
    """Whether the URL names a folder, not a file. Raises PlaceError if there is neither."""
    with _file_system(url, timeout) as (system, path):
        return bool(system.info(path, **_limit(system, timeout))["type"] == "directory")


def files(url: str, timeout: float) -> list[str]:
    """The paths below a folder of all files in it and in its folders. Raises PlaceError."""
    with _file_system(url, timeout) as (system, path):
        root = path.rstrip("/")
        return [_below(file, root) for file in system.find(path) if not file.endswith("/")]


def matches(url: str, timeout: float) -> list[str]:
    """The URLs of the files that a pattern matches, and of those in folders that it matches. Raises PlaceError."""
    with _file_system(url, timeout) as (system, path):
        found: set[str] = set()
        for match, info in system.glob(path, detail=True).items():
            found.update(system.find(match) if info["type"] == "directory" else [match])
        start = f"{scheme_of(url)}://"
        return [start + match.lstrip("/") for match in sorted(found) if not match.endswith("/")]


def put(url: str, source: Path, timeout: float) -> None:
    """Writes a file of this machine's disk; nobody sees a part of it. Raises PlaceError."""
    with _file_system(url, timeout, "written") as (system, path):
        system.put_file(str(source), path)


def write(url: str, content: bytes, timeout: float) -> None:
    """Writes a small file. Raises PlaceError."""
    with _file_system(url, timeout, "written") as (system, path):
        system.pipe_file(path, content)


def create(url: str, content: bytes, timeout: float) -> bool:
    """Writes a small file unless there is one, in one step; whether it did. Raises PlaceError."""
    with _file_system(url, timeout, "written") as (system, path):
        try:
            system.pipe_file(path, content, mode="create")
        except FileExistsError:
            return False
        return True


def remove(url: str, timeout: float) -> None:
    """Removes a file, if it is there. Raises PlaceError."""
    with _file_system(url, timeout, "removed") as (system, path), suppress(FileNotFoundError):
        system.rm_file(path)


def _limit(system: Any, timeout: float, length: int = 0) -> dict[str, float]:
    """The option that ends a request for so many bytes if the server sends a byte now and then.

    Only a file system whose requests are coroutines takes it. A file may be shorter than what was asked for, so that
    the limit does not grow with a length above `_CHUNK`.
    """
    seconds = 3 * timeout + min(length, _CHUNK) / LEAST_RATE
    return {"timeout": seconds} if getattr(system, "async_impl", False) else {}


def _version(info: dict[str, Any]) -> str | None:
    marks = [info.get(name) for name in ("ETag", "etag", "md5Hash", "blob_id", "LastModified", "created")]
    mark = next(filter(None, marks), None)
    if mark is None:
        return None
    text = (
        mark.timestamp() if hasattr(mark, "timestamp") else mark
    )  # listings have other types than single files
    return f"{text} {info.get('size')}"


def _below(file: str, root: str) -> str:
    return file.removeprefix(root).removeprefix("/")


@contextmanager
def _file_system(url: str, timeout: float, doing: str = "read") -> Iterator[tuple[Any, str]]:
    """The file system of a URL, and the URL's path in it.

    Args:
        doing: what is done with the file, for the message.

    Raises:
        PlaceError, MissingPackageError
    """
    scheme = scheme_of(url) or ""
    try:
        system = _made(scheme, timeout)
        yield system, system._strip_protocol(url)
    except (PlaceError, MissingPackageError):
        raise
    except Exception as error:  # each package has exceptions of its own
        raise _problem(error, scheme, timeout, doing) from error


def _made(scheme: str, timeout: float) -> Any:
    kind = SCHEMES[scheme]
    if kind.module is not None:
        require(kind.module, kind.extra)
    fsspec: Any = require("fsspec", kind.extra or "s3")
    options = _OPTIONS.get(scheme, lambda _: {})(timeout)
    # What the user configured comes first. No other way would be asked for files that others change.
    system = fsspec.filesystem(
        scheme, **{"use_listings_cache": False, **options, **fsspec.config.conf.get(scheme, {})}
    )
    if scheme == "s3":
        system.retries = 1  # `Place` tries again, whatever the scheme
    return system


#: Scheme -> the options that end a request to a server that says nothing.
_OPTIONS = {
    "s3": lambda timeout: {
        "config_kwargs": {
            "connect_timeout": min(_CONNECT, timeout),
            "read_timeout": timeout,
            "retries": {"total_max_attempts": 1},
        }
    },
    "gs": lambda timeout: {"requests_timeout": timeout},
}


def _whole_number(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _problem(error: Exception, scheme: str, timeout: float, doing: str) -> PlaceError:
    names = {kind.__name__ for one in _causes(error) for kind in type(one).__mro__}
    text = masked(first_line(error))
    if isinstance(error, FileNotFoundError):
        bucket = "bucket does not exist" in text.lower()
        return PlaceError("there is no such bucket" if bucket else _absent(scheme), absent=not bucket)
    if isinstance(error, PermissionError) or text.startswith("Forbidden"):  # gcsfs raises OSError
        return PlaceError(f"access denied ({text}); check the credentials and what they allow")
    if names & {"NoCredentialsError", "DefaultCredentialsError", "PartialCredentialsError"}:
        return PlaceError(_NO_CREDENTIALS)
    if "FSTimeoutError" in names:
        return PlaceError("the server sent its answer too slowly to go on", passing=True)
    if any("Timeout" in name for name in names):
        return PlaceError(f"the server did not answer for {timeout:g} s", passing=True)
    if any("Connect" in name for name in names):
        return PlaceError(f"the server cannot be reached ({text})", passing=True)
    return PlaceError(f"cannot be {doing}: {text}", passing=True)


def _absent(scheme: str) -> str:
    if scheme == "memory":
        return "there is no such file; memory:// files are those of one process, read them with workers=0"
    return "there is no such file or folder"


def _is_beyond_end(error: BaseException) -> bool:
    return any("InvalidRange" in str(one) or "not satisfiable" in str(one) for one in _causes(error))


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    for _ in range(8):
        if seen is None:
            return
        yield seen
        seen = seen.__cause__ or seen.__context__
