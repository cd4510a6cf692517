"""A list in a JSON file, written entry by entry: it is never in memory as a whole."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO


def write_entries(file: BinaryIO, entries: Iterable[Mapping[str, Any]]) -> int:
    """Writes a list, an entry a line, without the line end behind the last; the number of entries.

    Example:
        >>> import io
        >>> file = io.BytesIO()
        >>> write_entries(file, [{"a": 1}, {"a": 2}])
        2
        >>> file.getvalue()
        b'[\\n{"a": 1},\\n{"a": 2}'
    """
    file.write(b"[")
    count = 0
    for entry in entries:
        file.write((",\n" if count else "\n").encode() + json.dumps(entry, allow_nan=False).encode())
        count += 1
    return count
