"""The figures of the whole run: counts and mean heatmaps."""

from __future__ import annotations

import base64
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import interpolate

from cfcam_gpu.dataset.judging import Verdicts
from cfcam_gpu.dataset.store.results import open_results
from cfcam_gpu.report import write_report
from cfcam_gpu.report.survey import BLANK, ERROR, OK, survey_run
from tests.helpers.stored_run import (
    GRID,
    HOSTILE_LABEL,
    embedded,
)


def test_figures_count_the_whole_run(demo: Path):
    survey = survey_run(open_results(demo))
    rows = list(open_results(demo).rows())
    assert (survey.count(OK), survey.count(BLANK), survey.count(ERROR)) == (22, 1, 3)
    judged = [row for row in rows if row["status"] == "ok" and row["label"] not in (None, HOSTILE_LABEL)]
    correct = sum(row["label"] == row["pred_name"] for row in judged)
    names = open_results(demo).run["class_names"]
    pairs = Counter((names.index(row["label"]), int(row["pred"] or 0)) for row in judged)
    assert survey.verdicts == Verdicts(correct, len(judged) - correct, unmatched=3, confusion=pairs)
    assert survey.failures == {
        ("decode", "SyntaxError"): 1,
        ("read", "FileNotFoundError"): 1,
        ("explain", "NonFinite"): 1,
    }
    assert survey.peak == max(row["heatmap_max"] or 0 for row in rows)


def test_the_mean_heatmap_is_the_mean_of_the_heatmaps(demo: Path):
    results = open_results(demo)
    index = embedded(write_report(demo))
    espresso = next(item for item in index["classes"] if item["name"] == "espresso")
    rows = [row for row in results.rows() if row["target_name"] == "espresso"]
    assert espresso["count"] == len(rows) == 3
    mean = np.frombuffer(base64.b64decode(espresso["mean"]), "<f4").reshape(GRID)
    expected = np.mean([results.heatmap(row) for row in rows], axis=0)
    got = interpolate(torch.from_numpy(mean.copy())[None, None], (224, 224), mode="bilinear")[0, 0]
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-5)


def test_a_class_with_blank_maps_only_has_no_mean(demo: Path):
    goldfish = next(item for item in embedded(write_report(demo))["classes"] if item["name"] == "goldfish")
    assert (goldfish["count"], goldfish["blank"], goldfish["mean"]) == (0, 1, None)
