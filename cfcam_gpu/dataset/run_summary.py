"""What a run returns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cfcam_gpu.dataset.execution.observer import Tally


@dataclass
class RunSummary:
    """What a run did.

    Attributes:
        out: the output folder; of a URL the folder of this machine, in which there are no pictures.
        url: the output folder's URL, where it has one.
        tally: counts of all samples in this process's parts, whether this run or an earlier one did them.
        parts: numbers of this process's parts.
        layer, engine, device: how the maps were computed.
        before: samples that an earlier run did; now: samples that this run did.
        seconds: duration, without loading the model.
        others_left: parts of other ranks that are not done.
    """

    out: Path
    tally: Tally
    parts: list[int]
    layer: str
    engine: str
    device: str
    before: int = 0
    now: int = 0
    seconds: float = 0.0
    others_left: int = 0
    url: str | None = None

    @property
    def place(self) -> str:
        """The output folder as it was given: its URL or path."""
        return self.url or str(self.out)

    def located(self, path: Path) -> str:
        """The URL or path of a file of the output folder."""
        return str(path) if self.url is None else f"{self.url}/{path.relative_to(self.out).as_posix()}"

    @property
    def total(self) -> int:
        """Samples of this process's parts that are done."""
        return self.before + self.now
