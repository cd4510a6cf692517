"""The settings of a dataset run, checked before anything is read."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cfcam_gpu._utils.messages import unknown
from cfcam_gpu._utils.option import METHOD, OUTPUT, RUN, number, numbers, option
from cfcam_gpu.config import ACTIVATION_NAMES, LAYOUT_NAMES, PRESETS, CFCAMConfig, check_scales
from cfcam_gpu.engines import ENGINES
from cfcam_gpu.errors import ConfigError
from cfcam_gpu.images.colormaps import COLORMAPS, check_style
from cfcam_gpu.images.decoders import DECODERS
from cfcam_gpu.images.limits import MAX_PIXELS
from cfcam_gpu.images.read_options import VALUE_RANGES, ReadOptions, ValueRange
from cfcam_gpu.methods import METHODS, Method, find_method, smoothed
from cfcam_gpu.models import PRECISIONS

#: Samples of a part unless the options say otherwise.
PART_SIZE = 256

#: For so many samples or fewer, worker processes and code compiled by Numba take longer to start than they save.
FEW_SAMPLES = 8

#: File formats of the overlays; `none`: no overlays are written.
OVERLAYS = ("none", "png", "jpeg", "webp")

#: Formats that `export` writes.
EXPORT_FORMATS = ("npz", "zarr", "fiftyone", "png", "csv", "jsonl", "parquet", "coco")

#: Formats of what a command tells on stderr while it runs, and the kinds of records that it keeps.
LOG_FORMATS, RECORD_KINDS = ("text", "json"), ("prometheus", "tensorboard", "mlflow")

#: Where labels come from: `folders`, or what the inputs say (`given`); `auto` recognises folders named for classes.
LABELS = ("auto", "folders", "given")

#: Ways to spread a run over a cluster.
DISTRIBUTED = ("ray",)

#: A percentage `max_errors` always tolerates at least this many failures.
FEWEST_ERRORS = 20

#: Environment variables with this process's rank and the world size: torchrun's, a Slurm step's. A batch script that
#: does not start a step by srun has Slurm's number of tasks too, and is one process.
_TORCHRUN, _SLURM_STEP = ("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")

#: Of a Slurm array: this job's number, the first number, the distance of two numbers, and how many there are.
_SLURM_ARRAY = (
    "SLURM_ARRAY_TASK_ID",
    "SLURM_ARRAY_TASK_MIN",
    "SLURM_ARRAY_TASK_STEP",
    "SLURM_ARRAY_TASK_COUNT",
)


def default_workers() -> int:
    """As many processes as there are cores, at most 8.

    They have a lower priority than this process, whose threads take all cores on a CPU: they work where those wait.

    Example:
        >>> 1 <= default_workers() <= 8
        True
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, 8)


