"""What a user may choose of an export."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ExportSettings:
    """Settings of `export` beside the format.

    Attributes:
        size: (H, W) of the heatmaps of npz and zarr; None: the model's input size.
        cmap: colours of png.

    Example:
        >>> ExportSettings().cmap
        'inferno'
    """

    size: tuple[int, int] | None = None
    cmap: str = "inferno"
