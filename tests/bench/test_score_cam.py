"""Passes are counted, rows are measured once, and the questions are one about each photo."""

from __future__ import annotations

from unittest.mock import Mock

import pytest
import torch

from bench import score_cam
from bench.scene_questions import Question
from tests.bench.test_clusters import coco  # noqa: F401 (a fixture)


def test_the_first_question_about_each_photo_is_asked():
    asked = [Question(name, kind, torch.zeros(3, 2, 2), 0, None) for name, kind in ("a1", "a2", "b1", "c1")]
    assert [(q.photo, q.kind) for q in score_cam.first_questions(asked, 2)] == [("a", "1"), ("b", "1")]


def test_a_run_measures_each_map_once_and_counts_its_passes(coco, tmp_path, monkeypatch):  # noqa: F811
    methods = {name: score_cam.METHODS[name] for name in ("gradcam", "cfcam-sharp, three sizes")}
    monkeypatch.setattr(score_cam, "METHODS", methods)
    options = score_cam.Options(
        coco=str(coco), out=str(tmp_path / "out"), models=("efficientnet-lite0",), questions=(3,)
    )
    result = score_cam.run(options)
    found = result["together"]["methods"]
    assert result["together"]["questions"] == 1
    assert found["gradcam"]["passes"] == 1
    assert found["cfcam-sharp, three sizes"]["passes"] == pytest.approx(1 + 1.43**2 + 2**2, rel=0.05)
    assert found["gradcam"]["average_precision"]["difference"] == 0
    spy = Mock()
    monkeypatch.setattr(score_cam, "answer", spy)
    assert score_cam.run(options) == result
    assert not spy.called
    score_cam.show(result)
