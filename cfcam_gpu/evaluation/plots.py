"""The pictures of an evaluation as files."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from cfcam_gpu.dataset.store.atomic_files import os_reason, write_atomically
from cfcam_gpu.errors import InputError, ModelError
from cfcam_gpu.evaluation.drawing import draw_bars, draw_curves, draw_grid, shown
from cfcam_gpu.evaluation.gallery import gallery
from cfcam_gpu.evaluation.tables import Summary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Rows of the grid.
IMAGES = 5


def check_plots() -> None:
    """Raises ModelError where plots cannot be made, for runs that are to find out before they begin."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ModelError("matplotlib is not installed; run: pip install 'cfcam-gpu[plots]'") from error


def write_plots(
    summary: Summary,
    table: pa.Table,
    out: Path,
    view: Callable[[Image.Image], npt.NDArray[np.uint8]],
    *,
    columns: Sequence[str] | None = None,
    images: int = IMAGES,
) -> list[Path]:
    """Writes `out/plots/curves.png`, `bars.png` and `grid.png`; those without anything to show are left out.

    Args:
        summary, table: what `summarise` gave, and was given; `table` with `uri` and `grid`.
        out: the evaluation's folder.
        view: an image to what the model sees of it, (H,W,3) uint8: `Preprocess.view`.
        columns: of the bars; None: all that have values.
        images: rows of the grid.

    Returns:
        The files written. Of more than `drawing.METHODS` methods the first are shown, and the titles say so.

    Raises:
        ModelError: matplotlib is not installed (extra `plots`).
        ConfigError: an unknown column.
        InputError: the files cannot be written.
    """
    check_plots()
    import matplotlib

    pictures = {
        "curves": lambda: draw_curves(summary),
        "bars": lambda: draw_bars(summary, columns),
        "grid": lambda: draw_grid(summary, gallery(table, shown(summary), view, images)),
    }
    written = []
    # Names of files and classes may hold dollar signs, and characters that the font lacks.
    with matplotlib.rc_context({"text.parse_math": False, "font.size": 11}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        for name, draw in pictures.items():
            path = out / "plots" / f"{name}.png"
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
