"""Downloads that fail: what to do is said, and no code in a file runs."""

from __future__ import annotations

import hashlib
from http.client import IncompleteRead
from pathlib import Path
from socket import gaierror
from urllib.error import HTTPError, URLError

import pytest
import torch

from tests.helpers.load_models import OTHERS, RESNET, Trap, cache_download, problem


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            URLError(gaierror(-3, "Temporary failure in name resolution")),
            "URLError: <urlopen error [Errno -3] Temporary failure in name resolution>",
        ),
        (HTTPError("http://x", 403, "Forbidden", None, None), "HTTPError: HTTP Error 403: Forbidden"),  # type: ignore[arg-type]
        (TimeoutError("timed out"), "TimeoutError: timed out"),
        (ConnectionResetError(104, "Connection reset"), "ConnectionResetError: [Errno 104] Connection reset"),
        (PermissionError(13, "Permission denied"), "PermissionError: [Errno 13] Permission denied"),
        (IncompleteRead(b""), "IncompleteRead: IncompleteRead(0 bytes read)"),
        (
            RuntimeError('invalid hash value (expected "f37072fd", got "0123")\nsecond line'),
            'RuntimeError: invalid hash value (expected "f37072fd", got "0123")',
        ),
    ],
)
def test_failed_download_says_what_to_do(
    hub: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    reason: str,
) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise error

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    assert problem(RESNET) == (
        f"{RESNET}: the weights resnet18-f37072fd.pth could not be downloaded ({reason}); "
        f"put that file into {hub}, or {OTHERS}"
    )
    printed = capsys.readouterr()
    assert printed.out == "", "standard output belongs to the command's own result"
    assert "Downloading" in printed.err


@pytest.mark.usefixtures("hub")
def test_wrong_content_of_a_download_is_noticed_by_its_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy's login page instead of the weights: torch.hub's own check must be switched on."""

    def login_page(_url: str, _file: str, hash_prefix: str | None, **_: object) -> None:
        digest = hashlib.sha256(b"<html>log in</html>").hexdigest()
        if hash_prefix and not digest.startswith(hash_prefix):
            raise RuntimeError(f'invalid hash value (expected "{hash_prefix}", got "{digest}")')

    monkeypatch.setattr(torch.hub, "download_url_to_file", login_page)
    assert 'invalid hash value (expected "f37072fd"' in problem(RESNET)


def test_damaged_file_in_the_download_folder_is_named(hub: Path) -> None:
    hub.mkdir()
    (hub / "resnet18-f37072fd.pth").write_bytes(b"half a file")
    message = problem(RESNET)
    assert message.startswith(f"{RESNET}: {hub / 'resnet18-f37072fd.pth'} cannot be loaded (")
    assert message.endswith(f"); delete it and try again, or {OTHERS}")


def test_code_in_a_downloaded_file_does_not_run(hub: Path, tmp_path: Path) -> None:
    cache_download(hub, "resnet18-f37072fd.pth", {"fc.weight": Trap(tmp_path / "sprung")})
    assert "cannot be loaded" in problem(RESNET)
    assert not (tmp_path / "sprung").exists()
