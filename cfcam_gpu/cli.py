"""The command `cfcam`: argument parsing and printing only."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text
from typer.core import TyperCommand, TyperGroup

import cfcam_gpu
from cfcam_gpu import demo as demo_job
from cfcam_gpu import doctor as doctor_job
from cfcam_gpu.config import FILTERS, PRESETS, WEIGHTINGS, CFCAMConfig
from cfcam_gpu.dataset.sources import find_images
from cfcam_gpu.engines import ENGINES, resolve_engine
from cfcam_gpu.errors import CFCAMError, ConfigError
from cfcam_gpu.explainer import CFCAM
from cfcam_gpu.job import (
    SAVES,
    Row,
    Tally,
    check_save,
    explain_images,
    model_errors,
    resolve_device,
)
from cfcam_gpu.layers import list_layers
from cfcam_gpu.models import LoadedModel, load_model
from cfcam_gpu.overlay import COLORMAPS, check_style
from cfcam_gpu.prepare import PRECISIONS, prepared

FAILED, USAGE, SKIPPED, INTERRUPTED = 1, 2, 3, 130

#: With more rows than this only the blank ones are listed.
MOST_ROWS = 50


#: What follows the help of a command; typer itself would run the lines together.
EXAMPLES = {
    "cfcam": """
 Examples:
   cfcam demo
   cfcam explain photos --out maps
   cfcam explain photos --out maps --target "Egyptian cat" --cmap jet
   cfcam layers torchvision:resnet50
   cfcam doctor

 Exit status: 0 all well, 1 failed, 2 wrong usage, 3 done but some inputs were
 skipped (each is named, with the reason, on stderr).
""",
    "explain": """
 Examples:
   cfcam explain cat.jpg dog.jpg --out maps
   cfcam explain photos "more/*.png" --out maps --save overlay,heatmap
   cfcam explain photos --out maps --model torchvision:resnet50@DEFAULT
   cfcam explain xrays --out maps --model torchvision:resnet50 \\
       --num-classes 2 --weights best_model.pth --layer layer4.2
