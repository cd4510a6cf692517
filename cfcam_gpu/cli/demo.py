"""`cfcam demo`. PyTorch is imported inside the function, so that its help is quick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import click

from cfcam_gpu._utils.option import OUTPUT, Option
from cfcam_gpu.cli.demo_photos import MODEL, find_photos
from cfcam_gpu.cli.interrupt import raise_again
from cfcam_gpu.cli.options import Json, command
from cfcam_gpu.cli.printing import print_json, say
from cfcam_gpu.cli.status import finish


@command()
def demo(
    out: Annotated[Path, Option("Folder of the pictures and the contact sheet.", OUTPUT, "DIR")] = Path(
        "cfcam-demo"
    ),
    *,
    as_json: Json = False,
) -> None:
    """Explain photos that ship with installed packages, by a packaged ImageNet model; no network.

    Writes each photo, its heatmap and its overlay, one contact sheet, and a page to look through them.
    """
    samples, missing = find_photos()
    for sentence in missing:
        say(f"skipped {sentence}")

    from cfcam_gpu._utils.allocator import keep_freed_memory
    from cfcam_gpu.cli.demo_pictures import file_name, is_demo, picture_files, write_pictures
    from cfcam_gpu.cli.outcome import RunOutcome
    from cfcam_gpu.cli.progress import Follower, write_report_with_progress
    from cfcam_gpu.dataset.run import explain_dataset
    from cfcam_gpu.dataset.store.results import open_results
    from cfcam_gpu.models.load import load_model

    raise_again()
    keep_freed_memory()
    loaded = load_model(MODEL)
    with Follower() as follower:
        overwrite = is_demo(out)
        summary = explain_dataset(samples, out, loaded, observer=follower, device="cpu", overwrite=overwrite)
    results = open_results(out)
    sheet = write_pictures(loaded, results)
    outcome = RunOutcome(summary, results, "heatmap", picture_files, file_name)
    page = write_report_with_progress(out)
    summary.tally.skipped += len(missing)
    if as_json:
        about = {"model": loaded.spec, **outcome.as_json()}
        print_json({**about, "contact_sheet": str(sheet), "report": str(page)})
    else:
        outcome.print()
        click.echo(f"contact sheet: {sheet}")
        click.echo(f"report: {page}")
    finish(summary.tally)
