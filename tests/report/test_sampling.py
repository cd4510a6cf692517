"""Which samples the report shows when it cannot show all."""

from __future__ import annotations

import numpy as np

from cfcam_gpu.report.sampling import choose_rows
from cfcam_gpu.report.survey import BLANK, ERROR, OK


def test_all_rows_are_shown_where_they_fit():
    assert choose_rows(np.zeros(5, np.int8), np.zeros(5, np.int32), 5).tolist() == [0, 1, 2, 3, 4]


def test_errors_and_blank_maps_go_first_and_classes_keep_their_shares():
    kinds = np.array([OK] * 900 + [ERROR] * 10 + [BLANK] * 10, np.int8)
    preds = np.array([0] * 600 + [1] * 297 + [2] * 3 + [-1] * 10 + [1] * 10, np.int32)
    chosen = choose_rows(kinds, preds, 110)
    assert len(chosen) == len(set(chosen.tolist())) == 110
    assert (np.diff(chosen) > 0).all()
    assert set(range(900, 920)) <= set(chosen.tolist())
    counts = np.bincount(preds[chosen[chosen < 900]], minlength=3)
    assert abs(counts[0] - 60) <= 2
    assert abs(counts[1] - 30) <= 2
    assert counts[2] >= 1


def test_many_errors_leave_half_of_the_room_to_the_rest():
    kinds = np.array([ERROR] * 500 + [OK] * 500, np.int8)
    chosen = choose_rows(kinds, np.zeros(1000, np.int32), 100)
    assert (kinds[chosen] == ERROR).sum() == 50


def test_room_that_the_rest_does_not_need_goes_to_errors():
    kinds = np.array([ERROR] * 500 + [OK] * 10, np.int8)
    chosen = choose_rows(kinds, np.zeros(510, np.int32), 100)
    assert (kinds[chosen] == ERROR).sum() == 90


def test_every_class_has_a_row_before_any_has_two():
    preds = np.array([0] * 990 + list(range(1, 11)), np.int32)
    chosen = choose_rows(np.zeros(1000, np.int8), preds, 11)
    assert sorted(preds[chosen].tolist()) == list(range(11))


def test_the_seed_decides_the_choice():
    kinds, preds = np.zeros(1000, np.int8), np.arange(1000, dtype=np.int32) % 7
    first, again, other = (choose_rows(kinds, preds, 50, seed).tolist() for seed in (1, 1, 2))
    assert first == again
    assert first != other
