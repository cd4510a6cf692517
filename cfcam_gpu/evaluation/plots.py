"""The plots of an evaluation as PNG files."""

from __future__ import annotations

import io
import itertools
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from cfcam_gpu._utils.optional import require
from cfcam_gpu.dataset.sources.open_image import open_image
from cfcam_gpu.dataset.store.atomic_files import os_reason, write_atomically
from cfcam_gpu.errors import InputError
from cfcam_gpu.evaluation.drawing import THEMES, draw_bars, draw_curves, draw_gallery, drawn_methods
from cfcam_gpu.evaluation.gallery import gallery
from cfcam_gpu.evaluation.summary import Summary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Number of images in `grid.png`.
IMAGES = 5


def check_plots() -> None:
    """Finds out whether plots can be drawn here.

    Raises:
        MissingPackageError: matplotlib, of the extra `plots`, is not installed.
    """
    require("matplotlib.figure", "plots")


def plot_file(name: str, theme: str) -> str:
    """The file of a plot in the folder of plots.

    Example:
        >>> plot_file("bars", "light"), plot_file("bars", "dark")
        ('bars.png', 'bars-dark.png')
    """
    return f"{name}.png" if theme == "light" else f"{name}-{theme}.png"


def write_plots(
    summary: Summary,
    table: pa.Table,
    out: Path,
    view: Callable[[Image.Image], npt.NDArray[np.uint8]],
    *,
    columns: Sequence[str] | None = None,
    images: int = IMAGES,
    open_original: Callable[[str], Image.Image] = open_image,
) -> list[Path]:
    """Writes `out/plots/curves.png`, `bars.png` and `grid.png`, and of each a file such as `curves-dark.png`.

    A plot that would be empty is not written.

    `grid.png` shows images with the maps of all methods. Of many methods, the first twelve are drawn (see
    `drawn_methods`), and the titles say so.

    Args:
        summary: the summary of the evaluation.
        table: its rows with the columns `sample_id`, `status`, `method`, `uri`, `target_name`, `target_prob`,
            `blank` and `grid`; those of the images that may be shown are enough.
        out: the evaluation's folder.
        view: from an image to what the model sees of it, (H,W,3) uint8, as `Preprocess.view`.
        columns: columns of `bars.png`; None: all but those whose values are all 0 or missing.
        images: number of images in `grid.png`.
        open_original: opens an image by its URI.

    Returns:
        The paths of the files written.

    Raises:
        MissingPackageError: matplotlib, of the extra `plots`, is not installed.
        ConfigError: an unknown column.
        InputError: a file cannot be written.
    """
    check_plots()
    import matplotlib

    rows = gallery(table, drawn_methods(summary), view, images, open_original)
    plots: dict[str, Callable[[], Figure | None]] = {
        "curves": lambda: draw_curves(summary),
        "bars": lambda: draw_bars(summary, columns),
        "grid": lambda: draw_gallery(summary, rows),
    }
    written = []
    for (name, draw), (theme, colours) in itertools.product(plots.items(), THEMES.items()):
        path = out / "plots" / plot_file(name, theme)
        # Names of files and classes may hold dollar signs, which are no formulas, and characters that the font lacks.
        style: Any = {"text.parse_math": False, "font.size": 11, **colours}
        with matplotlib.rc_context(style), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            try:
                path.unlink(missing_ok=True)
                if figure := draw():
                    write_atomically(path, _png(figure))
                    written.append(path)
            except OSError as error:
                raise InputError(f"cannot write {path}: {os_reason(error)}") from error
    return written


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110, metadata={"Software": None})
    return content.getvalue()
