"""A configuration that differs from the default in every field."""

from __future__ import annotations

from typing import Any

#: Field of a configuration -> a value that is not the default and changes the map.
OTHER_VALUES: dict[str, Any] = {
    "dominant_percentile": 50.0, "eps_percentile": 60.0, "min_samples_fraction": 0.8, "filter": "gaussian",
    "sigma_space": 1.0, "sigma_range": 0.5, "diameter": 3, "weighting": "softmax", "fine_share": 0.9,
}  # fmt: skip
