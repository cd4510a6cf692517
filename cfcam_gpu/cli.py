"""The command `cfcam`: argument parsing and printing only."""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from typer.core import TyperCommand, TyperGroup

import cfcam_gpu
from cfcam_gpu import demo as demo_job
from cfcam_gpu import doctor as doctor_job
from cfcam_gpu.config import FILTERS, PRESETS, WEIGHTINGS, CFCAMConfig
from cfcam_gpu.dataset.export import FORMATS, export
from cfcam_gpu.dataset.observer import Tally
from cfcam_gpu.dataset.options import OVERLAYS, RunOptions, default_workers, share
from cfcam_gpu.dataset.results import open_results
from cfcam_gpu.dataset.run import explain_dataset
from cfcam_gpu.device import model_errors
from cfcam_gpu.engines import ENGINES
from cfcam_gpu.errors import CFCAMError, ConfigError, TooManyErrors
from cfcam_gpu.layers import list_layers
from cfcam_gpu.models import LoadedModel, load_model
from cfcam_gpu.overlay import COLORMAPS
from cfcam_gpu.prepare import PRECISIONS
from cfcam_gpu.printing import Follower, Outcome, picture_progress, print_json, print_table, say
from cfcam_gpu.report.build import write_report

FAILED, USAGE, SKIPPED, TOO_MANY_ERRORS = 1, 2, 3, 4


#: What follows the help of a command; typer itself would run the lines together.
EXAMPLES = {
    "cfcam": """
 Examples:
   cfcam demo
   cfcam explain photos --out maps
   cfcam explain photos --out maps --target "Egyptian cat" --cmap jet
   cfcam report maps
   cfcam layers torchvision:resnet50
   cfcam doctor

 Exit status: 0 all well, 1 failed, 2 wrong usage, 3 done but some inputs were
 skipped (each is named, with the reason, on stderr), 4 stopped because too many
 were, 130 and 143 interrupted. The same command goes on where a run ended.
""",
    "explain": """
 Examples:
   cfcam explain cat.jpg dog.jpg --out maps
   cfcam explain photos "more/*.png" --out maps --overlays jpeg
   cfcam explain train.csv --out maps --overlays none --workers 8
   cfcam explain photos --out maps --model torchvision:resnet50@DEFAULT
   cfcam explain xrays --out maps --model torchvision:resnet50 \\
       --num-classes 2 --weights best_model.pth --layer layer4.2
""",
    "layers": """
 Examples:
   cfcam layers efficientnet-lite0
   cfcam layers torchvision:resnet50 --size 320x320
""",
    "export": """
 Examples:
   cfcam export maps --to npz maps.npz --size 56
   cfcam export maps --to png heatmaps --cmap jet
""",
}


class _Command(TyperCommand):
    """A command whose help ends with examples."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        super().format_help(ctx, formatter)
        typer.echo(EXAMPLES[str(self.name)].strip("\n"))


class _Commands(TyperGroup):
    """Commands whose foreseeable failures end in one line on stderr and an exit status."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        super().format_help(ctx, formatter)
        typer.echo(EXAMPLES["cfcam"].strip("\n"))

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except CFCAMError as error:
            say(f"error: {error}")
            raise typer.Exit(_status(error)) from error
        except KeyboardInterrupt as error:
            say("interrupted; what is finished is kept, the same command goes on from there")
            raise typer.Exit(128 + getattr(error, "number", signal.SIGINT)) from error


