"""Samples as columns: lists of their ids, places and so on, some thousand at a time, without an object for each."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import fields
from itertools import chain, islice
from operator import attrgetter
from typing import Any

from cfcam_gpu.dataset.sources.sample import CREDENTIALS, Sample
from cfcam_gpu.errors import InputError

#: The attributes of `Sample`, in its order.
FIELDS = tuple(field.name for field in fields(Sample))

#: Samples in a piece.
AT_ONCE = 16_384

#: The values of some samples, by field: texts, or None. All lists are equally long.
Columns = dict[str, list[Any]]


class ColumnSource(Collection[Sample]):
    """Samples that are made as they are asked for, as columns: a run of them is resumed faster.

    A subclass has `__len__` and `pieces`, which give the same samples whenever they are called.

    Example:
        >>> class Numbered(ColumnSource):
        ...     def __len__(self):
        ...         return 3
        ...
        ...     def pieces(self, *names):
        ...         ids = [f"{i}.png" for i in range(3)]
        ...         columns = {"sample_id": ids, "uri": [f"/photos/{name}" for name in ids], "name": ["0", "1", "2"]}
        ...         yield {name: columns.get(name, [None] * 3) for name in names}
        >>> [sample.uri for sample in Numbered()]
        ['/photos/0.png', '/photos/1.png', '/photos/2.png']
    """

    @abstractmethod
    def pieces(self, *names: str) -> Iterator[Columns]:
        """The values of every sample, in order, of the fields `names`: attributes of `Sample`; each piece has all."""

    def __iter__(self) -> Iterator[Sample]:
        for piece in pieces_of(self, *FIELDS):
            yield from samples_in(piece)

    def __contains__(self, sample: object) -> bool:
        return any(sample == one for one in self)


class MaskedSamples(ColumnSource):
    """The samples of any source, with the credentials in their URLs masked.

    Example:
        >>> source = MaskedSamples([Sample("a", "https://me:word@masked.example/ant.png")])
        >>> [sample.uri for sample in source]
        ['https://***@masked.example/ant.png']
    """

    def __init__(self, samples: Collection[Sample]) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def pieces(self, *names: str) -> Iterator[Columns]:
        for piece in pieces_of(self._samples, *names):
            yield {name: _masked_column(name, values) for name, values in piece.items()}


def _masked_column(name: str, values: list[Any]) -> list[Any]:
    # One look at all values takes a tenth of a look at each.
    if name not in CREDENTIALS or "://" not in "\n".join(filter(None, values)):
        return values
    return list(map(CREDENTIALS[name], values))


def samples_in(piece: Columns) -> Iterator[Sample]:
    """The samples of a piece that has all fields."""
    return map(Sample, *(piece[name] for name in FIELDS))


def pieces_of(samples: Iterable[Sample], *names: str) -> Iterator[Columns]:
    """The values of any samples, `AT_ONCE` at a time.

    Raises:
        InputError: the columns of a `ColumnSource` are not equally long, or a value is no text.

    Example:
        >>> list(pieces_of([Sample("a", "/a.png"), Sample("b", "/b.png")], "sample_id", "uri"))
        [{'sample_id': ['a', 'b'], 'uri': ['/a.png', '/b.png']}]
    """
    pieces = _of_columns(samples, names) if isinstance(samples, ColumnSource) else _of_objects(samples, names)
    return cut(map(_checked, pieces), AT_ONCE)


def _checked(piece: Columns) -> Columns:
    for name, values in piece.items():
        for kind in set(map(type, values)) - {str, type(None)}:
            if not issubclass(kind, str):
                raise InputError(f"{name} of a sample must be text, got {kind.__name__}; give str(…) of it")
    return piece


def _of_columns(samples: ColumnSource, names: Sequence[str]) -> Iterator[Columns]:
    for piece in samples.pieces(*names):
        lengths = {name: len(piece.get(name, ())) for name in names}
        if len(set(lengths.values())) > 1:
            got = ", ".join(f"{name}: {length:,}" for name, length in lengths.items())
            raise InputError(f"the columns of a piece of samples must be equally long, got {got}")
        yield {name: list(piece.get(name, ())) for name in names}


def _of_objects(samples: Iterable[Sample], names: Sequence[str]) -> Iterator[Columns]:
    # Only the texts of a piece are held. Its samples would have the garbage collector look through all objects of the
    # process again and again, which takes longer than everything else.
    rows = map(attrgetter(*names), samples)
    values = rows if len(names) == 1 else chain.from_iterable(rows)
    while piece := list(islice(values, AT_ONCE * len(names))):
        yield {name: piece[i :: len(names)] for i, name in enumerate(names)}


def cut(pieces: Iterable[Columns], count: int) -> Iterator[Columns]:
    """The same rows, `count` in a piece; the last may have fewer.

    Example:
        >>> list(cut([{"uri": ["a", "b"]}, {"uri": ["c", "d", "e"]}], 3))
        [{'uri': ['a', 'b', 'c']}, {'uri': ['d', 'e']}]
    """
    held: Columns = {}
    for piece in pieces:
        held = {name: held[name] + list(values) for name, values in piece.items()} if held else piece
        length = rows_in(held)
        if length == count:  # no copy
            yield held
            held = {}
            continue
        ends = range(count, length + 1, count)
        yield from ({name: values[end - count : end] for name, values in held.items()} for end in ends)
        left = length - length % count
        held = {name: values[left:] for name, values in held.items()} if left < length else {}
    if held:
        yield held


def rows_in(piece: Columns) -> int:
    """Number of samples in a piece."""
    return len(next(iter(piece.values())))
