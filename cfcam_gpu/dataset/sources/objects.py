"""Data sets that are given as Python objects: what each kind is, and what must be refused.

The samples of an object have URIs `object:TOKEN#INDEX`, which this process opens by asking the object for that item.
The token is made from the number of items and the content of some of them, so that a run is resumed only with a
data set that looks the same.

What a model's preprocessing gets must be pixels, as in an image file. Normalised tensors are refused, since normalising
them again gives maps that look right and are wrong; so are items that change from one reading to the next, whose
picture would be another one than the explained one.
"""

from __future__ import annotations

import hashlib
import io
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from cfcam_gpu._utils.messages import one_line, plural
from cfcam_gpu.dataset.sources.columns import AT_ONCE, Columns, ColumnSource
from cfcam_gpu.dataset.sources.sample import make_uri
from cfcam_gpu.errors import ConfigError, ImageError, InputError

#: Items that are read when a data set is opened: for the token, and to find mistakes before anything is explained.
_PROBES = 16

#: The most data sets that are kept for reading their images again, for a report: those that were given last.
_MOST_KEPT = 4

_KEPT: OrderedDict[str, ImageItems] = OrderedDict()


#: Gives the ids of the items from one number to before another.
Ids = Callable[[int, int], list[str]]


@dataclass(frozen=True)
class Contents:
    """What a kind of data set has to tell.

    Attributes:
        kind: what it is called in messages.
        length: number of items.
        image: the image of an item: a PIL image, an array or a tensor, or the bytes of an image file.
        labels: the text of every item's label, None where there is none.
        class_names: names of the classes that its labels number; None: not known.
        ids: gives the ids of the items from one number to before another; None: their numbers.
    """

    kind: str
    length: int
    image: Callable[[int], Any]
    labels: Callable[[], Sequence[str | None]]
    class_names: tuple[str, ...] | None = None
    ids: Ids | None = None


class _UnreadableError(ImageError):
    """The data set's own code raised an error for an item."""


class ImageItems:
    """The images of a data set, by number, each of which must be the same whenever it is read.

    Raises:
        InputError: no items, or one of the first that are read is no image, or changes.

    Example:
        >>> pictures = [np.full((4, 6, 3), level, np.uint8) for level in (0, 255)]
        >>> items = ImageItems(Contents("list", 2, pictures.__getitem__, lambda: [None, None]))
        >>> items.read(1)[-3:], len(items.token)
        (b'\\xff\\xff\\xff', 16)
    """

    def __init__(self, contents: Contents) -> None:
        self.contents = contents
        if not contents.length:
            raise InputError(f"the {contents.kind} holds no items")
        self._digests: npt.NDArray[np.uint64] = np.zeros(contents.length, np.uint64)
        probes = np.unique(np.linspace(0, contents.length - 1, _PROBES, dtype=np.int64)).tolist()
        failures = [reason for index in [*probes, *probes] if (reason := self._probe(index))]
        if len(failures) == 2 * len(probes):
            raise InputError(failures[0])
        of_content = f"{contents.length} {self._digests[probes].tolist()}"
        self.token = hashlib.sha256(of_content.encode()).hexdigest()[:16]

    def _probe(self, index: int) -> str | None:
        """Reads an item; why it cannot be read. Raises InputError for one that is no image, or changes."""
        try:
            self.read(index)
        except ImageError as error:
            reason = f"item {index} of the {self.contents.kind}: {error}"
            if isinstance(error, _UnreadableError):
                return reason
            raise InputError(reason) from error
        return None

    def read(self, index: int) -> bytes:
        """The content of an image file with the image of an item.

        Raises:
            ImageError: the item cannot be read, is no image, or is not what it was.
        """
        try:
            image = self.contents.image(index)
        except (InputError, ConfigError) as error:
            raise ImageError(str(error)) from error
        except Exception as error:  # whatever the data set's own code raises
            raise _UnreadableError(f"reading it raised {one_line(error)}") from error
        content = image if isinstance(image, bytes) else _file(image)
        self._compare(index, content)
        return content

    def _compare(self, index: int, content: bytes) -> None:
        digest = int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big") | 1
        if self._digests[index] not in (0, digest):
            raise ImageError(
                "its pixels are not the same each time it is read, so that maps and pictures would not belong "
                "together; leave random transforms out"
            )
        self._digests[index] = digest

    def samples(self) -> ItemSamples:
        """One sample for each item, named by its number; keeps the items for `open_item`."""
        _KEPT[self.token] = self
        _KEPT.move_to_end(self.token)
        while len(_KEPT) > _MOST_KEPT:
            _KEPT.popitem(last=False)
        return ItemSamples(self.token, self.contents.labels(), self.contents.ids)


class ItemSamples(ColumnSource):
    """The samples of a data set's items, made as they are asked for.

    Args:
        token: of the `ImageItems`.
        labels: the text of every item's label, None where there is none.
        ids: as in `Contents`.

    Example:
        >>> [(sample.sample_id, sample.uri) for sample in ItemSamples("5f3a", [None, "cat"])]
        [('0', 'object:5f3a#0'), ('1', 'object:5f3a#1')]
    """

    def __init__(self, token: str, labels: Sequence[str | None], ids: Ids | None = None) -> None:
        self._uri, self._labels = make_uri("object", token, ""), labels
        self._ids = ids or (lambda start, stop: list(map(str, range(start, stop))))

    def __len__(self) -> int:
        return len(self._labels)

    def pieces(self, *names: str) -> Iterator[Columns]:
        for start in range(0, len(self), AT_ONCE):
            numbers = range(start, min(start + AT_ONCE, len(self)))
            yield {name: self._column(name, numbers) for name in names}

    def _column(self, name: str, numbers: range) -> list[Any]:
        if name == "sample_id":
            return self._ids(numbers.start, numbers.stop)
        if name == "label":
            return list(self._labels[numbers.start : numbers.stop])
        if name == "uri":
            return [f"{self._uri}{number}" for number in numbers]
        return [f"{number:06d}" for number in numbers] if name == "name" else [None] * len(numbers)


def _file(image: Any) -> bytes:
    try:
        # OpenCV is imported there, which listing and opening files do without.
        from cfcam_gpu.images.lossless import lossless_file

        return lossless_file(image)
    except ConfigError as error:
        raise ImageError(
            f"{error}. Give the pixels of the images; the model's preprocessing resizes and normalises them"
        ) from error
    except Exception as error:  # what is neither an image nor an array
        raise ImageError(f"expected an image, got {type(image).__name__} ({one_line(error)})") from error


def open_item(token: str, index: str) -> BinaryIO:
    """The image that an `object:` URI names, as an image file.

    Raises:
        ImageError: this process was not given the data set, or the item cannot be read.
    """
    items = _KEPT.get(token)
    if items is None:
        raise ImageError(
            "the image is in a data set that was given as a Python object, and this process does not have it; give it "
            f"to explain_dataset again (it keeps the last {plural(_MOST_KEPT, 'data set')}), or explain image files"
        )
    return io.BytesIO(items.read(int(index)))