def _status(error: CFCAMError) -> int:
    for kind, status in ((ConfigError, USAGE), (TooManyErrors, TOO_MANY_ERRORS)):
        if isinstance(error, kind):
            return status
    return FAILED


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Entry point of the command `cfcam`."""
    app(prog_name="cfcam")


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"cfcam {cfcam_gpu.__version__}")
        raise typer.Exit


@app.callback()
def top(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """CF-CAM heatmaps: which parts of an image speak for a class."""


MODEL, METHOD, RUN, OUTPUT = "Model", "Method", "Run", "Output"

# The backslash keeps rich from reading the bracket as markup.
SPEC_HELP = r"efficientnet-lite0, torchvision:NAME\[@WEIGHTS], timm:NAME or py:package.module:factory."
Weights = Annotated[
    Path | None,
    typer.Option(help="Weights file, .pth or .safetensors.", metavar="FILE", rich_help_panel=MODEL),
]
NumClasses = Annotated[int | None, typer.Option(help="Classes of the model's head.", rich_help_panel=MODEL)]
Size = Annotated[
    str | None,
    typer.Option(help="Input size, 224 or 224x320 (height x width).", metavar="SIZE", rich_help_panel=MODEL),
]
Json = Annotated[
    bool, typer.Option("--json", help="One JSON object on stdout, nothing else.", rich_help_panel=OUTPUT)
]


def _option(panel: str, text: str, metavar: str | None = None) -> Any:
    return typer.Option(help=text, metavar=metavar, rich_help_panel=panel)


@app.command(cls=_Command)
def explain(
    inputs: Annotated[
        list[str], typer.Argument(metavar="INPUT...", help="Files, folders, globs, manifests or tar shards.")
    ],
    out: Annotated[Path, _option(OUTPUT, "Folder of the results and pictures, NAME_cfcam.png.", "DIR")],
    model: Annotated[str, _option(MODEL, SPEC_HELP, "SPEC")] = demo_job.MODEL,
    weights: Weights = None,
    num_classes: NumClasses = None,
    class_names: Annotated[
        Path | None, _option(MODEL, "Text file with one class name per line.", "FILE")
    ] = None,
    size: Size = None,
    mean: Annotated[str | None, _option(MODEL, "Normalisation: mean of R,G,B in 0..1.", "R,G,B")] = None,
    std: Annotated[str | None, _option(MODEL, "Normalisation: deviation of R,G,B.", "R,G,B")] = None,
    target: Annotated[
        str, _option(METHOD, "Class to explain: predicted, an index or a name.", "CLASS")
    ] = "predicted",
    layer: Annotated[str | None, _option(METHOD, "Target layer; automatic unless given.", "NAME")] = None,
    preset: Annotated[str, _option(METHOD, f"One of {', '.join(PRESETS)}.", "NAME")] = "default",
    dominant_percentile: Annotated[
        str | None, _option(METHOD, "Channels from this percentile are dominant; or none.", "P")
    ] = None,
    eps_percentile: Annotated[
        float | None, _option(METHOD, "Percentile of the distances that is eps.", "P")
    ] = None,
    min_samples_fraction: Annotated[
        float | None, _option(METHOD, "DBSCAN's min_samples, as a share of the channels.", "F")
    ] = None,
    filter: Annotated[str | None, _option(METHOD, f"One of {', '.join(FILTERS)}.", "NAME")] = None,
    sigma_space: Annotated[float | None, _option(METHOD, "Filter's width, in grid cells.", "S")] = None,
    sigma_range: Annotated[float | None, _option(METHOD, "Filter's range, in gradients.", "S")] = None,
    diameter: Annotated[int | None, _option(METHOD, "Filter's window in cells, odd.", "D")] = None,
    weighting: Annotated[str | None, _option(METHOD, f"One of {', '.join(WEIGHTINGS)}.", "NAME")] = None,
    engine: Annotated[str, _option(RUN, f"auto, {', '.join(ENGINES)}.", "NAME")] = "auto",
    device: Annotated[str, _option(RUN, "auto, cpu, cuda or cuda:N.", "NAME")] = "auto",
    batch_size: Annotated[int, _option(RUN, "Images per forward pass.", "N")] = 16,
    precision: Annotated[str, _option(RUN, f"Of the model: {', '.join(PRECISIONS)}.", "NAME")] = "float32",
    channels_last: Annotated[bool, _option(RUN, "NHWC layout of the model.")] = False,
    fold_batchnorm: Annotated[bool, _option(RUN, "Fold BatchNorm into the convolutions.")] = False,
    cmap: Annotated[str, _option(OUTPUT, f"Colours: {', '.join(COLORMAPS)}.", "NAME")] = "inferno",
    alpha: Annotated[float, _option(OUTPUT, "Share of the heatmap in the overlay, 0..1.", "A")] = 0.4,
    overlays: Annotated[str, _option(OUTPUT, f"Pictures: {', '.join(OVERLAYS)}.", "KIND")] = "png",
    workers: Annotated[
        int | None, _option(RUN, f"Processes that decode and write; here {default_workers()}.", "N")
    ] = None,
    sample_timeout: Annotated[float, _option(RUN, "Seconds a worker may spend on an image.", "S")] = 60.0,
    max_errors: Annotated[str, _option(RUN, "Stop when more fail: a number, or a share.", "N|P%")] = "1%",
    retry_failed: Annotated[bool, _option(RUN, "Redo the samples that failed before.")] = False,
    overwrite: Annotated[bool, _option(RUN, "Remove the earlier run in DIR and begin anew.")] = False,
    shard_size: Annotated[int | None, _option(RUN, "Samples of a shard, 256.", "N")] = None,
    shard_index: Annotated[
        int | None, _option(RUN, "This process's share of the shards, from 0.", "K")
    ] = None,
    num_shards: Annotated[
        int | None, _option(RUN, "Processes that share DIR; torchrun and Slurm say it.", "N")
    ] = None,
    with_report: Annotated[
        bool, typer.Option("--report", help="Write DIR/report.html as well.", rich_help_panel=OUTPUT)
    ] = False,
    as_json: Json = False,
) -> None:
    """Explain images and write the heatmap over each of them.

    What is not given of the method comes from the preset. A file that cannot
    be read is named with its reason and skipped; the others are explained.
    The same command goes on with a run that was ended.
    """
    overrides = {
        "eps_percentile": eps_percentile,
        "min_samples_fraction": min_samples_fraction,
        "filter": filter,
        "sigma_space": sigma_space,
        "sigma_range": sigma_range,
        "diameter": diameter,
        "weighting": weighting,
    }
    given = {name: value for name, value in overrides.items() if value is not None}
    config = CFCAMConfig.preset(preset, **given, **_dominant(dominant_percentile))
    _check_choices(engine, precision)
    index, count = share(shard_index, num_shards, os.environ)
    options = RunOptions(
        config=config,
        layer=layer,
        target=None if target == "predicted" else target,
        engine=engine,
        device=device,
        precision=precision,
        channels_last=channels_last,
        fold_batchnorm=fold_batchnorm,
        batch_size=batch_size,
        workers=default_workers() if workers is None else workers,
        sample_timeout=sample_timeout,
        shard_size=shard_size,
        shard_index=index,
        num_shards=count,
        overlays=overlays,
        cmap=cmap,
        alpha=alpha,
        max_errors=max_errors,
        retry_failed=retry_failed,
        overwrite=overwrite,
    )
    if count > 1:
        say(f"this process is number {index} of {count} (from 0) that share {out}")

    def loaded() -> LoadedModel:
        return load_model(
            model,
            weights=weights,
            num_classes=num_classes,
            size=_size(size),
            mean=_three(mean, "--mean"),
            std=_three(std, "--std"),
            class_names=class_names,
        )

    with Follower() as follower:
        summary = explain_dataset(inputs, out, loaded, options, observer=follower)
    results = open_results(out)
    outcome = Outcome(summary, results)
    if as_json:
        about = {
            "version": cfcam_gpu.__version__,
            "model": results.run["fingerprint"]["model"],
            "weights": results.run["info"]["weights"],
            "layer": summary.layer,
            "engine": summary.engine,
            "device": summary.device,
            "precision": precision,
            "channels_last": channels_last,
            "fold_batchnorm": fold_batchnorm,
            "preset": preset,
            "config": dataclasses.asdict(config),
            "target": target,
        }
        print_json({**about, **outcome.as_json()})
    else:
        outcome.print(show_predicted=target != "predicted")
    if with_report:
        say(f"report: {_report(out)}")
    if summary.others_left:
        say(f"{summary.others_left} shards of other processes are not done yet")
    _finish(summary.tally)


@app.command(cls=_Command)
def layers(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=SPEC_HELP)],
    weights: Weights = None,
    num_classes: NumClasses = None,
    size: Size = None,
    as_json: Json = False,
) -> None:
    """List the layers that can be explained, with their maps' shapes and the automatic choice."""
    loaded = load_model(model, weights=weights, num_classes=num_classes, size=_size(size))
    images = torch.rand(1, 3, *loaded.preprocess.size, generator=torch.Generator().manual_seed(0))
    with model_errors(images.shape):
        found = list_layers(loaded.model, images)
    if as_json:
        print_json({"model": loaded.spec, "layers": [dataclasses.asdict(info) for info in found]})
        return
    print_table(
        {"layer": "left", "type": "left", "channels x height x width": "right", "choice": "left"},
        [
            (info.name, info.type, " x ".join(map(str, info.shape)), "automatic" if info.chosen else "")
            for info in found
        ],
    )