def _target(text: str) -> str | None:
    return None if text == "predicted" else text


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Settings of `explain_dataset`, and the options of `cfcam explain`.

    Attributes:
        target: the class to explain where a sample does not name one, an index or a name; several of them in a
            list, or in a text with commas between them; None: the predicted class. "expected": the class that the
            sample's label names, an error row where it names none; "predicted,expected": the predicted class, and
            where the label names another, that class as well, from the same forward pass.
        top_k: explain so many of the likeliest classes of each image, from one forward pass.
        multi_label: explain every class whose probability is above this threshold; where none is, the likeliest.
            The probabilities are sigmoids unless `activation` says otherwise.
        activation: what makes probabilities of the model's outputs, one of
            `cfcam_gpu.config.ACTIVATION_NAMES`.
        output: index, key or attribute of the logits in what the model returns; None: found by the usual names.
        layer: target layer; None: chosen automatically.
        layout: how its output holds the map, one of `cfcam_gpu.config.LAYOUT_NAMES`.
        finer_layer: the earlier layer of a method that reads two layers, such as cfcam-fine; None: chosen
            automatically.
        method: a key of `cfcam_gpu.methods.METHODS`.
        config: parameters of CF-CAM.
        scales, flip, eigen_smooth, aug_smooth: see `cfcam_gpu.CFCAM`.
        engine: `auto` or a key of `cfcam_gpu.engines.ENGINES`.
        device: auto, cpu, cuda or cuda:N.
        batch_size: images per forward pass.
        precision, channels_last, fold_batchnorm: see `cfcam_gpu.models.prepared`.
        compile: see `cfcam_gpu.CFCAM`.
        cmap, alpha: colour map of the overlays and how much of them is colour, from 0 to 1.
        overlays: file format of the overlays, one of `OVERLAYS`.
        workers: number of processes that decode images and write pictures; 0: this process does it; None:
            `default_workers()`, or a thread of this process for up to `FEW_SAMPLES` samples.
        decode: how images are decoded for the model, a key of `cfcam_gpu.images.decoders.DECODERS`.
        path_column: the column of manifests with the paths of the images; None: `path` or `uri`.
        labels: where the true classes come from. `folders`: of an image file without a label, the name of the folder
            that holds it; `given`: only what manifests, shards and data sets say; `auto`: `folders` where no sample has
            a label and every such folder is named for a class of the model, else `given`. A run that goes on
            keeps its choice.
        value_range: which values of images of more than 8 bits per channel become black and white: "LOW,HIGH",
            "auto" or "percentile:P" (see `cfcam_gpu.images.read_options.ValueRange`); it takes the place of
            the window of a DICOM file. None: the range that the file declares or can store.
        max_pixels: images of more pixels fail.
        sample_timeout: seconds that a worker may spend on one image.
        max_errors: the run stops when more samples fail: a number, or a percentage of the samples such as
            "1%", which always tolerates at least `FEWEST_ERRORS`.
        retry_failed: explain the samples again that failed in an earlier run. Without it a failed sample is finished,
            whether the run was ended in the middle of its part or not.
        overwrite: remove the earlier run in the output folder and start anew.
        part_size: samples per part; None: as in the stored run, else `PART_SIZE`.
        rank, world_size: this process explains the parts k with k % world_size == rank.
        distributed: `ray`: actors of a Ray cluster explain the parts; None: this process does.
        actors: number of these actors; None: one per GPU of the cluster, without GPUs one per two CPUs.
            `device`, `batch_size` and `workers` are those of each actor.

    Raises:
        ConfigError: a value out of range.

    Example:
        >>> RunOptions(method="gradcam", batch_size=4).overlays
        'png'
        >>> RunOptions(batch_size=0)
        Traceback (most recent call last):
        cfcam_gpu.errors.ConfigError: batch size must be at least 1, got 0
    """

    target: str | int | Sequence[str | int] | None = field(
        default=None,
        metadata=option(
            "Class: predicted, expected (its label), index or name; or A,B.",
            METHOD,
            "CLASS",
            text="predicted",
            parse=_target,
        ),
    )
    top_k: int | None = field(
        default=None, metadata=option("Explain the K likeliest classes of each image.", METHOD, "K")
    )
    multi_label: float | None = field(
        default=None,
        metadata=option(
            "Explain every class above a probability, 0.5 unless given.",
            METHOD,
            "[P]",
            parse=number,
            bare="0.5",
        ),
    )
    activation: str = field(
        default="auto",
        metadata=option(f"Of the model's outputs: {', '.join(ACTIVATION_NAMES)}.", METHOD, "NAME"),
    )
    output: str | int | None = field(
        default=None,
        metadata=option("Index or key of the logits in what the model returns.", METHOD, "KEY", parse=str),
    )
    layer: str | None = field(
        default=None, metadata=option("Target layer; automatic unless given.", METHOD, "NAME")
    )
    layout: str = field(
        default="auto",
        metadata=option(f"How the layer's output holds its map: {', '.join(LAYOUT_NAMES)}.", METHOD, "NAME"),
    )
    finer_layer: str | None = field(
        default=None,
        metadata=option("Earlier layer of cfcam-sharp or -fine; automatic unless given.", METHOD, "NAME"),
    )
    method: str = field(
        default="cfcam",
        metadata=option(f"One of {', '.join(METHODS)}, or cfcam:PRESET.", METHOD, "NAME"),
    )
    config: CFCAMConfig = field(
        default_factory=CFCAMConfig,
        metadata=option(
            f"One of {', '.join(PRESETS)}.",
            METHOD,
            "NAME",
            name="preset",
            text="default",
            parse=CFCAMConfig.preset,
        ),
    )
    scales: tuple[float, ...] = field(
        default=(1.0,),
        metadata=option(
            "Factors of the input size whose maps are averaged.", METHOD, "S,...", text="1", parse=numbers
        ),
    )
    flip: bool = field(default=False, metadata=option("Average with the mirror image's map.", METHOD))
    eigen_smooth: bool = field(
        default=False, metadata=option("First principal component of the weighted channels.", METHOD)
    )
    aug_smooth: bool = field(
        default=False, metadata=option("Average over mirror images and brightness.", METHOD)
    )
    engine: str = field(default="auto", metadata=option(f"auto, {', '.join(ENGINES)}.", RUN, "NAME"))
    device: str = field(default="auto", metadata=option("auto, cpu, cuda or cuda:N.", RUN, "NAME"))
    batch_size: int = field(default=16, metadata=option("Images per forward pass.", RUN, "N"))
    precision: str = field(
        default="float32", metadata=option(f"Of the model: {', '.join(PRECISIONS)}.", RUN, "NAME")
    )
    channels_last: bool = field(default=False, metadata=option("NHWC layout of the model.", RUN))
    fold_batchnorm: bool = field(default=False, metadata=option("Fold BatchNorm into the convolutions.", RUN))
    compile: bool = field(default=False, metadata=option("Compile the model; the first batch waits.", RUN))
    cmap: str = field(default="inferno", metadata=option(f"Colours: {', '.join(COLORMAPS)}.", OUTPUT, "NAME"))
    alpha: float = field(
        default=0.4, metadata=option("Share of the heatmap in the overlay, 0..1.", OUTPUT, "A")
    )
    overlays: str = field(default="png", metadata=option(f"Pictures: {', '.join(OVERLAYS)}.", OUTPUT, "KIND"))
    workers: int | None = field(
        default=None,
        metadata=option(f"Processes that decode and write; here {default_workers()}.", RUN, "N", unset=True),
    )
    decode: str = field(
        default="full",
        metadata=option(f"How images are decoded: {', '.join(DECODERS)}.", RUN, "NAME"),
    )
    path_column: str | None = field(
        default=None, metadata=option("Column of manifests with the paths; path or uri.", RUN, "NAME")
    )
    labels: str = field(default="auto", metadata=option(f"True classes: {', '.join(LABELS)}.", RUN, "NAME"))
    value_range: str | None = field(
        default=None,
        metadata=option(f"Black and white of 16-bit images: {VALUE_RANGES}.", RUN, "RANGE"),
    )
    max_pixels: int = field(default=MAX_PIXELS, metadata=option("Images of more pixels fail.", RUN, "N"))
    sample_timeout: float = field(
        default=60.0, metadata=option("Seconds a worker may spend on an image.", RUN, "S")
    )
    max_errors: str | int = field(
        default="1%",
        metadata=option("Stop when more fail: a number or percentage.", RUN, "N|P%", parse=str),
    )
    retry_failed: bool = field(default=False, metadata=option("Redo the samples that failed before.", RUN))
    overwrite: bool = field(
        default=False, metadata=option("Remove the earlier run in DIR and start anew.", RUN)
    )
    part_size: int | None = field(default=None, metadata=option(f"Samples of a part, {PART_SIZE}.", RUN, "N"))
    rank: int = field(
        default=0,
        metadata=option("Rank of this process, from 0.", RUN, "K", unset=True),
    )
    world_size: int = field(
        default=1,
        metadata=option("Processes that share DIR; torchrun and Slurm say it.", RUN, "N", unset=True),
    )
    distributed: str | None = field(
        default=None,
        metadata=option(f"Spread the run over a cluster: {', '.join(DISTRIBUTED)}.", RUN, "KIND"),
    )
    actors: int | None = field(
        default=None,
        metadata=option("Models of a distributed run; one per GPU, or two CPUs.", RUN, "N"),
    )

    def __post_init__(self) -> None:
        method = find_method(self.method)
        object.__setattr__(self, "method", method.name)  # another spelling must resume the same run
        method.check_config(self.config)
        self._check_finer(method)
        if self.eigen_smooth:
            smoothed(method)
        least = {"batch_size": 1, "workers": 0, "world_size": 1, "max_pixels": 1}
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and value < low:
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
        check_scales(self.scales)
        self._check_value_range()
        self._check_targets()
        _check_choice("layout", self.layout, LAYOUT_NAMES)
        _check_choice("activation", self.activation, ACTIVATION_NAMES)
        _check_choice("engine", self.engine, ("auto", *ENGINES))
        _check_choice("precision", self.precision, PRECISIONS)
        _check_choice("overlays", self.overlays, OVERLAYS)
        _check_choice("source of labels", self.labels, LABELS)
        if self.overwrite and self.world_size > 1:
            raise ConfigError(
                "processes that share a folder cannot each overwrite it; remove the folder yourself"
            )
        if self.decode not in DECODERS:
            raise ConfigError(unknown("decoder", self.decode, DECODERS))
        check_style(self.cmap, self.alpha)
        self.allowed_errors(0)

    def _check_targets(self) -> None:
        given = [name for name in ("target", "top_k", "multi_label") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ConfigError(
                f"{' and '.join(map(_words, given))} both say what to explain; give one of them"
            )
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError(f"top k must be at least 1, got {self.top_k}")
        if self.multi_label is None:
            return
        if not 0 <= self.multi_label < 1:
            raise ConfigError(f"multi label must be a probability from 0 to below 1, got {self.multi_label}")
        if self.activation == "softmax":
            raise ConfigError(
                "the classes of a multi-label model have a sigmoid each; leave activation softmax out"
            )

    @property
    def model_activation(self) -> str:
        """The activation that `CFCAM` gets: a multi-label model has a sigmoid for each class.

        Example:
            >>> RunOptions(multi_label=0.5).model_activation, RunOptions().model_activation
            ('sigmoid', 'auto')
        """
        return self.activation if self.multi_label is None else "sigmoid"

    def _check_distributed(self) -> None:
        if self.distributed is not None:
            _check_choice("way to distribute a run", self.distributed, DISTRIBUTED)
        if self.actors is not None and not self.distributed:
            raise ConfigError("a number of actors is for a distributed run; give --distributed ray as well")
        if self.actors is not None and self.actors < 1:
            raise ConfigError(f"actors must be at least 1, got {self.actors}")

    def _check_value_range(self) -> None:
        try:
            _ = self.read_options
        except ValueError as error:
            raise ConfigError(f"value range {error}") from error

    @property
    def read_options(self) -> ReadOptions:
        """How image files are read."""
        value_range = None if self.value_range is None else ValueRange.parse(self.value_range)
        return ReadOptions(value_range, self.max_pixels)

    def _check_finer(self, method: Method) -> None:
        if self.finer_layer is not None and not method.needs_finer:
            raise ConfigError(
                f"{method.name} reads one layer; a finer layer is for method cfcam-sharp or cfcam-fine"
            )

    def keeps(self, status: str) -> bool:
        """Whether a row of this status that an earlier run made stays as it is.

        Example:
            >>> RunOptions().keeps("error"), RunOptions(retry_failed=True).keeps("error")
            (True, False)
        """
        return status == "ok" or not self.retry_failed

    def allowed_errors(self, samples: int) -> int:
        """How many of `samples` may fail without stopping the run.

        Raises:
            ConfigError: `max_errors` is neither a number nor a percentage.

        Example:
            >>> RunOptions(max_errors=3).allowed_errors(samples=10_000)
            3
            >>> RunOptions(max_errors="1%").allowed_errors(samples=10_000)
            100
        """
        text = str(self.max_errors).strip()
        match = re.fullmatch(r"(\d+)|(\d+(?:\.\d+)?) ?%", text, re.ASCII)
        if match and match[1]:
            return int(match[1])
        if not match or float(match[2]) > 100:
            raise ConfigError(f"max errors must be a number or a percentage like 50 or 1%, got {text!r}")
        return max(FEWEST_ERRORS, math.floor(float(match[2]) / 100 * samples))


def _words(name: str) -> str:
    return name.replace("_", " ")


def _check_choice(kind: str, name: str, choices: Sequence[str]) -> None:
    if name not in choices:
        raise ConfigError(unknown(kind, name, choices))


def rank_and_world_size(
    rank: int | None, world_size: int | None, environment: Mapping[str, str]
) -> tuple[int, int]:
    """This process's rank and the world size: the arguments, else torchrun's or Slurm's, else (0, 1).

    Of Slurm, a job array and the tasks of a step that srun started count; tasks without srun do not.

    Args:
        environment: the environment variables, `os.environ`.

    Raises:
        ConfigError: one is given without the other, or the numbers of a job array are not evenly spaced.

    Example:
        >>> rank_and_world_size(None, None, {"RANK": "1", "WORLD_SIZE": "4"})
        (1, 4)
    """
    if (rank is None) != (world_size is None):
        raise ConfigError("--rank and --world-size belong together; give both or none")
    if rank is not None and world_size is not None:
        return rank, world_size
    torchrun = _numbers(environment, _TORCHRUN)
    if torchrun:
        return torchrun[0], torchrun[1]
    array_rank, jobs = _array_rank(environment)
    step_rank, tasks = _numbers(environment, _SLURM_STEP) or (0, 1)
    return array_rank * tasks + step_rank, jobs * tasks


def _array_rank(environment: Mapping[str, str]) -> tuple[int, int]:
    """The place of this job in its Slurm array, and the number of jobs; (0, 1) outside of an array."""
    numbers = _numbers(environment, _SLURM_ARRAY)
    if numbers is None:
        return 0, 1
    number, first, step, count = numbers
    place, rest = divmod(number - first, max(step, 1))
    if rest or not 0 <= place < count:
        raise ConfigError(
            f"job {number} of a Slurm array of {count} jobs from {first} in steps of {step}: its place is not clear; "
            "give --rank and --world-size"
        )
    return place, count


def launcher_note(environment: Mapping[str, str], world_size: int) -> str | None:
    """What to say of the share that a launcher's variables gave this process; None: nothing.

    Example:
        >>> launcher_note({"SLURM_NTASKS": "8"}, world_size=1)
        'Slurm gave this job 8 tasks, and this one process explains all samples; srun cfcam explain ... shares them'
    """
    if _numbers(environment, _TORCHRUN):
        return None
    if world_size > 1 and _numbers(environment, _SLURM_ARRAY):
        return "the jobs of this Slurm array share the samples; --rank 0 --world-size 1 explains all of them in each"
    tasks = _numbers(environment, ("SLURM_NTASKS",))
    if world_size == 1 and tasks and tasks[0] > 1 and _numbers(environment, _SLURM_STEP) is None:
        return (
            f"Slurm gave this job {tasks[0]} tasks, and this one process explains all samples; "
            "srun cfcam explain ... shares them"
        )
    return None


def _numbers(environment: Mapping[str, str], names: Sequence[str]) -> list[int] | None:
    """The values of environment variables; None unless all of them are numbers."""
    values = [environment.get(name, "") for name in names]
    return [int(value) for value in values] if all(re.fullmatch(r"[0-9]{1,9}", v) for v in values) else None
