"""Where the data and pictures of the samples go: into the page, or into a folder beside it."""

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
    """Takes the samples block by block, in order.

    Attributes:
        inline: the blocks inside the page, as JSON.
        sources: addresses of the blocks beside the page.
        folder: the folder with what lies beside the page; None: all is inside.
    """

    inline: list[str]
    sources: list[str]
    folder: Path | None

    def add(self, rows: Sequence[Row], pictures: Sequence[Picture]) -> None: ...


class Inline:
    """Keeps all data and pictures inside the page.

    Example:
        >>> files = Inline()
        >>> files.add([{"grid": None}], [Picture(None, "it could not be decoded")])
        >>> files.inline
        ['{"grids":[null],"pictures":[null],"notes":["it could not be decoded"]}']
    """

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
    """Writes pictures and data files into `NAME_files/r-VERSION` beside the page NAME.html.

    The files of an older page stay until the new page is written, so that the page can be opened at any time.
    Only folders with such names are ever removed.

    Args:
        page: path of the page.
        version: distinguishes the contents of two pages.
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
        firsts = [next(k for k, other in enumerate(pictures) if other is picture) for picture in pictures]
        urls = [
            self._picture(f"{number:03}-{i:02}", picture) for i, picture in zip(firsts, pictures, strict=True)
        ]
        data = to_json(make_block(rows, pictures, urls))
        (self.inside / f"data-{number:03}.js").write_text(f"cfcamBlock({number},{data});\n", "utf-8")
        self.sources.append(f"{self.url}/data-{number:03}.js")

    def _picture(self, name: str, picture: Picture) -> str | None:
        if picture.jpeg is None:
            return None
        (self.inside / "pictures" / f"{name}.jpg").write_bytes(picture.jpeg)
        return f"{self.url}/pictures/{name}.jpg"
