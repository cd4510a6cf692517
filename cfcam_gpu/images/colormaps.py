"""The names of the colour maps, known without NumPy and OpenCV; `overlay.colorize` applies them."""

from __future__ import annotations

from cfcam_gpu._utils.messages import unknown
from cfcam_gpu.errors import ConfigError

#: Each is OpenCV's COLORMAP of that name: 0 maps to its first colour, 1 to its last.
COLORMAPS = ("inferno", "magma", "plasma", "viridis", "cividis", "turbo", "jet", "hot", "bone")


def check_style(cmap: str, alpha: float) -> None:
    """Checks the colours of an overlay.

    Args:
        cmap: one of `COLORMAPS`.
        alpha: how much of the overlay is colour, from 0 to 1.

    Raises:
        ConfigError: an unknown colour map, or an alpha outside this range.

    Example:
        >>> check_style("viridis", 0.4)
        >>> check_style("viridis", 40)
        Traceback (most recent call last):
        cfcam_gpu.errors.ConfigError: alpha must be a number from 0 (only the image) to 1 (only colour), got 40
    """
    if cmap not in COLORMAPS:
        raise ConfigError(unknown("colour map", cmap, COLORMAPS))
    if not 0 <= alpha <= 1:
        raise ConfigError(f"alpha must be a number from 0 (only the image) to 1 (only colour), got {alpha!r}")
