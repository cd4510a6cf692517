"""The x-axes of the curves."""

from __future__ import annotations

from cfcam_gpu.evaluation.axes import curve_axis


def test_a_curve_of_unknown_levels_is_numbered():
    assert curve_axis("gradient_noise_ssim_curve", {"noise_levels": [1, 2]}, 3) == ("position", range(1, 4))
    assert curve_axis("of_a_later_version", {}, 2) == ("position", range(1, 3))
