"""The samples of all inputs as they are found, and then with ids and names that differ, in little memory."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np
import numpy.typing as npt

from cfcam_gpu.dataset.sources.columns import Columns
from cfcam_gpu.dataset.sources.names import Numbering, name_key, output_name
from cfcam_gpu.dataset.sources.repeated import Texts, among, repeated
from cfcam_gpu.dataset.sources.sample import Sample, clean_text, path_uri
from cfcam_gpu.dataset.sources.spool import Spool, SpooledSamples

_COLUMNS = ("sample_id", "uri", "label", "target", "mask", "origin", "stem", "full", "file")


@dataclass(frozen=True, slots=True)
class Unnamed:
    """A sample whose id and name are not yet compared with those of the others.

    Attributes:
        origin: path of its shard, manifest or data set as given; empty for a file.
        stem: name of its output files.
        full: their name where others have the same stem.
    """

    sample: Sample
    origin: str
    stem: str
    full: str


class Listing:
    """What the inputs hold, in their order; a file that is found twice comes once.

    Texts are compared by hashes of 8 bytes. In memory are the files that were found twice, the names that must get
    numbers, since two samples have the same path below their folders, and all ids where one shard has an id twice.

    Example:
        >>> listing = Listing()
        >>> for name in ("cat.png", "cat.jpg", "cat.png"):
        ...     listing.add_file(Unnamed(Sample(name, f"/in/{name}"), "", name[:-4], name), f"/in/{name}")
        >>> [sample.name for sample in listing.named()]
        ['cat.png', 'cat.jpg']
    """

    def __init__(self) -> None:
        self._rows = Spool(_COLUMNS)
        self._files = array("q")
        self._with_samples: set[str] = set()
        self._repeated: npt.NDArray[np.int64] = np.empty(0, np.int64)

    def __len__(self) -> int:
        """Number of samples, with those of files that were found twice."""
        return len(self._rows)

    def is_new(self, real: str) -> bool:
        """Whether a file that holds several samples was not found before.

        Args:
            real: the file's absolute path with symbolic links resolved.
        """
        file = path_uri(real)
        if file in self._with_samples or self._is_sample(file):
            return False
        self._with_samples.add(file)
        return True

    def add(self, one: Unnamed) -> None:
        """Adds one of the samples in a file."""
        self._append(one, None)

    def add_file(self, one: Unnamed, real: str) -> None:
        """Adds a file that is a sample; `real`: as for `is_new`."""
        file = one.sample.uri if one.sample.uri == real else path_uri(real)
        if file not in self._with_samples:
            self._files.append(hash(file))
            self._append(one, file)

    def named(self) -> SpooledSamples:
        """All samples with their final ids and names; the listing is empty then."""
        hashes = np.array(self._files, np.int64)
        del self._files[:]
        self._repeated = repeated(hashes)
        del hashes
        id_of, name_of = _different_ids(self._pieces), _different_names(self._pieces)
        kept = ("uri", "label", "target", "mask")
        samples = SpooledSamples.of_pieces(
            {name: piece[name] for name in kept} | {"sample_id": id_of(piece), "name": name_of(piece)}
            for piece in self._pieces(*_COLUMNS[:-1])
        )
        self._rows.clear()
        return samples

    def _append(self, one: Unnamed, file: str | None) -> None:
        sample, stem, full = one.sample, output_name(one.stem), output_name(one.full)
        classes = (sample.label, sample.target, sample.mask)
        self._rows.append((sample.sample_id, sample.uri, *classes, clean_text(one.origin), stem, full, file))

    def _is_sample(self, file: str) -> bool:
        """Whether one of the samples so far is that file itself."""
        if not len(self._files) or not (np.frombuffer(self._files, np.int64) == hash(file)).any():
            return False
        return any(file in piece["file"] for piece in self._rows.pieces("file"))

    def _pieces(self, *names: str) -> Iterator[Columns]:
        """The values of the samples, without those of files that were found before."""
        return self._first_ones(names) if len(self._repeated) else self._rows.pieces(*names)

    def _first_ones(self, names: Sequence[str]) -> Iterator[Columns]:
        found: set[str] = set()
        for piece in self._rows.pieces(*names, "file"):
            kept = []
            for file, doubtful in zip(
                piece["file"], among(map(hash, piece["file"]), self._repeated), strict=True
            ):
                kept.append(file is None or not doubtful or file not in found)
                if doubtful and file is not None:
                    found.add(file)
            yield {name: list(compress(piece[name], kept)) for name in names}


#: Gives the values of some columns of all samples, in pieces, as often as it is called.
Pieces = Callable[..., Iterator[Columns]]

#: The final ids or names of the samples in a piece. Pieces come in order.
OfPiece = Callable[[Columns], list[str]]


def _different_ids(pieces: Pieces) -> OfPiece:
    """The ids; where several samples have one, the path of their shard or manifest before it, and then numbers."""
    ids = Texts(lambda: (one for piece in pieces("sample_id") for one in piece["sample_id"]))
    if not ids.repeat:
        return lambda piece: piece["sample_id"]

    def wanted(piece: Columns) -> list[str]:
        rows = zip(piece["sample_id"], piece["origin"], ids.repeated(piece["sample_id"]), strict=True)
        return [clean_text(f"{origin}#{one}") if several and origin else one for one, origin, several in rows]

    whole = Texts(lambda: (one for piece in pieces("sample_id", "origin") for one in wanted(piece)))
    if not whole.repeat:
        return wanted
    numbering = Numbering(key=str)  # a tar file may hold a key twice
    return lambda piece: [numbering.unique(one) for one in wanted(piece)]


def _different_names(pieces: Pieces) -> OfPiece:
    """As `unique_names`, for all samples."""
    stems = Texts(lambda: (name_key(one) for piece in pieces("stem") for one in piece["stem"]))
    if not stems.repeat:
        return lambda piece: piece["stem"]
    fulls = Texts(lambda: (name_key(one) for piece in pieces("full") for one in piece["full"]))

    def wanted(piece: Columns) -> list[str]:
        several, clash = (
            stems.repeated(map(name_key, piece["stem"])),
            fulls.repeated(map(name_key, piece["full"])),
        )
        return np.where(
            several & ~clash, np.array(piece["full"], object), np.array(piece["stem"], object)
        ).tolist()

    whole = Texts(lambda: (name_key(one) for piece in pieces("stem", "full") for one in wanted(piece)))
    if not whole.repeat:
        return wanted
    numbering = Numbering(reserved=whole)

    def numbered(piece: Columns) -> list[str]:
        names = wanted(piece)
        rows = zip(names, whole.repeated(map(name_key, names)), strict=True)
        return [numbering.unique(name) if several else name for name, several in rows]

    return numbered