@app.command()
def demo(
    out: Annotated[Path, _option(OUTPUT, "Folder of the pictures and the contact sheet.", "DIR")] = Path(
        "cfcam-demo"
    ),
    as_json: Json = False,
) -> None:
    """Explain photos that ship with installed packages, by a packaged ImageNet model; no network.

    Writes each photo, its heatmap and its overlay, one contact sheet, and a page to look through them.
    """
    samples, missing = demo_job.find_photos()
    for sentence in missing:
        say(f"skipped {sentence}")
    loaded = load_model(demo_job.MODEL)
    with Follower() as follower:
        overwrite = demo_job.is_demo(out)
        summary = explain_dataset(samples, out, loaded, observer=follower, device="cpu", overwrite=overwrite)
    results = open_results(out)
    sheet = demo_job.write_pictures(loaded, results)
    outcome = Outcome(summary, results, "heatmap", demo_job.files, demo_job.photo_name)
    page = _report(out)
    summary.tally.skipped += len(missing)
    if as_json:
        about = {"model": loaded.spec, **outcome.as_json()}
        print_json({**about, "contact_sheet": str(sheet), "report": str(page)})
    else:
        outcome.print()
        typer.echo(f"contact sheet: {sheet}")
        typer.echo(f"report: {page}")
    _finish(summary.tally)


