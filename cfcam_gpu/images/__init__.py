"""Images in and out: decoding, preprocessing, masks, overlays, contact sheets.

Importing this package or a module of it imports no PyTorch, so that processes that only decode start fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cfcam_gpu._utils.lazy import lazy

if TYPE_CHECKING:
    from cfcam_gpu.images.colormaps import COLORMAPS
    from cfcam_gpu.images.contact_sheet import Entry, Strip, draw_contact_sheet
    from cfcam_gpu.images.decode import load_image, load_image_bytes
    from cfcam_gpu.images.encode import encode_image
    from cfcam_gpu.images.overlay import colorize, draw_overlay, fit_heatmap, upsample_grid
    from cfcam_gpu.images.preprocess import PUBLISHED_PREPROCESS, Preprocess

__all__ = [
    "COLORMAPS",
    "PUBLISHED_PREPROCESS",
    "Entry",
    "Preprocess",
    "Strip",
    "colorize",
    "draw_contact_sheet",
    "draw_overlay",
    "encode_image",
    "fit_heatmap",
    "load_image",
    "load_image_bytes",
    "upsample_grid",
]

_HOME = dict.fromkeys(("Entry", "Strip", "draw_contact_sheet"), "contact_sheet")
_HOME |= dict.fromkeys(("load_image", "load_image_bytes"), "decode")
_HOME |= {"COLORMAPS": "colormaps", "encode_image": "encode"}
_HOME |= dict.fromkeys(("colorize", "draw_overlay", "fit_heatmap", "upsample_grid"), "overlay")
_HOME |= dict.fromkeys(("Preprocess", "PUBLISHED_PREPROCESS"), "preprocess")

__getattr__, __dir__ = lazy(__name__, globals(), _HOME)
