"""Damaged inputs of every kind: each must give samples and images, or an `InputError` or `ImageError` of one line.

`python -m tests.helpers.fuzz --seconds 600 --seed 2` goes on for that long; the suite does a few rounds.
"""

from __future__ import annotations

import argparse
import io
import random
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cfcam_gpu.dataset.sources.find import find_samples
from cfcam_gpu.dataset.sources.huggingface import _opened
from cfcam_gpu.dataset.sources.open_image import open_image
from cfcam_gpu.errors import ImageError, InputError
from cfcam_gpu.images.decode import load_image_bytes
from cfcam_gpu.images.masks import read_mask
from tests.helpers.zoo import ZOO

#: Most pixels of a damaged image, so that none takes long.
_MAX_PIXELS = 1_000_000

#: What a damaged byte becomes: mostly values at the edge of a number's range.
_EDGES = (0, 1, 127, 128, 254, 255)


def damaged(content: bytes, generator: random.Random) -> bytes:
    """Content with a few bytes changed, or bytes moved, doubled or cut off."""
    result = bytearray(content)
    for _ in range(generator.choice((1, 1, 2, 4, 16))):
        place = generator.randrange(min(len(result), generator.choice((400, 1 << 30))))
        result[place] = generator.choice((*_EDGES, generator.randrange(256)))
    if generator.random() < 0.2:
        del result[generator.randrange(1, len(result) + 1) :]
    if generator.random() < 0.1:
        start = generator.randrange(len(result))
        result[start:start] = result[start : start + generator.randrange(1, 64)]
    return bytes(result) or b"\0"


def images(folder: Path, generator: random.Random) -> Iterator[str]:
    """Tries a damaged file of the zoo as an image and as a mask. Yields faults."""
    cases = [case for make in ZOO.values() for case in make()]
    while True:
        case = generator.choice(cases)
        content = damaged(case.content, generator)
        fault = _only(ImageError, partial(load_image_bytes, content, "", _MAX_PIXELS, case.value_range))
        (folder / "mask").write_bytes(content)
        fault = fault or _only(ImageError, lambda: read_mask(folder / "mask", (3, 2)))
        yield f"{case.name}: {fault}" if fault else ""


def sources(folder: Path, generator: random.Random) -> Iterator[str]:
    """Tries a damaged shard, manifest, list or data set. Yields faults."""
    makers = {"s.tar": _shard, "m.csv": _csv, "m.jsonl": _json_lines, "m.txt": _list, "m.parquet": _manifest,
              "h.parquet": _hub, "data.arrow": _arrow}  # fmt: skip
    whole = {name: make() for name, make in makers.items()}
    (folder / "a.png").write_bytes(next(ZOO["plain"]()).content)
    while True:
        name = generator.choice(list(whole))
        path = folder / name
        path.write_bytes(damaged(whole[name], generator))
        _opened.cache_clear()
        if name == "data.arrow":
            (folder / "state.json").write_text('{"_data_files": [{"filename": "data.arrow"}]}')
            (folder / "dataset_info.json").write_text('{"features": {"image": {"_type": "Image"}}}')
            path = folder
        fault = _only(InputError, partial(_open_all, path))
        (folder / "state.json").unlink(missing_ok=True)
        (folder / "dataset_info.json").unlink(missing_ok=True)
        yield f"{name}: {fault}" if fault else ""


def _open_all(path: Path) -> None:
    samples = find_samples([str(path)])
    for sample in samples:
        for text in (sample.sample_id, sample.uri, sample.name, sample.label or "", sample.target or ""):
            text.encode()
        fault = _only(ImageError, partial(open_image, sample.uri, _MAX_PIXELS))
        if fault:
            raise AssertionError(fault)


def _only(allowed: type[Exception], work: Callable[[], object]) -> str | None:
    """What is wrong with how `work` ends; None: nothing."""
    try:
        work()
    except allowed as error:
        text = str(error)
        plain = text.strip() and text.isprintable() and len(text) < 2000
        return None if plain else f"a message of {len(text)} characters: {text[:200]!r}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def _shard() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for case, key in zip(ZOO["plain"](), range(4), strict=False):
            for name, content in ((f"{key}.png", case.content), (f"{key}.json", b'{"label": [1, 2.0]}')):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def _csv() -> bytes:
    return 'sep=;\r\npath;label;target;box\r\na.png;"x; y";1.0;0,0,1,1\r\nsub\\b.png;ü;;\r\n'.encode()


def _json_lines() -> bytes:
    return b'{"path": "a.png", "label": ["x", 1.0], "target": 3}\n{"path": "b.png"}\n'


def _list() -> bytes:
    return "a.png 3\nsub/ü b.jpg\n".encode()


def _images() -> pa.Array:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cases = [case for case, _ in zip(ZOO["plain"](), range(6), strict=False)]
    return pa.array([{"bytes": case.content, "path": f"{i}.png"} for i, case in enumerate(cases)], kind)


def _table(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=2)
    return buffer.getvalue()


def _manifest() -> bytes:
    return _table(
        pa.table({"path": ["a.png", "b.png", "c.png"], "label": [1.0, None, 2.0], "mask": ["a", None, ""]})
    )


def _hub() -> bytes:
    return _table(pa.table({"image": _images(), "label": [[0], [1, 2], [], [3], [4], [5]]}))


def _arrow() -> bytes:
    buffer, table = io.BytesIO(), pa.table({"image": _images(), "label": list(range(6))})
    with pa.ipc.new_stream(buffer, table.schema) as out:
        out.write_table(table, max_chunksize=2)
    return buffer.getvalue()


def faults(kind: Callable[[Path, random.Random], Iterator[str]], seed: int, rounds: int) -> list[str]:
    """The faults that so many rounds find."""
    with tempfile.TemporaryDirectory() as folder:
        tries = kind(Path(folder), random.Random(seed))
        return [fault for fault, _ in zip(tries, range(rounds), strict=False) if fault]


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    end, seed, rounds = time.monotonic() + options.seconds, options.seed, 0
    found: list[str] = []
    while time.monotonic() < end:
        for kind in (images, sources):
            found += [f"{kind.__name__}, seed {seed}: {fault}" for fault in faults(kind, seed, 500)]
            rounds += 500
        seed += 1_000_003
    print(*dict.fromkeys(found), f"{rounds:,} damaged inputs, {len(found)} faults", sep="\n")
    raise SystemExit(bool(found))


if __name__ == "__main__":
    _main()
