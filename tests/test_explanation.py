"""What an explanation says about images that cannot be explained."""

from __future__ import annotations

import torch

from cfcam_gpu.explanation import Problem, status_of


def test_the_numbers_of_the_problems_stay():
    """`Explanation.status` holds them, and users compare with them."""
    assert {problem.name: int(problem) for problem in Problem} == {
        "ACTIVATIONS_NOT_FINITE": 1,
        "GRADIENTS_NOT_FINITE": 2,
        "TARGET_OUT_OF_RANGE": 3,
        "ZERO_GRADIENT": 4,
        "MAP_NOT_FINITE": 5,
    }
    assert all(problem.sentence for problem in Problem)


def test_the_lowest_problem_of_an_image_is_its_status():
    masks = {
        Problem.MAP_NOT_FINITE: torch.tensor([True, False, True, False]),
        Problem.GRADIENTS_NOT_FINITE: torch.tensor([True, True, False, False]),
    }
    assert status_of(masks).tolist() == [2, 2, 5, 0]
