"""Servers of this process for tests of URLs: an S3 (moto's), and a web server with its faults."""

from __future__ import annotations

import base64
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from unittest import mock

BUCKET = "photos"


class LocalS3:
    """An S3 with the bucket `BUCKET`. Child processes reach it too, since the environment names it."""

    def __init__(self) -> None:
        import boto3

        self.port = 0
        self.start()
        self.client = boto3.client(
            "s3", endpoint_url=self.endpoint, aws_access_key_id="test", aws_secret_access_key="test",
            region_name="us-east-1",
        )  # fmt: skip
        self.client.create_bucket(Bucket=BUCKET)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Starts the server, also again after `stop`: with its objects, which are in this process."""
        from moto.server import ThreadedMotoServer

        self.server = ThreadedMotoServer(ip_address="127.0.0.1", port=self.port, verbose=False)
        self.server.start()
        self.port = self.server.get_host_and_port()[1]

    def stop(self) -> None:
        self.server.stop()

    def put(self, key: str, content: bytes) -> str:
        """Stores an object; its URL."""
        self.client.put_object(Bucket=BUCKET, Key=key, Body=content)
        return f"s3://{BUCKET}/{key}"

    def objects(self, folder: str) -> dict[str, bytes]:
        """The objects below a folder, by the rest of their keys, but not those of locks."""
        listed = self.client.list_objects_v2(Bucket=BUCKET, Prefix=f"{folder}/").get("Contents", [])
        keys = [one["Key"] for one in listed if "/.cfcam/" not in one["Key"]]
        return {
            key.removeprefix(f"{folder}/"): self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
            for key in keys
        }


@contextmanager
def local_s3() -> Iterator[LocalS3]:
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()  # it has the address of an earlier server
    s3 = LocalS3()
    variables = {
        "AWS_ENDPOINT_URL": s3.endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    try:
        with mock.patch.dict(os.environ, variables):
            yield s3
    finally:
        s3.stop()


class WebServer(ThreadingHTTPServer):
    """Serves `files`, path -> bytes, in ranges as well.

    Attributes:
        requests: (path with its query, headers) of every request.
        statuses: path -> statuses to answer with, the first one first; afterwards the file.
        passwords: path -> "user:password" that it wants.
        drop: bytes that it sends at once of the files "/drips" and "/drips-chunks", and of the head of "/drips-head".
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.statuses: dict[str, list[int]] = {}
        self.passwords: dict[str, str] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.has_ranges = True
        self.drop = 1
        self.ending = threading.Event()

    def url(self, path: str, user: str = "") -> str:
        return f"http://{user}127.0.0.1:{self.server_address[1]}{path}"


#: Path -> what a server sends of its answer before it begins to drip.
DRIPPING = {
    "/drips": b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n",
    "/drips-chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;",
    "/drips-head": b"HTTP/1.1 200 OK\r\nX-Long: ",
    "/drips-status": b"HTTP/1.1 200 ",
}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WebServer

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.requests.append((self.path, dict(self.headers)))
        if path == "/hangs":
            self.server.ending.wait(60)
            return
        if path in DRIPPING:
            return self._drip(DRIPPING[path])
        if path == "/moved":
            return self._answer(302, b"", Location=f"/{self.path.partition('?')[2]}")
        wanted = self.server.passwords.get(path)
        if (
            wanted
            and self.headers.get("Authorization") != f"Basic {base64.b64encode(wanted.encode()).decode()}"
        ):
            return self._answer(401, b"")
        if self.server.statuses.get(path):
            return self._answer(self.server.statuses[path].pop(0), b"")
        if path not in self.server.files:
            return self._answer(404, b"")
        return self._send(self.server.files[path])

    def _drip(self, start: bytes) -> None:
        """Sends a byte now and then, so that no single one is long in coming."""
        with suppress(OSError):  # the client went away
            self.wfile.write(start)
            self._send_drops()

    def _send_drops(self) -> None:
        while not self.server.ending.wait(0.05):
            self.wfile.write(b"x" * self.server.drop)

    def _send(self, content: bytes) -> None:
        range_of = self.headers.get("Range")
        if range_of is None or not self.server.has_ranges:
            return self._answer(200, content, ETag='"1"')
        first, last = range_of.removeprefix("bytes=").split("-")
        return self._answer(206, content[int(first) : int(last) + 1])

    def _answer(self, status: int, content: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_arguments: object) -> None:
        """Says nothing."""


@contextmanager
def web_server() -> Iterator[WebServer]:
    server = WebServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.ending.set()
        server.shutdown()
        server.server_close()
        thread.join()
