"""What makes two runs the same run is stored, and differences are named."""

from __future__ import annotations

import json

from cfcam_gpu.dataset.store.fingerprint import differences, weights_hash
from tests.helpers.smallnet import make_loaded, photo, run, save


def test_versions_and_weights_belong_to_the_fingerprint(tmp_path):
    run(save(tmp_path / "in", a=photo(1)), tmp_path / "out")
    stored = json.loads((tmp_path / "out/run.json").read_text())
    assert set(stored["fingerprint"]["versions"]) == {"cfcam_gpu", "torch", "torchvision"}
    assert stored["fingerprint"]["weights_sha256"] == weights_hash(make_loaded().model)
    assert stored["grid"] == [8, 8]
    assert stored["size"] == [32, 32]
    assert stored["class_names"] == ["ant", "bee", "cat"]
    assert set(stored["info"]) >= {"engine", "device", "precision", "created", "command"}
    old = {"a": 1, "b": {"c": [1], "d": 2}, "gone": 0}
    assert differences(old, {"a": 1, "b": {"c": (1,), "d": 3}, "new": "x"}) == [
        "b.d was 2, now 3", "gone was 0, now None", "new was None, now 'x'",
    ]  # fmt: skip
