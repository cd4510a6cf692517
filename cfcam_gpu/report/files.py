"""Where blocks of data and pictures go: into the page, or into a folder beside it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

from cfcam_gpu.dataset.store.atomic_files import page_folder
from cfcam_gpu.dataset.store.schema import Row
from cfcam_gpu.report.payload import make_block, to_json
from cfcam_gpu.report.pictures import Picture


class Files(Protocol):
    """Takes the blocks in order; `inline` and `sources` then say where the page finds them.

    `folder` holds what lies beside the page; None: nothing does.
    """

    inline: list[str]
    sources: list[str]
    folder: Path | None

    def add(self, rows: Sequence[Row], pictures: Sequence[Picture]) -> None: ...


class Inline:
    """All data inside the page."""

    folder: Path | None = None

    def __init__(self) -> None:
        self.inline: list[str] = []
        self.sources: list[str] = []

    def add(self, rows: Sequence[Row], pictures: Sequence[Picture]) -> None:
        urls = [_data_url(picture.jpeg) for picture in pictures]
        self.inline.append(to_json(make_block(rows, pictures, urls)))


def _data_url(jpeg: bytes | None) -> str | None:
    return None if jpeg is None else f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


class Folder:
    """Pictures and data files in `NAME_files/r-VERSION` beside the page NAME.html.

    A new version lies beside the old one until the page refers to it, so that a page that can be
    opened is always whole. Only folders of that form are ever removed.
    """

    def __init__(self, page: Path, version: str) -> None:
        self.inside = page_folder(page) / f"r-{version}"
        self.folder: Path | None = self.inside
        self.url = f"{quote(self.inside.parent.name)}/{self.inside.name}"
        self.inline: list[str] = []
        self.sources: list[str] = []
        (self.inside / "pictures").mkdir(parents=True, exist_ok=True)

    def add(self, rows: Sequence[Row], pictures: Sequence[Picture]) -> None:
        number = len(self.sources)
        urls = [self._picture(f"{number:03}-{i:02}", picture) for i, picture in enumerate(pictures)]
        data = to_json(make_block(rows, pictures, urls))
        (self.inside / f"data-{number:03}.js").write_text(f"cfcamBlock({number},{data});\n", "utf-8")
        self.sources.append(f"{self.url}/data-{number:03}.js")

    def _picture(self, name: str, picture: Picture) -> str | None:
        if picture.jpeg is None:
            return None
        (self.inside / "pictures" / f"{name}.jpg").write_bytes(picture.jpeg)
        return f"{self.url}/pictures/{name}.jpg"
