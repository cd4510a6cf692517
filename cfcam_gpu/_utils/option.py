"""Fields of dataclasses that are also options of the command line.

A field says so in its metadata, so that its name, type, default and help text stand in one place:

    batch_size: int = field(default=16, metadata=option("Images per forward pass.", RUN, "N"))

`cfcam_gpu.cli.options` makes a command's options from such fields. Other fields have no option.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

#: The panels of a command's help.
MODEL, METHOD, RUN, OUTPUT = "Model", "Method", "Run", "Output"

#: Key of the metadata.
KEY = "option"


@dataclass(frozen=True)
class Option:
    """How a field appears on the command line.

    Attributes:
        help: what it does, in a line.
        panel: the panel of the help that it stands in.
        metavar: what stands for its value in the help; None: the name of its type.
        name: the option's name where it is not the field's.
        text: the default as one would write it; None: the field's own default.
        parse: makes the field's value from the option's text, raises ValueError with what was expected;
            None: the field's type is one that the command line knows.
        bare: the text that the option means where no number follows it; None: it needs a value.
        unset: the field's default is not the option's: whoever leaves the option out means "decide for me".
    """

    help: str
    panel: str
    metavar: str | None = None
    name: str | None = None
    text: str | None = None
    parse: Callable[[str], Any] | None = None
    bare: str | None = None
    unset: bool = False


def option(help: str, panel: str, metavar: str | None = None, **more: Any) -> Mapping[str, Option]:
    """The metadata of a field that is an option; the arguments are the attributes of `Option`.

    Example:
        >>> from dataclasses import dataclass, field, fields
        >>> @dataclass
        ... class Options:
        ...     steps: int = field(default=101, metadata=option("Points of a curve.", METHOD, "N"))
        >>> fields(Options)[0].metadata["option"].panel
        'Method'
    """
    return {KEY: Option(help, panel, metavar, **more)}


def comma_separated(text: str) -> list[str]:
    """The names in a text.

    Raises:
        ValueError: one of them is empty.

    Example:
        >>> comma_separated("cfcam, gradcam")
        ['cfcam', 'gradcam']
    """
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise ValueError(f"takes names separated by commas, got {text!r}")
    return names


def number(text: str) -> float:
    """The number in a text.

    Raises:
        ValueError: it is none.

    Example:
        >>> number("0.5")
        0.5
    """
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"takes numbers, got {text!r}") from error


def number_or_none(text: str) -> float | None:
    """The number in a text; None for the word none.

    Raises:
        ValueError: it is neither.

    Example:
        >>> number_or_none("75"), number_or_none("none")
        (75.0, None)
    """
    return None if text == "none" else number(text)


def numbers(text: str) -> tuple[float, ...]:
    """The numbers in a text, separated by commas.

    Raises:
        ValueError: something else stands in it.

    Example:
        >>> numbers("0.5,0.5,0.25"), numbers("0.5")
        ((0.5, 0.5, 0.25), (0.5,))
    """
    try:
        return tuple(map(float, text.split(",")))
    except ValueError as error:
        raise ValueError(f"must be numbers separated by commas, like 0.5,0.5,0.5, got {text!r}") from error


def image_size(text: str) -> tuple[int, int]:
    """(height, width) in a text.

    Raises:
        ValueError: it is no size.

    Example:
        >>> image_size("224"), image_size("224x320")
        ((224, 224), (224, 320))
    """
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ValueError(f"must be like 224 or 224x320 (height x width), got {text!r}")
    return int(parts[0]), int(parts[-1])
