"""URLs: what is read through them, what is said when that fails, and that credentials in them are not shown."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfcam_gpu._utils.places import place as places
from cfcam_gpu._utils.places.masking import hidden, masked, revealed
from cfcam_gpu._utils.places.place import Place
from cfcam_gpu._utils.places.schemes import SCHEMES
from cfcam_gpu.errors import MissingPackageError, PlaceError
from tests.helpers.places import BUCKET, DRIPPING, LocalS3, WebServer, web_server

CONTENT = bytes(range(256)) * 40


@pytest.fixture(params=["s3", "memory", "http"])
def stored(request: pytest.FixtureRequest) -> Place:
    """A file with `CONTENT`, in each kind of place."""
    if request.param == "s3":
        return Place(request.getfixturevalue("s3").put("a/file.bin", CONTENT))
    if request.param == "http":
        server: WebServer = request.getfixturevalue("web")
        server.files["/a/file.bin"] = CONTENT
        return Place(server.url("/a/file.bin"))
    import fsspec

    fsspec.filesystem("memory").pipe_file("/a/file.bin", CONTENT)
    return Place("memory://a/file.bin")


def test_a_file_is_read_as_a_whole_in_ranges_and_through_a_copy(stored: Place) -> None:
    assert stored.read(0, 1 << 20) == CONTENT
    assert stored.read(0, 10) == CONTENT[:10]
    assert stored.read(300, 20) == CONTENT[300:320]
    assert stored.read(len(CONTENT) - 5, 100) == CONTENT[-5:]
    assert (stored.size(), stored.is_folder()) == (len(CONTENT), False)
    with stored.open() as copy:
        assert copy.read() == CONTENT
    with stored.open_random() as file:
        file.seek(-7, 2)
        assert file.read() == CONTENT[-7:]
        file.seek(1000)
        assert file.read(24) == CONTENT[1000:1024]


def test_a_long_file_is_copied_in_pieces(s3: LocalS3, monkeypatch: pytest.MonkeyPatch) -> None:
    from cfcam_gpu._utils.places import filesystem

    monkeypatch.setattr(filesystem, "_CHUNK", 1000)
    with Place(s3.put("long.bin", CONTENT)).open() as copy:
        assert copy.read() == CONTENT


def test_a_copy_is_bounded(stored: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "MOST_BYTES", 1000)
    with pytest.raises(PlaceError, match="more than 1,000 bytes"):
        stored.open()


def test_an_empty_object_is_an_empty_file(s3: LocalS3) -> None:
    assert Place(s3.put("empty", b"")).read(0, 100) == b""


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        (f"s3://{BUCKET}/none.png", "there is no such file or folder"),
        ("s3://no-such-bucket-here/none.png", "there is no such bucket"),
        ("memory://none.png", "there is no such file; memory:// files are those of one process"),
    ],
)
@pytest.mark.usefixtures("s3")
def test_what_does_not_exist_is_told(url: str, reason: str) -> None:
    with pytest.raises(PlaceError, match=reason):
        Place(url).read(0, 10)


@pytest.mark.usefixtures("s3")
def test_an_s3_that_denies_access_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    async def denied(*_arguments: object, **_options: object) -> None:
        from botocore.exceptions import ClientError

        error = ClientError({"Error": {"Code": "AccessDenied", "Message": "Access Denied"}}, "GetObject")
        raise s3fs.errors.translate_boto_error(error)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", denied)
    with pytest.raises(PlaceError, match=r"access denied \(Access Denied\); check the credentials"):
        Place(f"s3://{BUCKET}/a.png").read(0, 10)


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (403, r"access denied \(HTTP 403\)"),
        (404, r"there is no such file \(HTTP 404\)"),
        (500, "the server answered HTTP 500"),
    ],
)
def test_a_web_server_that_refuses_is_told(web: WebServer, status: int, reason: str) -> None:
    web.files["/a.png"] = CONTENT
    web.statuses["/a.png"] = [status] * 2
    with pytest.raises(PlaceError, match=reason):
        Place(web.url("/a.png")).read(0, 10)
    assert len(web.requests) == (2 if status == 500 else 1)


def test_a_failure_that_passes_costs_nothing(web: WebServer) -> None:
    web.files["/a.png"] = CONTENT
    web.statuses["/a.png"] = [503]
    assert Place(web.url("/a.png")).read(0, 10) == CONTENT[:10]


@pytest.mark.parametrize("scheme", ["http", "s3"])
def test_a_server_that_hangs_is_given_up_after_two_tries(
    web: WebServer, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    monkeypatch.setattr(places, "SILENCE", 0.3)
    url = web.url("/hangs")
    if scheme == "s3":
        _take_for_s3(web, monkeypatch)
        url = "s3://hangs/a.png"
        monkeypatch.setattr(web.RequestHandlerClass, "do_GET", lambda handler: handler.server.ending.wait(60))
    start = time.monotonic()
    with pytest.raises(PlaceError, match=r"the server did not answer for 0\.3 s"):
        Place(url).read(0, 10)
    assert time.monotonic() - start < 20


@pytest.mark.parametrize("path", ["/drips", "/drips-chunks", "/drips-head", "/drips-status"])
@pytest.mark.parametrize("read", [lambda place: place.read(0, 90_000), lambda place: place.open().read()])
def test_a_server_that_drips_is_given_up_after_two_tries(
    web: WebServer, monkeypatch: pytest.MonkeyPatch, read: Callable[[Place], bytes], path: str
) -> None:
    """A byte now and then is never silence; so would an image take days."""
    monkeypatch.setattr(places, "SILENCE", 0.5)
    start = time.monotonic()
    with pytest.raises(PlaceError, match=r"the server sent \d+ bytes in \d s, too few to go on"):
        read(Place(web.url(path)))
    assert time.monotonic() - start < 20
    assert len(web.requests) == 2


@pytest.mark.parametrize("question", [lambda place: place.size(), lambda place: place.version()])
def test_a_head_that_drips_is_given_up_whatever_was_asked(
    web: WebServer, monkeypatch: pytest.MonkeyPatch, question: Callable[[Place], object]
) -> None:
    monkeypatch.setattr(places, "SILENCE", 0.5)
    with pytest.raises(PlaceError, match="too few to go on"):
        question(Place(web.url("/drips-head")))


@pytest.mark.parametrize("path", ["/drips", "/drips-chunks", "/drips-head"])
@pytest.mark.parametrize("question", [lambda place: place.read(0, 500), lambda place: place.is_folder()])
def test_an_object_store_that_drips_is_given_up_after_two_tries(
    web: WebServer, monkeypatch: pytest.MonkeyPatch, question: Callable[[Place], object], path: str
) -> None:
    monkeypatch.setattr(places, "SILENCE", 0.5)
    _take_for_s3(web, monkeypatch)
    monkeypatch.setattr(web.RequestHandlerClass, "do_GET", lambda handler: handler._drip(DRIPPING[path]))
    head = DRIPPING["/drips-head"]  # an answer to HEAD has no content
    monkeypatch.setattr(
        web.RequestHandlerClass, "do_HEAD", lambda handler: handler._drip(head), raising=False
    )
    start = time.monotonic()
    with pytest.raises(PlaceError, match="the server sent its answer too slowly to go on"):
        question(Place("s3://drips/a.png"))
    assert time.monotonic() - start < 20


def _take_for_s3(web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()  # it has the address of an earlier server
    monkeypatch.setenv("AWS_ENDPOINT_URL", web.url("/"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


def test_a_server_that_is_slow_is_waited_for(web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "SILENCE", 0.5)
    web.drop = 2_000
    assert Place(web.url("/drips")).read(0, 50_000) == b"x" * 50_000


def test_a_server_that_does_not_run_is_told() -> None:
    with web_server() as server:
        url = server.url("/a.png")
    with pytest.raises(PlaceError, match=r"the server cannot be reached \(Connection refused\)"):
        Place(url).read(0, 10)


def test_a_connection_that_ends_early_is_no_short_file(
    web: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lie(handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "100")
        handler.end_headers()
        handler.wfile.write(b"only this")
        handler.close_connection = True

    monkeypatch.setattr(web.RequestHandlerClass, "do_GET", lie)
    with pytest.raises(PlaceError, match="the server sent 9 of 100 bytes"):
        Place(web.url("/a.png")).read(0, 1000)


def test_a_server_without_ranges_is_told(web: WebServer) -> None:
    web.files["/a.tar"], web.has_ranges = CONTENT, False
    with pytest.raises(PlaceError, match="no parts of files"):
        Place(web.url("/a.tar")).read(5, 10)


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x"])
def test_a_redirect_leads_to_no_file_of_this_machine(
    web: WebServer, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    def redirect(handler) -> None:
        handler._answer(302, b"", Location=target)

    monkeypatch.setattr(web.RequestHandlerClass, "do_GET", redirect)
    with pytest.raises(PlaceError):
        Place(web.url("/a.png")).read(0, 1000)


def test_a_password_is_sent_to_its_server_alone(web: WebServer) -> None:
    web.files["/a.png"], web.passwords["/a.png"] = CONTENT, "me:word"
    assert Place(web.url("/a.png", user="me:word@")).read(0, 10) == CONTENT[:10]
    web.files["/b.png"] = CONTENT
    Place(web.url("/moved?b.png", user="me:word@")).read(0, 10)
    assert "Authorization" in web.requests[-2][1]
    assert "Authorization" not in web.requests[-1][1]


def test_spaces_and_letters_of_any_language_are_encoded(web: WebServer) -> None:
    web.files["/my%20c%C3%A4t.png"] = CONTENT
    assert Place(web.url("/my cät.png")).read(0, 10) == CONTENT[:10]
    assert Place(web.url("/list.csv?sig=1")).beside("my cät.png").read(0, 10) == CONTENT[:10]


@pytest.mark.parametrize(
    ("scheme", "command"), [(name, kind.extra) for name, kind in SCHEMES.items() if kind.module]
)
def test_a_missing_package_is_named_with_its_extra(scheme: str, command: str) -> None:
    code = f"""
