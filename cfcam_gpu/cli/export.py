"""`cfcam export`. What writes the formats is imported inside the function, so that its help is quick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import click

from cfcam_gpu._utils.messages import plural, printable
from cfcam_gpu._utils.option import OUTPUT, Option, image_size
from cfcam_gpu.cli.interrupt import raise_again
from cfcam_gpu.cli.options import Argument, Results, command, parse
from cfcam_gpu.dataset.options import EXPORT_FORMATS
from cfcam_gpu.images.colormaps import COLORMAPS

EXAMPLES = """
 Examples:
   cfcam export maps --to npz maps.npz --size 56
   cfcam export maps --to png heatmaps --cmap jet
   cfcam export maps --to csv maps.csv
"""


@command(examples=EXAMPLES)
def export(
    out: Results,
    destination: Annotated[Path, Argument("New file or folder.", "DEST")],
    *,
    to: Annotated[str, Option(f"One of {', '.join(EXPORT_FORMATS)}.", OUTPUT, "FORMAT")],
    size: Annotated[
        str | None, Option("Heatmaps of npz and zarr, 224 or 224x320; the model's.", OUTPUT, "SIZE")
    ] = None,
    cmap: Annotated[str, Option(f"Colours of png: {', '.join(COLORMAPS)}.", OUTPUT, "NAME")] = "inferno",
) -> None:
    """Write the results of a run in another format."""
    map_size = None if size is None else parse("size", image_size, size)

    from cfcam_gpu.dataset.store.export import export as export_results
    from cfcam_gpu.dataset.store.results import open_results

    raise_again()
    results = open_results(out)
    count = export_results(results, to, destination, size=map_size, cmap=cmap)
    what = "row" if results.has_several_targets else "sample"
    click.echo(printable(f"exported {plural(count, what)} to {destination}"))
