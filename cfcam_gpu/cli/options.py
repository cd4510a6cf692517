"""Options that several commands have, and what their texts mean."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from cfcam_gpu.cli.printing import say
from cfcam_gpu.config import PRESETS
from cfcam_gpu.dataset.options import RunOptions, default_workers, share
from cfcam_gpu.engines import ENGINES
from cfcam_gpu.errors import ConfigError
from cfcam_gpu.models import LoadedModel, load_model
from cfcam_gpu.models.options import PRECISIONS

#: Panels of a command's help.
MODEL, METHOD, RUN, OUTPUT = "Model", "Method", "Run", "Output"

# The backslash keeps rich from reading the bracket as markup.
SPEC_HELP = r"efficientnet-lite0, torchvision:NAME\[@WEIGHTS], timm:NAME or py:package.module:factory."


def option(panel: str, text: str, metavar: str | None = None, name: str | None = None) -> Any:
    """An option in a panel of the help, called after its parameter unless `name` is given."""
    names = () if name is None else (name,)
    return typer.Option(*names, help=text, metavar=metavar, rich_help_panel=panel)


Inputs = Annotated[
    list[str], typer.Argument(metavar="INPUT...", help="Files, folders, globs, manifests or tar shards.")
]
Spec = Annotated[str, option(MODEL, SPEC_HELP, "SPEC")]
Weights = Annotated[Path | None, option(MODEL, "Weights file, .pth or .safetensors.", "FILE")]
NumClasses = Annotated[int | None, option(MODEL, "Classes of the model's head.")]
ClassNames = Annotated[Path | None, option(MODEL, "Text file with one class name per line.", "FILE")]
Size = Annotated[str | None, option(MODEL, "Input size, 224 or 224x320 (height x width).", "SIZE")]
Mean = Annotated[str | None, option(MODEL, "Normalisation: mean of R,G,B in 0..1.", "R,G,B")]
Std = Annotated[str | None, option(MODEL, "Normalisation: deviation of R,G,B.", "R,G,B")]
Target = Annotated[str, option(METHOD, "Class to explain: predicted, an index or a name.", "CLASS")]
Layer = Annotated[str | None, option(METHOD, "Target layer; automatic unless given.", "NAME")]
FinerLayer = Annotated[
    str | None, option(METHOD, "Earlier layer of cfcam-fine; automatic unless given.", "NAME")
]
Preset = Annotated[str, option(METHOD, f"One of {', '.join(PRESETS)}.", "NAME")]
Engine = Annotated[str, option(RUN, f"auto, {', '.join(ENGINES)}.", "NAME")]
Device = Annotated[str, option(RUN, "auto, cpu, cuda or cuda:N.", "NAME")]
BatchSize = Annotated[int, option(RUN, "Images per forward pass.", "N")]
Precision = Annotated[str, option(RUN, f"Of the model: {', '.join(PRECISIONS)}.", "NAME")]
ChannelsLast = Annotated[bool, option(RUN, "NHWC layout of the model.")]
FoldBatchnorm = Annotated[bool, option(RUN, "Fold BatchNorm into the convolutions.")]
Workers = Annotated[
    int | None, option(RUN, f"Processes that decode and write; here {default_workers()}.", "N")
]
SampleTimeout = Annotated[float, option(RUN, "Seconds a worker may spend on an image.", "S")]
MaxErrors = Annotated[str, option(RUN, "Stop when more fail: a number, or a share.", "N|P%")]
RetryFailed = Annotated[bool, option(RUN, "Redo the samples that failed before.")]
Overwrite = Annotated[bool, option(RUN, "Remove the earlier run in DIR and begin anew.")]
PartSize = Annotated[int | None, option(RUN, "Samples of a part, 256.", "N")]
Rank = Annotated[int | None, option(RUN, "This process's share of the parts, from 0.", "K")]
WorldSize = Annotated[int | None, option(RUN, "Processes that share DIR; torchrun and Slurm say it.", "N")]
Json = Annotated[bool, option(OUTPUT, "One JSON object on stdout, nothing else.", name="--json")]


def fields_of(kind: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options among `given` that are fields of a dataclass, by name."""
    return {field.name: given[field.name] for field in dataclasses.fields(kind) if field.name in given}


def run_settings(kind: type[RunOptions], given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a run: every option that is called as a field of `kind` is that field. Raises ConfigError."""
    check_choices(given["engine"], given["precision"])
    index, count = share(given["rank"], given["world_size"], os.environ)
    settings = fields_of(kind, given) | {"rank": index, "world_size": count}
    if given["target"] == "predicted":
        settings["target"] = None
    if given["workers"] is None:
        settings["workers"] = default_workers()
    return settings


def say_share(options: RunOptions, out: Path) -> None:
    """Tells a process that shares the output folder which one it is."""
    if options.world_size > 1:
        say(f"this process is number {options.rank} of {options.world_size} (from 0) that share {out}")


def say_left(parts: int) -> None:
    """Tells that other processes have parts to do."""
    if parts:
        say(f"{parts} parts of other processes are not done yet")


def model_of(given: Mapping[str, Any]) -> Callable[[], LoadedModel]:
    """A function that loads the model as the options say, and that can be sent to other processes."""
    return functools.partial(
        load_model,
        given["model"],
        weights=given["weights"],
        num_classes=given["num_classes"],
        size=size_of(given["size"]),
        mean=three_of(given["mean"], "--mean"),
        std=three_of(given["std"], "--std"),
        class_names=given["class_names"],
    )


def check_choices(engine: str, precision: str) -> None:
    for what, choice, choices in (
        ("engine", engine, ("auto", *ENGINES)),
        ("precision", precision, PRECISIONS),
    ):
        if choice not in choices:
            raise ConfigError(f"unknown {what} {choice!r}; choose one of: {', '.join(choices)}")


def number_of(text: str, name: str) -> float:
    """The number that option `name` was given. Raises ConfigError."""
    try:
        return float(text)
    except ValueError as error:
        raise ConfigError(f"{name} takes numbers, got {text!r}") from error


def size_of(text: str | None) -> tuple[int, int] | None:
    """(height, width) of 224 or 224x320. Raises ConfigError."""
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ConfigError(f"--size must be like 224 or 224x320 (height x width), got {text!r}")
    return int(parts[0]), int(parts[-1])


def three_of(text: str | None, name: str) -> tuple[float, float, float] | None:
    """The three numbers that option `name` was given. Raises ConfigError."""
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) != 3:
        raise ConfigError(f"{name} must be three numbers like 0.5,0.5,0.5, got {text!r}")
    red, green, blue = (number_of(part, name) for part in parts)
    return red, green, blue
