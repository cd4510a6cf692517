"""What a map costs is measured beside a forward pass of as many images."""

from __future__ import annotations

import pytest

from bench import method_cost


def test_costs_are_those_of_each_batch(capsys):
    options = method_cost.Options(batches=(1, 3), methods=("gradcam", "cfcam-sharp, three sizes"), repeats=1)
    result = method_cost.run(options)
    assert list(result["batches"]) == ["1", "3"]
    for rows in result["batches"].values():
        assert list(rows) == ["forward pass", "gradcam", "cfcam-sharp, three sizes"]
        assert rows["forward pass"]["passes"] == 1
        three, one = rows["cfcam-sharp, three sizes"], rows["forward pass"]
        assert three["passes"] == pytest.approx(three["ms_per_image"] / one["ms_per_image"], rel=0.01)
        assert three["passes"] > 2
    method_cost.show(result)
    assert "batch 3" in capsys.readouterr().out