""",
    "layers": """
 Examples:
   cfcam layers efficientnet-lite0
   cfcam layers torchvision:resnet50 --size 320x320
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
            _say(f"error: {error}")
            raise typer.Exit(USAGE if isinstance(error, ConfigError) else FAILED) from error
        except KeyboardInterrupt as error:
            _say("interrupted; files written so far are whole")
            raise typer.Exit(INTERRUPTED) from error


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
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT...", help="Files, folders or globs.")],
    out: Annotated[Path, _option(OUTPUT, "Folder of the pictures, NAME_cfcam.png.", "DIR")],
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
    save: Annotated[str, _option(OUTPUT, f"Comma-separated list of {', '.join(SAVES)}.", "LIST")] = "overlay",
    as_json: Json = False,
) -> None:
    """Explain images and write the heatmap over each of them.

    What is not given of the method comes from the preset. A file that cannot
    be read is named with its reason and skipped; the others are explained.
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
    saves = list(dict.fromkeys(part.strip() for part in save.split(",") if part.strip()))
    _check_choices(engine, precision, cmap, alpha, saves)
    where = resolve_device(device)
    sources = find_images(inputs, exclude=out)
    loaded = load_model(
        model,
        weights=weights,
        num_classes=num_classes,
        size=_size(size),
        mean=_three(mean, "--mean"),
        std=_three(std, "--std"),
        class_names=class_names,
    )
    index = None if target == "predicted" else loaded.class_index(target)
    example = torch.zeros(1, 3, *loaded.preprocess.size)
    with model_errors(example.shape):
        ready = prepared(
            loaded.model,
            example,
            precision=precision,
            channels_last=channels_last,
            fold_batchnorm=fold_batchnorm,
        )
    loaded = dataclasses.replace(loaded, model=ready)
    with _explainer(loaded, where, layer, config, engine) as cam:
        rows = explain_images(
            loaded,
            cam,
            sources,
            out,
            target=index,
            batch_size=batch_size,
            device=where,
            cmap=cmap,
            alpha=alpha,
            save=saves,
        )
        outcome = _follow(rows, len(sources), keep_all=as_json)
        layer_name = cam.layer_name
    if as_json:
        about = {
            "version": cfcam_gpu.__version__,
            "model": loaded.spec,
            "weights": loaded.weights,
            "layer": layer_name,
            "engine": resolve_engine(engine, where),
            "device": str(where),
            "precision": precision,
            "channels_last": channels_last,
            "fold_batchnorm": fold_batchnorm,
            "preset": preset,
            "config": dataclasses.asdict(config),
            "target": target,
        }
        _print_json({**about, **outcome.as_json(out)})
    else:
        outcome.print(out, saves[0], show_predicted=index is not None)
    _finish(outcome.tally)


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
        _print_json({"model": loaded.spec, "layers": [dataclasses.asdict(info) for info in found]})
        return
    _print_table(
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

    Writes each photo, its heatmap and its overlay, and one contact sheet.
    """
    sources, missing = demo_job.find_photos()
    loaded = load_model(demo_job.MODEL)
    for sentence in missing:
        _say(f"skipped {sentence}")
    with _explainer(loaded, torch.device("cpu")) as cam:
        rows = explain_images(loaded, cam, sources, out, save=list(SAVES))
        # The folder of the installed package tells nobody anything.
        rows = (dataclasses.replace(row, file=Path(row.file).name) for row in rows)
        outcome = _follow(rows, len(sources), keep_all=True)
        sheet = out / "contact_sheet.png"
        demo_job.write_sheet(sheet, loaded, cam, sources, outcome.rows)
    outcome.tally.skipped += len(missing)
    if as_json:
        _print_json({"model": loaded.spec, **outcome.as_json(out), "contact_sheet": str(sheet)})
    else:
        outcome.print(out, "heatmap")
        typer.echo(f"contact sheet: {sheet}")
    _finish(outcome.tally)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Show versions, devices, engines and optional packages, and explain two tiny images as a check.

    Exit status 1 if the check fails.
    """
    findings = doctor_job.examine()
    if as_json:
        _print_json({section: [dataclasses.asdict(f) for f in found] for section, found in findings.items()})
    else:
        rows = [
            (section if first else "", f.name, "ok" if f.usable else "no", f.detail)
            for section, found in findings.items()
            for first, f in zip([True] + [False] * len(found), found, strict=False)
        ]
        _print_table({"section": "left", "what": "left", "usable": "left", "version or reason": "left"}, rows)
    if not all(f.usable for f in findings["check"]):
        raise typer.Exit(FAILED)


@dataclasses.dataclass
class _Outcome:
    """What a run did: counts, the rows kept for printing, and the time it took."""

    total: int
    tally: Tally
    rows: list[Row]
    seconds: float

    def as_json(self, out: Path) -> dict[str, Any]:
        return {
            "out": str(out),
            "counts": dataclasses.asdict(self.tally),
            "seconds": round(self.seconds, 3),
            "images": [dataclasses.asdict(row) for row in self.rows],
        }

    def print(self, out: Path, kind: str, show_predicted: bool = False) -> None:
        few = self.total <= MOST_ROWS
        rows = [row for row in self.rows if row.status == "ok" and (few or row.blank)][:MOST_ROWS]
        columns = [c for c in _COLUMNS if c[0] != "predicted" or show_predicted]
        if rows:
            _print_table(
                {**{heading: justify for heading, justify, _ in columns}, kind: "left"},
                [
                    (*(show(row) for _, _, show in columns), str(Path(row.outputs[kind]).relative_to(out)))
                    for row in rows
                ],
            )
        tally, rate = self.tally, self.tally.ok / self.seconds
        typer.echo(
            f"explained {tally.ok} of {self.total} images in {self.seconds:.1f} s ({rate:.1f} images/s), "
            f"{tally.blank} blank, {tally.skipped} skipped; pictures in {_printable(out)}"
        )


def _share(value: float | None) -> str:
    if value is None:
        return ""
    return "<0.1%" if 0 < value < 0.0005 else f"{value:.1%}"


#: Heading, alignment and text of the result table's columns.
_COLUMNS: list[tuple[str, str, Callable[[Row], str]]] = [
    ("file", "left", lambda row: row.file),
    ("class", "left", lambda row: row.class_name or ""),
    ("probability", "right", lambda row: _share(row.probability)),
    ("predicted", "left", lambda row: row.predicted_name or ""),
    ("clusters", "right", lambda row: str(row.n_clusters)),
    ("noise", "right", lambda row: _share(row.noise_fraction)),
    ("blank", "left", lambda row: "yes" if row.blank else "no"),
]


def _follow(rows: Iterable[Row], total: int, keep_all: bool) -> _Outcome:
    """Runs the job with a progress bar on stderr (on a terminal), names what is skipped as it happens."""
    console = Console(stderr=True)
    outcome = _Outcome(total, Tally(), [], 0.0)
    start = time.perf_counter()
    bar = Progress(
        TextColumn("explaining"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task("", total=total)
        for row in rows:
            outcome.tally.add(row)
            if keep_all or total <= MOST_ROWS or row.blank:
                outcome.rows.append(row)
            if row.status != "ok":
                console.print(
                    Text(f"skipped {_printable(row.file)}: {_printable(row.error)}"), soft_wrap=True
                )
            bar.advance(task)
    outcome.seconds = time.perf_counter() - start
    return outcome


def _finish(tally: Tally) -> None:
    if tally.skipped and not tally.ok:
        raise CFCAMError("none of the inputs could be explained; the reasons stand above")
    if tally.skipped:
        raise typer.Exit(SKIPPED)


@contextmanager
def _explainer(
    loaded: LoadedModel,
    device: torch.device,
    layer: str | None = None,
    config: CFCAMConfig | None = None,
    engine: str = "auto",
) -> Iterator[CFCAM]:
    with model_errors((1, 3, *loaded.preprocess.size)):
        loaded.model.to(device)
    with CFCAM(loaded.model, layer, config, engine, on_invalid="flag") as cam:
        yield cam


def _check_choices(engine: str, precision: str, cmap: str, alpha: float, saves: list[str]) -> None:
    for what, choice, choices in (
        ("engine", engine, ("auto", *ENGINES)),
        ("precision", precision, tuple(PRECISIONS)),
    ):
        if choice not in choices:
            raise ConfigError(f"unknown {what} {choice!r}; choose one of: {', '.join(choices)}")
    check_style(cmap, alpha)
    check_save(saves)


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


def _printable(value: object) -> str:
    """Text that any terminal takes: bytes of a file's name that are not UTF-8 come out as escapes."""
    return str(value).encode("utf-8", "backslashreplace").decode()


def _say(line: str) -> None:
    typer.echo(_printable(line), err=True)


def _print_json(content: dict[str, Any]) -> None:
    typer.echo(json.dumps(content, indent=2, allow_nan=False))


def _print_table(columns: dict[str, Any], rows: Iterable[tuple[str, ...]]) -> None:
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 120)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading, justify in columns.items():
        table.add_column(heading, justify=justify, overflow="fold")
    for row in rows:
        table.add_row(*(Text(_printable(cell)) for cell in row))
    console.print(table)
