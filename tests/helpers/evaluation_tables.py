"""Tables of evaluations that were never run, with known differences between the methods."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from cfcam_gpu.images.preprocess import Preprocess
from cfcam_gpu.metrics import Column

MAP_SHAPE = (7, 7)
METHODS = ("gradcam", "cfcam", "random")

#: From an image to what the model sees of it.
VIEW = Preprocess((96, 96), (0.5,) * 3, (0.5,) * 3, resize=110).view

#: An effect that all images show, one in the other direction, none, and a column without a better side.
COLUMNS = (
    Column("deletion_black_auc", "lower", "Area under the curve, 0 to 1."),
    Column("insertion_black_auc", "higher", "Area under the curve, 0 to 1."),
    Column("average_drop", "lower", "Lost share of the probability, 0 to 1."),
    Column("edges_ssim", "", "SSIM with the edges, -1 to 1."),
    Column("pointing", "higher", "Hits of the mask, 0 or 1."),
    Column("deletion_black_curve", "lower", "Probability as pixels go.", curve=True),
    Column("gradient_noise_ssim_curve", "higher", "SSIM as noise grows.", curve=True),
)
EFFECTS = {"deletion_black_auc": -0.1, "insertion_black_auc": -0.1, "average_drop": 0.0, "edges_ssim": 0.1}

Row = dict[str, Any]


def row(image: int, method: str, position: int, **changes: Any) -> Row:
    """An image's row; method number `position` has `position` times the effects. Masks: every second image."""
    shared, own = np.random.default_rng(image), np.random.default_rng([image, position])
    values = {
        name: 0.5 + 0.1 * shared.standard_normal() + effect * position + 0.02 * own.standard_normal()
        for name, effect in EFFECTS.items()
    }
    return {
        "sample_id": f"photos/{image:03}.jpg",
        "uri": f"/nowhere/{image:03}.jpg",
        "status": "ok",
        "method": method,
        "target_name": "Egyptian cat",
        "target_prob": 0.75,
        "blank": False,
        "grid": own.random(MAP_SHAPE, np.float32),
        **values,
        "pointing": float(own.random() < 0.7) if image % 2 else None,
        "deletion_black_curve": np.linspace(values["insertion_black_auc"], 0, 21).tolist(),
        "gradient_noise_ssim_curve": [0.9 - 0.1 * position, 0.7, 0.5, 0.3, 0.2],
        **changes,
    }


def failure(image: int, stage: str = "decode", message: str = "truncated", **changes: Any) -> Row:
    return {
        "sample_id": f"bad/{image:03}.jpg",
        "uri": f"/nowhere/bad/{image:03}.jpg",
        "status": "error",
        "stage": stage,
        "error_type": "ImageError",
        "message": message,
    } | changes


def made_rows(images: int, methods: tuple[str, ...] = METHODS) -> list[Row]:
    return [row(image, method, i) for image in range(images) for i, method in enumerate(methods)]


TYPES = {
    **dict.fromkeys(
        ("sample_id", "uri", "status", "stage", "error_type", "message", "method", "target_name"), pa.string()
    ),
    "target_prob": pa.float32(),
    "blank": pa.bool_(),
    **{column.name: pa.list_(pa.float32()) if column.curve else pa.float32() for column in COLUMNS},
}


def as_table(rows: list[Row]) -> pa.Table:
    """The rows as a run stores them; absent values are null."""
    tensor = pa.fixed_shape_tensor(pa.float32(), MAP_SHAPE)
    grids = [None if r.get("grid") is None else r["grid"].reshape(-1) for r in rows]
    storage = pa.array(grids, pa.list_(pa.float32(), MAP_SHAPE[0] * MAP_SHAPE[1]))
    columns = {name: pa.array([r.get(name) for r in rows], kind) for name, kind in TYPES.items()}
    return pa.table(columns | {"grid": pa.ExtensionArray.from_storage(tensor, storage)})
