"""The settings of a dataset run, checked before anything is read."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from cfcam_gpu.config import CFCAMConfig
from cfcam_gpu.errors import ConfigError
from cfcam_gpu.images.colormaps import check_style
from cfcam_gpu.methods import Method, find_method

PART_SIZE = 256

#: Kinds of overlay pictures, and none.
OVERLAYS = ("none", "png", "jpeg", "webp")

#: Ways to spread a run over processes and machines, besides shares.
DISTRIBUTED = ("ray",)

#: A share of the samples that may fail never stops a run before this many have.
FEWEST_ERRORS = 20

#: Variables that say a process's number and how many there are: torchrun's, Slurm's.
_LAUNCHERS = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS"))


def default_workers() -> int:
    """One process fewer than there are cores, from 1 to 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(max(1, cores - 1), 8)


@dataclass(frozen=True)
class RunOptions:
    """Settings of `explain_dataset`.

    Attributes:
        method: a key of `cfcam_gpu.methods.METHODS`.
        config: parameters of CF-CAM.
        layer: target layer; None: chosen automatically.
        finer_layer: the earlier layer of a method that looks at two, such as cfcam-fine; None: likewise.
        target: class explained where a sample asks for none, an index or a name; None: the predicted one.
        engine: `auto` or a key of `cfcam_gpu.engines.ENGINES`.
        device: auto, cpu, cuda or cuda:N.
        precision, channels_last, fold_batchnorm: see `cfcam_gpu.models.prepare.prepared`.
        batch_size: images per forward pass.
        workers: processes that decode images and write pictures; 0: none, all in this process.
        sample_timeout: seconds that a worker may spend on one image.
        part_size: samples of a part; None: the stored run's, else 256.
        rank, world_size: this process takes the parts k with k % world_size == rank.
        distributed: `ray`: actors of a Ray cluster explain the parts (see `distributed`); None: this process.
        actors: how many; None: one per GPU of the cluster, without GPUs one per two of its CPUs.
            `device`, `batch_size` and `workers` are those of each.
        overlays: kind of the pictures, one of `OVERLAYS`; cmap, alpha: their colours (see `overlay`).
        max_errors: failed samples that do not stop the run: a number, or a share of the samples such
            as "1%", which never stops it before `FEWEST_ERRORS`.
        retry_failed: redo the samples of finished parts that failed.
        overwrite: begin anew; removes the earlier run in the output folder.

    Raises:
        ConfigError: a value out of range.
    """

    method: str = "cfcam"
    config: CFCAMConfig = field(default_factory=CFCAMConfig)
    layer: str | None = None
    finer_layer: str | None = None
    target: str | int | None = None
    engine: str = "auto"
    device: str = "auto"
    precision: str = "float32"
    channels_last: bool = False
    fold_batchnorm: bool = False
    batch_size: int = 16
    workers: int = field(default_factory=default_workers)
    sample_timeout: float = 60.0
    part_size: int | None = None
    rank: int = 0
    world_size: int = 1
    distributed: str | None = None
    actors: int | None = None
    overlays: str = "png"
    cmap: str = "inferno"
    alpha: float = 0.4
    max_errors: str | int = "1%"
    retry_failed: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        method = find_method(self.method)
        method.check_config(self.config)
        self._check_finer(method)
        least = {"batch_size": 1, "workers": 0, "world_size": 1}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ConfigError(f"{_words(name)} must be at least {low}, got {getattr(self, name)}")
        if self.part_size is not None and self.part_size < 1:
            raise ConfigError(f"part size must be at least 1, got {self.part_size}")
        if not 0 < self.sample_timeout < math.inf:
            raise ConfigError(
                f"sample timeout must be a number of seconds above 0, got {self.sample_timeout}"
            )
        if not 0 <= self.rank < self.world_size:
            raise ConfigError(
                f"rank must be from 0 to {self.world_size - 1} for a world size of {self.world_size}, "
                f"got {self.rank}"
            )
        self._check_distributed()
        if self.overlays not in OVERLAYS:
            raise ConfigError(f"unknown overlays {self.overlays!r}; choose one of: {', '.join(OVERLAYS)}")
        if self.overwrite and self.world_size > 1:
            raise ConfigError(
                "several runs that share a folder cannot each begin it anew; remove it yourself"
            )
        check_style(self.cmap, self.alpha)
        self.allowed_errors(0)

    def _check_distributed(self) -> None:
        if self.distributed not in (None, *DISTRIBUTED):
            raise ConfigError(
                f"unknown way to distribute a run {self.distributed!r}; choose one of: {', '.join(DISTRIBUTED)}"
            )
        if self.actors is not None and not self.distributed:
            raise ConfigError("a number of actors is for a distributed run; give --distributed ray as well")
        if self.actors is not None and self.actors < 1:
            raise ConfigError(f"actors must be at least 1, got {self.actors}")

    def _check_finer(self, method: Method) -> None:
        if self.finer_layer is not None and not method.needs_finer:
            raise ConfigError(f"{method.name} looks at one layer; a finer layer is for method cfcam-fine")

    def allowed_errors(self, samples: int) -> int:
        """How many of `samples` may fail without stopping the run."""
        text = str(self.max_errors).strip()
        found = re.fullmatch(r"(\d+)|(\d+(?:\.\d+)?) ?%", text, re.ASCII)
        if found and found[1]:
            return int(found[1])
        if not found or float(found[2]) > 100:
            raise ConfigError(f"max errors must be a number or a share like 50 or 1%, got {text!r}")
        return max(FEWEST_ERRORS, math.floor(float(found[2]) / 100 * samples))


def _words(name: str) -> str:
    return name.replace("_", " ")


def share(index: int | None, count: int | None, environment: Mapping[str, str]) -> tuple[int, int]:
    """(rank, world_size) as given, else as torchrun or Slurm say, else (0, 1).

    Raises:
        ConfigError: one is given without the other.
    """
    if (index is None) != (count is None):
        raise ConfigError("--rank and --world-size belong together; give both or none")
    if index is not None and count is not None:
        return index, count
    for rank, world in _LAUNCHERS:
        pair = environment.get(rank, ""), environment.get(world, "")
        if all(text.isdecimal() for text in pair):
            return int(pair[0]), int(pair[1])
    return 0, 1
