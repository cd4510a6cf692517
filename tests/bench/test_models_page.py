"""The tables of docs/models.md are those of the committed survey; none is wrong."""

from __future__ import annotations

from bench import models_page, pages, readme
from cfcam_gpu.capture.noise_patch import Locality

RESULT = readme.read_results(("models",))["models"]


def test_the_tables_are_those_of_the_results():
    page = models_page.PAGE.read_text(encoding="utf-8")
    assert pages.rewritten(page, models_page.tables(RESULT)) == page


def test_no_model_is_explained_wrongly():
    records = RESULT["models"]
    assert not [name for name, record in records.items() if record["verdict"] in ("wrong", "failed")]
    refused = [name for name, record in records.items() if record["verdict"] == "refused"]
    assert len(refused) <= 0.05 * len(records)


def test_what_is_right_passes_the_test_of_the_choice_or_is_the_layer_written_by_hand():
    for name, record in RESULT["models"].items():
        if record["verdict"] == "right":
            passes = Locality(record["agreement"], record["strength"]).is_map
            assert passes or "by_hand" in record, name
            assert max(record["single"], record.get("by_hand", 0)) <= 1e-3, name
