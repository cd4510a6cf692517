"""Which of many texts occur several times, by hashes of 8 bytes, so that the texts need not be in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import blake2b

import numpy as np
import numpy.typing as npt


class Texts:
    """Which of many texts are equal, by hashes of 8 bytes, which are the same in every process.

    Two texts of ten million have one hash by a chance of 1 in 400,000: then a name is longer than it need be.

    Args:
        texts: gives the texts whenever it is called.

    Attributes:
        repeat: whether any text occurs several times.
    """

    def __init__(self, texts: Callable[[], Iterable[str]]) -> None:
        self._all = self._several = np.empty(0, np.int64)
        # Python's own hashes take a tenth of the time, but differ from process to process.
        if len(repeated(np.fromiter(map(hash, texts()), np.int64))):
            self._all = np.fromiter(map(_stable_hash, texts()), np.int64)
            self._several = repeated(self._all)
        self.repeat = len(self._several) > 0

    def repeated(self, texts: Iterable[str]) -> npt.NDArray[np.bool_]:
        """Whether each of some texts occurs several times."""
        return among(map(_stable_hash, texts), self._several)

    def __contains__(self, text: object) -> bool:
        return bool(among([_stable_hash(str(text))], self._all)[0])


def _stable_hash(text: str) -> int:
    return int.from_bytes(
        blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little", signed=True
    )


def repeated(hashes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Those that occur several times, in order; sorts `hashes`."""
    hashes.sort()
    return np.unique(hashes[1:][hashes[1:] == hashes[:-1]])


def among(hashes: Iterable[int], ordered: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Whether each of the hashes is one of those in order."""
    values = np.fromiter(hashes, np.int64)
    if not len(ordered):
        return np.zeros(len(values), np.bool_)
    found: npt.NDArray[np.bool_] = (
        ordered[np.searchsorted(ordered, values).clip(max=len(ordered) - 1)] == values
    )
    return found
