"""The figures hold the summary's numbers, verdicts and levels."""

from __future__ import annotations

import numpy as np
import pytest

from cfcam_gpu.errors import ConfigError
from cfcam_gpu.evaluation.drawing import draw_bars, draw_curves, drawn_methods
from cfcam_gpu.evaluation.summary import summarise
from cfcam_gpu.metrics.options import MetricOptions
from tests.helpers.evaluation_tables import COLUMNS, METHODS, as_table, made_rows

pytest.importorskip("matplotlib", reason="needs matplotlib: pip install -e '.[plots]'")


def test_curves_are_drawn_at_their_levels():
    summary = summarise(
        as_table(made_rows(5)), COLUMNS, options=MetricOptions(noise_levels=(1.0, 2.0, 3.0, 4.0, 9.0))
    )
    figure = draw_curves(summary)
    assert figure is not None
    first, second = (panel.get_lines()[1] for panel in figure.axes[:2])  # cfcam's
    np.testing.assert_allclose(np.asarray(first.get_xdata()), np.linspace(0, 100, 21))
    np.testing.assert_allclose(np.asarray(second.get_xdata()), [1, 2, 3, 4, 9])
    np.testing.assert_allclose(
        np.asarray(second.get_ydata()), summary["curves"]["cfcam"]["gradient_noise_ssim_curve"]["mean"]
    )
    titles = [panel.get_title() for panel in figure.axes[:2]]
    assert titles == ["deletion black\nlower is better", "gradient noise SSIM\nhigher is better"]


def test_of_many_methods_the_first_and_the_baseline_are_drawn_and_the_title_says_so():
    names = (*(f"m{i}" for i in range(14)), "gradcam")
    summary = summarise(as_table(made_rows(2, names)), COLUMNS)
    assert drawn_methods(summary) == [*(f"m{i}" for i in range(11)), "gradcam"]
    figure = draw_curves(summary)
    assert figure is not None
    assert figure.get_suptitle().endswith("; 12 of 15 methods")


def test_bars_have_the_means_lengths_and_the_verdicts_colours_and_marks():
    summary = summarise(as_table(made_rows(40)), COLUMNS)
    figure = draw_bars(summary, ["deletion_black_auc", "insertion_black_auc"])
    assert figure is not None
    from matplotlib.patches import Rectangle

    better, worse = figure.axes
    means = [summary["methods"][name]["deletion_black_auc"]["mean"] for name in METHODS]
    widths = [bar.get_width() for bar in better.patches if isinstance(bar, Rectangle)]
    np.testing.assert_allclose(widths, means)
    assert [text.get_text() for text in better.texts] == ["", "▲", "▲"]
    assert [text.get_text() for text in worse.texts] == ["", "▼", "▼"]
    assert better.patches[1].get_facecolor() != worse.patches[1].get_facecolor()


@pytest.mark.parametrize(("value", "shown"), [(None, ["no value"] * 3), (0.0, None)])
def test_columns_without_values_or_of_zeros_have_no_bars_unless_asked_for(value, shown):
    rows = [r | {"pointing": value} for r in made_rows(3)]
    summary = summarise(as_table(rows), COLUMNS)
    figure, asked = draw_bars(summary), draw_bars(summary, ["pointing"])
    assert figure is not None
    assert asked is not None
    assert not any("pointing" in panel.get_title() for panel in figure.axes)
    assert len(figure.axes) >= 4
    assert "pointing" in asked.axes[0].get_title()
    if shown:
        assert [text.get_text() for text in asked.axes[0].texts] == shown
    with pytest.raises(ConfigError, match="unknown column 'drop'"):
        draw_bars(summary, ["drop"])
