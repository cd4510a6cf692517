"""The wording that messages of the whole package share."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


def first_line(error: BaseException) -> str:
    """The first line of an exception's text; its class's name where it has no text.

    Example:
        >>> first_line(ValueError("bad value\\nmore about it"))
        'bad value'
        >>> first_line(KeyboardInterrupt())
        'KeyboardInterrupt'
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0].strip()


def one_line(error: BaseException) -> str:
    """The exception's class and the first line of its text.

    Example:
        >>> one_line(ValueError("bad value\\nmore about it"))
        'ValueError: bad value'
    """
    name = type(error).__name__
    return f"{name}: {first_line(error)}" if str(error).strip() else name


def unknown(kind: str, name: object, choices: Iterable[str]) -> str:
    """The message for a name that is none of the choices; a close one is suggested.

    Example:
        >>> unknown("method", "gradcm", ["cfcam", "gradcam"])
        "unknown method 'gradcm' (did you mean gradcam?); choose one of: cfcam, gradcam"
        >>> unknown("filter", 3, ["none"])
        'unknown filter 3; choose one of: none'
    """
    listed_choices = list(choices)
    close = difflib.get_close_matches(str(name).lower(), listed_choices, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return f"unknown {kind} {name!r}{hint}; choose one of: {', '.join(listed_choices)}"


def did_you_mean(close: Sequence[str]) -> str:
    """The end of a message that suggests names; empty where there are none.

    Example:
        >>> did_you_mean(["resnet50", "resnet34"])
        '; did you mean resnet50 or resnet34?'
        >>> did_you_mean([])
        ''
    """
    return f"; did you mean {either(close)}?" if close else ""


def either(items: Sequence[str]) -> str:
    """`a, b or c`.

    Example:
        >>> either(["a", "b", "c"])
        'a, b or c'
    """
    return " or ".join(filter(None, (", ".join(items[:-1]), *items[-1:])))


def listed(items: Sequence[object], most: int = 5) -> str:
    """The first items, separated by commas; an ellipsis stands for the rest.

    Example:
        >>> listed(range(7))
        '0, 1, 2, 3, 4, …'
    """
    return ", ".join(map(str, items[:most])) + (", …" if len(items) > most else "")


def printable(text: object) -> str:
    r"""A text from outside, such as a file name, that a terminal and a log show as one line of plain characters.

    Control characters, line ends, marks of the writing direction, other invisible characters and lone surrogates
    are written as escapes.

    Example:
        >>> printable("cat\x1b[2J\n.png"), printable("\u202egnp.exe"), printable("Ünïcode 文.png")
        ('cat\\x1b[2J\\n.png', '\\u202egnp.exe', 'Ünïcode 文.png')
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text))


def plural(count: int, noun: str) -> str:
    """A count with its noun.

    Example:
        >>> plural(1, "cluster"), plural(2, "cluster")
        ('1 cluster', '2 clusters')
    """
    return f"{count} {noun}{'' if count == 1 else 's'}"
