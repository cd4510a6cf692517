"""The seeds of the samples."""

from __future__ import annotations

from cfcam_gpu.evaluation.evaluator import sample_seed


def test_seeds_belong_to_the_id_alone():
    seeds = [sample_seed(f"p{i}.png") for i in range(1000)]
    assert len(set(seeds)) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert sample_seed("a.png") == sample_seed("a.png")
