"""`cfcam demo`, `cfcam report` and `cfcam export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cfcam_gpu.cli import demo as demo_job
from cfcam_gpu.cli import options as o
from cfcam_gpu.cli.app import finish
from cfcam_gpu.cli.printing import Follower, Outcome, picture_progress, print_json, say
from cfcam_gpu.dataset.run import explain_dataset
from cfcam_gpu.dataset.store.export import FORMATS, export
from cfcam_gpu.dataset.store.results import open_results
from cfcam_gpu.images.colormaps import COLORMAPS
from cfcam_gpu.models import load_model
from cfcam_gpu.report.build import write_report


def demo(
    out: Annotated[Path, o.option(o.OUTPUT, "Folder of the pictures and the contact sheet.", "DIR")] = Path(
        "cfcam-demo"
    ),
    as_json: o.Json = False,
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
    page = make_report(out)
    summary.tally.skipped += len(missing)
    if as_json:
        about = {"model": loaded.spec, **outcome.as_json()}
        print_json({**about, "contact_sheet": str(sheet), "report": str(page)})
    else:
        outcome.print()
        typer.echo(f"contact sheet: {sheet}")
        typer.echo(f"report: {page}")
    finish(summary.tally)


def report(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder that cfcam explain wrote.")],
    page: Annotated[
        Path | None, typer.Option("--out", help="The page; OUT/report.html.", metavar="FILE")
    ] = None,
) -> None:
    """Write a page to look through the results of a run; it opens from disk, without a server."""
    typer.echo(f"report: {make_report(out, page)}")


def make_report(out: Path, page: Path | None = None) -> Path:
    """Writes the report with a progress bar on a terminal."""
    with picture_progress() as on_progress:
        return write_report(out, page, on_progress=on_progress)


def export_results(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder that cfcam explain wrote.")],
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="New file or folder.")],
    to: Annotated[str, o.option(o.OUTPUT, f"One of {', '.join(FORMATS)}.", "FORMAT")],
    size: Annotated[
        str | None, o.option(o.OUTPUT, "Heatmaps of npz and zarr, 224 or 224x320; the model's.", "SIZE")
    ] = None,
    cmap: Annotated[str, o.option(o.OUTPUT, f"Colours of png: {', '.join(COLORMAPS)}.", "NAME")] = "inferno",
) -> None:
    """Write the results of a run in another format."""
    count = export(open_results(out), to, destination, size=o.size_of(size), cmap=cmap)
    typer.echo(f"exported {count} samples to {destination}")
