"""The text of labels and targets, from the values that JSON, Parquet and spreadsheets hold."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from decimal import Decimal
from itertools import chain
from typing import Any

from cfcam_gpu.dataset.sources.columns import Columns, ColumnSource
from cfcam_gpu.dataset.sources.sample import clean_text

#: Stands between the labels of an image that has several.
SEPARATOR = "|"

_FLOAT_INTEGER = re.compile(r"(\d{1,18})\.0+", re.ASCII)


def parsed_json(text: str) -> Any:
    """The content of a JSON text; where it has a number of more digits than Python reads, its integers are texts.

    Raises:
        ValueError: no valid JSON.

    Example:
        >>> parsed_json('{"label": 3}'), len(parsed_json("9" * 5000))
        ({'label': 3}, 5000)
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except json.JSONDecodeError:
        raise
    except ValueError:
        return json.loads(text, parse_int=str)


def label_text(value: Any) -> str | None:
    """A label as text: a whole number without ".0", the labels of a list with "|" between them; None: no label.

    Raises:
        ValueError: neither an index nor a name nor a list of them; the message completes a sentence that
            begins with the name of the value.

    Example:
        >>> label_text(285.0), label_text(["edema", "mass"]), label_text([7]), label_text([])
        ('285', 'edema|mass', '7', None)
    """
    if isinstance(value, (list, tuple)):
        texts = [_single(one) for one in value]
        return SEPARATOR.join(text for text in texts if text) or None
    return _single(value)


def target_text(value: Any) -> str | None:
    """A class to explain as text: as `label_text`, but a list must hold one class.

    Raises:
        ValueError: no index and no name.

    Example:
        >>> target_text(3.0)
        '3'
    """
    if isinstance(value, (list, tuple)) and len(value) > 1:
        raise ValueError(f"must be one class, got {len(value)}")
    return label_text(value)


def _single(value: Any) -> str | None:
    if value is None or value != value:  # NaN is pandas' missing value
        return None
    if isinstance(value, (float, Decimal)) and value % 1 == 0:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ValueError(f"must be an index or a name, got {type(value).__name__}")
    return clean_text(str(value).strip()) or None


def with_whole_numbers(samples: ColumnSource) -> ColumnSource:
    """The samples of a table; in a column in which all values read like "285.0" these become "285".

    pandas writes a column of whole numbers with a missing one that way. A column that also holds other texts
    has class names, such as versions, and stays as it is.

    Example:
        >>> from cfcam_gpu.dataset.sources.sample import Sample
        >>> from cfcam_gpu.dataset.sources.spool import SpooledSamples
        >>> table = SpooledSamples([Sample("a", "/a.png", label="285.0"), Sample("b", "/b.png")])
        >>> [sample.label for sample in with_whole_numbers(table)]
        ['285', None]
    """
    whole = [name for name in ("label", "target") if _are_whole(samples, name)]
    return _WholeNumbers(samples, whole) if whole else samples


class _WholeNumbers(ColumnSource):
    """The samples, without ".0" in the columns `whole`."""

    def __init__(self, samples: ColumnSource, whole: Collection[str]) -> None:
        self._samples, self._whole = samples, whole

    def __len__(self) -> int:
        return len(self._samples)

    def pieces(self, *names: str) -> Iterator[Columns]:
        for piece in self._samples.pieces(*names):
            for name in set(names).intersection(self._whole):
                piece[name] = [None if text is None else text.partition(".")[0] for text in piece[name]]
            yield piece


def _are_whole(samples: ColumnSource, name: str) -> bool:
    """Whether a column has values, and all of them read like "285.0"."""
    texts = (text for piece in samples.pieces(name) for text in set(piece[name]) if text is not None)
    first = next(texts, "")
    return all(_FLOAT_INTEGER.fullmatch(text) for text in chain([first], texts))