@app.command()
def report(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder that cfcam explain wrote.")],
    page: Annotated[
        Path | None, typer.Option("--out", help="The page; OUT/report.html.", metavar="FILE")
    ] = None,
) -> None:
    """Write a page to look through the results of a run; it opens from disk, without a server."""
    typer.echo(f"report: {_report(out, page)}")


def _report(out: Path, page: Path | None = None) -> Path:
    """Writes the report with a progress bar on a terminal."""
    with picture_progress() as on_progress:
        return write_report(out, page, on_progress=on_progress)


@app.command("export", cls=_Command)
def export_results(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder that cfcam explain wrote.")],
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="New file or folder.")],
    to: Annotated[str, _option(OUTPUT, f"One of {', '.join(FORMATS)}.", "FORMAT")],
    size: Annotated[
        str | None, _option(OUTPUT, "Heatmaps of npz and zarr, 224 or 224x320; the model's.", "SIZE")
    ] = None,
    cmap: Annotated[str, _option(OUTPUT, f"Colours of png: {', '.join(COLORMAPS)}.", "NAME")] = "inferno",
) -> None:
    """Write the results of a run in another format."""
    count = export(open_results(out), to, destination, size=_size(size), cmap=cmap)
    typer.echo(f"exported {count} samples to {destination}")


@app.command()
def doctor(as_json: Json = False) -> None:
    """Show versions, devices, engines and optional packages, and explain two tiny images as a check.

    Exit status 1 if the check fails.
    """
    findings = doctor_job.examine()
    if as_json:
        print_json({section: [dataclasses.asdict(f) for f in found] for section, found in findings.items()})
    else:
        rows = [
            (section if first else "", f.name, "ok" if f.usable else "no", f.detail)
            for section, found in findings.items()
            for first, f in zip([True] + [False] * len(found), found, strict=False)
        ]
        print_table({"section": "left", "what": "left", "usable": "left", "version or reason": "left"}, rows)
    if not all(f.usable for f in findings["check"]):
        raise typer.Exit(FAILED)


def _finish(tally: Tally) -> None:
    if tally.skipped and not tally.ok:
        raise CFCAMError("none of the inputs could be explained; the reasons stand above")
    if tally.skipped:
        raise typer.Exit(SKIPPED)


def _check_choices(engine: str, precision: str) -> None:
    for what, choice, choices in (
        ("engine", engine, ("auto", *ENGINES)),
        ("precision", precision, tuple(PRECISIONS)),
    ):
        if choice not in choices:
            raise ConfigError(f"unknown {what} {choice!r}; choose one of: {', '.join(choices)}")


def _dominant(text: str | None) -> dict[str, float | None]:
    """The override of --dominant-percentile: absent, `none`, or a number."""
    if text is None:
        return {}
    return {"dominant_percentile": None if text == "none" else _number(text, "--dominant-percentile")}


def _number(text: str, option: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ConfigError(f"{option} takes numbers, got {text!r}") from error


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ConfigError(f"--size must be like 224 or 224x320 (height x width), got {text!r}")
    return int(parts[0]), int(parts[-1])


def _three(text: str | None, option: str) -> tuple[float, float, float] | None:
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) != 3:
        raise ConfigError(f"{option} must be three numbers like 0.5,0.5,0.5, got {text!r}")
    red, green, blue = (_number(part, option) for part in parts)
    return red, green, blue
