"""A JSON object a line on stderr, whoever writes there: this package, libraries, warnings, other processes.

Run as a program, this file turns the lines of its standard input into events. It is a process of its own, so that a
crash and text from compiled code come through, and imports nothing of the package, so that it starts at once.
"""

from __future__ import annotations

import codecs
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any

#: Characters after which a line without an end becomes an event.
_LONGEST = 1 << 16

#: Seconds that `finish` waits for the last events, which processes that go on may hold back.
_PATIENCE = 2.0

#: How a line of the command begins -> the event that it becomes. Any other line is a note.
_EVENTS = {"error: ": "error", "interrupted": "interrupted"}

#: The process that makes the events, and stderr as it was.
_begun: list[tuple[subprocess.Popen[bytes], int]] = []


def event_line(name: str, **content: Any) -> str:
    """An event with its time in UTC as a line of JSON, without the line's end.

    Example:
        >>> event_line("note", message="hello")  # doctest: +ELLIPSIS
        '{"event": "note", "time": "...", "message": "hello"}'
    """
    now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    return json.dumps({"event": name, "time": now, **content}, allow_nan=False)


def as_event(line: str) -> str:
    """The event of a line, which may be one already.

    Example:
        >>> as_event('{"event": "end", "time": "..."}')
        '{"event": "end", "time": "..."}'
        >>> as_event("error: no such folder")  # doctest: +ELLIPSIS
        '{"event": "error", "time": "...", "message": "no such folder"}'
    """
    with suppress(ValueError, RecursionError):  # the latter: brackets nested too deep
        content = json.loads(line)
        if isinstance(content, dict) and all(isinstance(content.get(key), str) for key in ("event", "time")):
            return json.dumps(content, allow_nan=False)
    for start, name in _EVENTS.items():
        if line.startswith(start):
            return event_line(name, message=line.removeprefix(start) if start.endswith(" ") else line)
    return event_line("note", message=line)


def asked(arguments: Sequence[str]) -> bool:
    """Whether a command's arguments have `--log-format json`; of a repeated option the last one counts.

    Example:
        >>> asked(["explain", "a", "--log-format=json"]), asked(["explain", "a"])
        (True, False)
    """
    return re.findall(r"(?<!\S)--log-format[= ](\S*)", " ".join(arguments))[-1:] == ["json"]


def begin() -> None:
    """From now on every line that this process and those it starts write to stderr becomes an event."""
    try:
        before = os.dup(2)
    except OSError:  # it is closed
        return
    sys.stderr.flush()
    command = [sys.executable, "-I", "-S", __file__]
    # In a session of its own, Ctrl-C does not reach it.
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=before, start_new_session=True)
    assert process.stdin is not None
    os.dup2(process.stdin.fileno(), 2)
    process.stdin.close()
    _begun.append((process, before))


def finish() -> None:
    """Ends what `begin` began, when the events of all that was written are written."""
    while _begun:
        process, before = _begun.pop()
        with suppress(OSError, ValueError, RuntimeError):  # the latter: the signal came during a flush
            sys.stderr.flush()
        os.dup2(before, 2)
        os.close(before)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE)


def _filter_lines() -> None:
    """Copies standard input to standard output, each line as an event, until nobody can write to it any more."""
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the command, whose last words still come
        signal.signal(number, signal.SIG_IGN)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    rest = ""
    while chunk := os.read(0, _LONGEST):
        *lines, rest = re.split(r"[\r\n]+", rest + decoder.decode(chunk))
        if len(rest) >= _LONGEST:
            lines, rest = [*lines, rest], ""
        _write_events(lines)
    _write_events([rest + decoder.decode(b"", final=True)])


def _write_events(lines: Sequence[str]) -> None:
    """Writes each event by itself, so that those of several commands that share a log stay whole."""
    for line in lines:
        if line.strip():
            unwritten = f"{as_event(line)}\n".encode()
            while unwritten:
                unwritten = unwritten[os.write(1, unwritten) :]


if __name__ == "__main__":
    with suppress(OSError):  # nobody reads any more: the command is told when it writes the next time
        _filter_lines()
