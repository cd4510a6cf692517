"""Heatmaps in notebooks: a row of thumbnails as HTML, and a figure of Matplotlib."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from cfcam_gpu._utils.optional import require
from cfcam_gpu.images.any_image import as_array, is_picture_of_8_bits, overlay, rgb_pixels
from cfcam_gpu.images.encode import encode_image
from cfcam_gpu.images.overlay import Pixels, colorize

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Longest side of a thumbnail, in pixels.
THUMBNAIL = 112


def thumbnails(heatmaps: Sequence[npt.NDArray[np.floating]], captions: Sequence[str], note: str) -> str:
    """HTML with a small picture and a caption for each heatmap, and a note; all text is escaped.

    Args:
        heatmaps: (H,W) each, in [0, 1].

    Example:
        >>> page = thumbnails([np.eye(2, dtype=np.float32)], ["<b>"], "1 image")
        >>> "&lt;b&gt;" in page, "<b>" in page
        (True, False)
    """
    figures = "".join(
        f'<figure style="margin:0;width:{THUMBNAIL}px;overflow:hidden"><img alt="" src="{_data(_small(heatmap))}">'
        f'<figcaption style="font-size:smaller">{html.escape(caption)}</figcaption></figure>'
        for heatmap, caption in zip(heatmaps, captions, strict=True)
    )
    return f'<div><div style="display:flex;flex-wrap:wrap;gap:8px">{figures}</div><p>{html.escape(note)}</p></div>'


def _small(heatmap: npt.NDArray[np.floating]) -> Pixels:
    scale = THUMBNAIL / max(heatmap.shape)
    height, width = (max(1, round(side * scale)) for side in heatmap.shape)
    resized = cv2.resize(heatmap.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    return colorize(np.clip(resized, 0, 1))


def _data(pixels: Pixels) -> str:
    return "data:image/png;base64," + base64.b64encode(encode_image(pixels, "png")).decode("ascii")


def figure(heatmaps: Sequence[npt.NDArray[np.floating]], titles: Sequence[str], images: Any = None) -> Figure:
    """A Matplotlib figure of heatmaps, over their images where these are given; up to four in a row.

    Args:
        heatmaps: (H,W) each, in [0, 1].
        images: as many pictures as `overlay` takes them; arrays and tensors may be normalised, and are then
            stretched to their own range, as only the backdrop needs them.

    Raises:
        MissingPackageError: Matplotlib is not installed.
    """
    pyplot = require("matplotlib.pyplot", "plots", "a figure")
    columns = min(4, len(heatmaps))
    rows = -(-len(heatmaps) // columns)
    drawn, axes = pyplot.subplots(rows, columns, figsize=(3 * columns, 3.3 * rows), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for i, (axis, heatmap, title) in enumerate(zip(axes.flat, heatmaps, titles, strict=False)):
        axis.imshow(colorize(heatmap) if images is None else overlay(_backdrop(images[i]), heatmap))
        axis.set_title(title, fontsize="small")
    drawn.tight_layout()
    result: Figure = drawn
    return result


def _backdrop(image: Any) -> Pixels:
    if is_picture_of_8_bits(image):
        return rgb_pixels(image)
    values = as_array(image)
    if values.dtype != np.uint8:
        values = values.astype(np.float32)
        if not (values.min() >= 0 and values.max() <= 1):
            values = (values - values.min()) / max(float(np.ptp(values)), 1e-12)
    return rgb_pixels(values)
