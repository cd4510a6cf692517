"""The parts of a run that are still to be explained, and the protocol of whatever explains them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from cfcam_gpu._utils.checks import Check
from cfcam_gpu.dataset.execution.worker import OverlayStyle
from cfcam_gpu.dataset.sources.sample import Sample
from cfcam_gpu.dataset.store.journal import Journals
from cfcam_gpu.dataset.store.schema import Row, target_name
from cfcam_gpu.images.encode import IMAGE_FORMATS

#: Yields the number of each finished part, with all rows of the part in order.
FinishedParts = Generator[tuple[int, list[Row]], None, None]


@dataclass(frozen=True)
class PendingPart:
    """A part that is to be explained.

    Attributes:
        number: the part's number in the plan.
        samples: its samples, in order.
        kept_rows: rows of an earlier run that stay as they are, by the sample's position in the part.
        urls: masked URLs of the samples -> the URLs with their credentials, for an explainer in another process.

    Example:
        >>> samples = [Sample("a", "a.png"), Sample("b", "b.png")]
        >>> part = PendingPart(7, samples, kept_rows={0: {"sample_id": "a"}})
        >>> part.new_positions()
        [1]
        >>> part.all_rows([{"sample_id": "b"}])
        [{'sample_id': 'a'}, {'sample_id': 'b'}]
    """

    number: int
    samples: list[Sample]
    kept_rows: dict[int, Row] = field(default_factory=dict)
    urls: Mapping[str, str] = field(default_factory=dict, repr=False)

    def new_positions(self) -> list[int]:
        """Positions of the samples that are to be explained."""
        return [i for i in range(len(self.samples)) if i not in self.kept_rows]

    def with_rows(self, rows: Mapping[int, Row]) -> PendingPart:
        """The part with further rows that stay, by their position."""
        return replace(self, kept_rows={**self.kept_rows, **rows})

    def all_rows(self, new_rows: Iterable[Row]) -> list[Row]:
        """The kept rows and the new ones, in the order of the samples."""
        rest = iter(new_rows)
        return [self.kept_rows[i] if i in self.kept_rows else next(rest) for i in range(len(self.samples))]


@dataclass(frozen=True)
class OverlayFiles:
    """Where and how overlays are written.

    Attributes:
        out: the output folder.
        temporary: folder in which a file lies until it is complete.
        style: file format and colours.
        in_folders: one folder per part, so that no folder gets too many files; else all lie in `out`.
    """

    out: Path
    temporary: Path
    style: OverlayStyle
    in_folders: bool

    def name(self, part: int, sample: Sample, target: int | None = None) -> str:
        """Path of a sample's overlay below the output folder; `target` as for `overlay_name`."""
        return overlay_name(self.style.kind, part, sample, target, in_folders=self.in_folders)


def overlay_name(kind: str, part: int, sample: Sample, target: int | None = None, *, in_folders: bool) -> str:
    """Path of a sample's overlay below the output folder.

    Args:
        kind: file format, a key of `IMAGE_FORMATS`.
        part: number of the sample's part.
        target: the explained class, in a run that explains several classes of a sample.
        in_folders: as in `OverlayFiles`.

    Example:
        >>> overlay_name("png", 3, Sample("a", "a.jpg", name="x/a"), in_folders=True)
        'overlays/part-00003/x/a_cfcam.png'
    """
    name = f"{target_name(sample.name, target)}_cfcam{IMAGE_FORMATS[kind].extension}"
    return f"overlays/part-{part:05d}/{name}" if in_folders else name


class PartExplainer(Protocol):
    """Explains the parts of a run: in this process (`local`), or in actors of a Ray cluster (`ray_driver`)."""

    @property
    def map_shape(self) -> tuple[int, int]:
        """(h, w) of the saliency maps."""

    @property
    def layer(self) -> str:
        """Name of the target layer."""

    @property
    def engine(self) -> str:
        """Name of the engine that computes the maps."""

    @property
    def device(self) -> str:
        """The device of the model."""

    @property
    def steps(self) -> int:
        """How often `check` was called within the batch in work; 0 where that is not known."""

    def explain(
        self,
        parts: Iterable[PendingPart],
        overlays: OverlayFiles | None,
        journals: Journals,
        on_row: Callable[[Row], None],
        check: Check,
    ) -> FinishedParts:
        """Explains parts; yields each one as it gets done.

        Args:
            overlays: None: no overlays are written.
            journals: where finished rows are written ahead of their part.
            on_row: called with every new row; what it raises ends the run.
            check: called several times a second; what it raises ends the run.
        """