import sys
sys.modules[{SCHEMES[scheme].module!r}] = None
from cfcam_gpu._utils.places.place import Place
try:
    Place("{scheme}://bucket/a.png").read(0, 10)
except ImportError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip().endswith(f"run: pip install 'cfcam-gpu[{command}]'")
    assert str(SCHEMES[scheme].module) in run.stdout


def test_a_missing_package_is_an_error_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(MissingPackageError, match="s3fs"):
        Place("s3://bucket/a.png").check_package()


def test_web_servers_need_no_package() -> None:
    code = """
import sys
from cfcam_gpu._utils.places.place import Place
before = set(sys.modules)
try:
    Place("http://127.0.0.1:9/a.png").read(0, 10)
except OSError:
    pass
assert not {"fsspec", "aiohttp", "torch"} & set(sys.modules), sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


SECRETS = [
    "https://me:sesame@host/a.png",
    "https://host/a.png?X-Amz-Credential=AK%2F1&X-Amz-Signature=sesame&size=5",
    "https://host/a.png?sv=2024&sig=sesame%3D",
    "https://host/a.png?size=5&access_token=sesame",
    "https://host/my photo.png?Expires=1&Signature=sesame~&Key-Pair-Id=K",
    "s3://key:sesame@bucket/a.png",
]


@pytest.mark.parametrize("url", SECRETS)
def test_credentials_are_masked_and_kept_in_memory(url: str) -> None:
    for text in (masked(url), hidden(url), str(Place(url)), masked(f"input '{url}' cannot be read: why")):
        assert "sesame" not in text
    assert masked(f"{url} cannot be read").endswith(" cannot be read")
    assert revealed(hidden(url)) == url
    assert hidden(url) == hidden(url)


@pytest.mark.parametrize(
    "url", ["https://host/a.png?id=5&name=cat", "s3://bucket/a@b?c=d.png", "hf://datasets/a/b@main/c.png"]
)
def test_what_is_no_credential_stays(url: str) -> None:
    assert hidden(url) == masked(url) == url


@given(st.lists(st.text("abc=&", max_size=6), min_size=2, max_size=5, unique=True))
def test_urls_that_differ_stay_different_when_they_are_masked(values: list[str]) -> None:
    urls = [f"https://host/a.png?key={value}" for value in values]
    texts = [hidden(url) for url in urls]
    assert [revealed(text) for text in texts] == urls
    assert len(set(texts)) == len(set(urls))
