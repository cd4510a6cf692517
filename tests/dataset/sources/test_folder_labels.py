"""Labels from folders: when they are recognised, and what a run makes of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cfcam_gpu.dataset import Sample, open_results
from cfcam_gpu.dataset.sources import folder_labels
from cfcam_gpu.dataset.sources.folder_labels import chosen_labels, folder_label, with_folder_labels
from cfcam_gpu.dataset.sources.spool import MaskedSpool, SpooledSamples
from cfcam_gpu.errors import ConfigError, InputError, StoreError
from tests.helpers.smallnet import Recorder, make_loaded, photo, rows, run, save

NAMES = ["ant", "bumble bee", "cat"]


def samples(*paths: str) -> list[Sample]:
    return [Sample(path, path) for path in paths]


@pytest.mark.parametrize(
    ("uri", "label"),
    [
        ("/train/cat/x.jpg", "cat"),
        ("/x.jpg", None),
        ("tar:/train/cat.tar#x.jpg@0+1", None),
        ("parquet:/train/a.parquet#image#0#1", None),
        ("broken:/train/cat#cannot be read", None),
        ("file:/train/c%0At/x.jpg", "c\nt"),
    ],
)
def test_the_folder_of_a_file_is_its_label(uri: str, label: str | None):
    assert folder_label(uri) == label


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["/t/ant/1.png", "/t/Bumble_Bee/2.png"], "folders"),
        (["/t/cat/1.png"], "folders"),
        (["/t/ant/1.png", "/t/misc/2.png"], "given"),
        (["/t/0/1.png", "/t/1/2.png"], "given"),  # may be days as well
        (["tar:/cat/a.tar#x.jpg@0+1"], "given"),
    ],
)
def test_folders_count_where_all_are_named_for_classes(paths: list[str], expected: str):
    assert chosen_labels("auto", samples(*paths), NAMES)[0] == expected
    assert chosen_labels("given", samples(*paths), NAMES) == ("given", None)


def test_the_choice_is_said():
    labels, note = chosen_labels("auto", samples("/t/ant/1.png", "/t/cat/2.png"), NAMES)
    assert labels == "folders"
    assert note == (
        "labels are the names of the folders (ant, cat), which are classes of the model; --labels given leaves them out"
    )
    nearly = samples("/t/ant/1.png", "/t/cat/2.png", "/t/misc/2.png")
    assert chosen_labels("auto", nearly, NAMES) == (
        "given",
        "2 of 3 folders are named for classes of the model; --labels folders takes the names as labels",
    )


def test_labels_that_a_sample_has_stay():
    given = [Sample("a", "/t/ant/a.png", label="cat"), *samples("/t/ant/b.png")]
    assert chosen_labels("auto", given, NAMES) == ("given", None)
    assert [sample.label for sample in with_folder_labels(given)] == ["cat", "ant"]


@pytest.mark.parametrize(
    ("paths", "names", "message"),
    [
        (["/t/wolf/1.png"], NAMES, "the folders are wolf, its classes are ant, bumble bee, cat"),
        (["/t/cat/1.png"], None, "class names are not known; give --class-names FILE"),
        (["/t/7/1.png"], NAMES, "no folder is named for a class of the model"),
        (["tar:/a.tar#x.jpg@0+1"], NAMES, "labels from folders need image files"),
    ],
)
def test_wanted_folders_that_name_no_class_are_an_error(paths, names, message):
    with pytest.raises(InputError, match=message):
        chosen_labels("folders", samples(*paths), names)


def test_wanted_folders_may_be_numbers():
    assert chosen_labels("folders", samples("/t/2/1.png"), None) == ("folders", None)
    with pytest.raises(InputError, match="give the samples their labels"):
        chosen_labels("folders", tuple(samples("/t/2/1.png")), None)
    with pytest.raises(ConfigError, match="unknown source of labels 'folder'"):
        run("nowhere", Path("out"), labels="folder")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Photos below `ant`, `bee` and `cat`, of which one cannot be decoded."""
    save(tmp_path / "train/ant", a=photo(1), b=photo(2), broken=b"")
    save(tmp_path / "train/bee", c=photo(3), d=photo(4))
    save(tmp_path / "train/cat", e=photo(5))
    return tmp_path / "train"


def test_a_run_writes_accuracy_by_class_and_what_is_confused(folder, tmp_path):
    recorder = Recorder()
    run(folder, tmp_path / "out", observer=recorder)
    assert len(recorder.notes) == 1
    stored = rows(tmp_path / "out")
    assert [row["label"] for row in stored] == ["ant", "ant", "ant", "bee", "bee", "cat"]
    pairs = [(row["label"], row["pred_name"]) for row in stored if row["status"] == "ok"]
    assert len(pairs) == 5
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    right = sum(label == pred for label, pred in pairs)
    assert (summary["labelled"], summary["judged"], summary["correct"]) == (5, 5, right)
    assert summary["accuracy"] == pytest.approx(right / 5)
    names = ["ant", "bee", "cat"]
    for entry in summary["classes"]:
        name = names[entry["index"]]
        assert entry["name"] == name
        assert entry["labelled"] == sum(label == name for label, _ in pairs)
        assert entry["predicted"] == sum(pred == name for _, pred in pairs)
        assert entry["correct"] == sum((label, pred) == (name, name) for label, pred in pairs)
    confusion = {(names[e["label"]], names[e["predicted"]]): e["count"] for e in summary["confusion"]}
    assert confusion == {pair: pairs.count(pair) for pair in pairs}


def test_a_stored_run_keeps_its_choice(folder, tmp_path):
    out = tmp_path / "out"
    run(folder, out, labels="given")
    assert {row["label"] for row in rows(out)} == {None}
    assert not (out / "summary.json").exists()
    save(folder / "cat", new=photo(6))
    run(folder, out)
    assert {row["label"] for row in rows(out)} == {None}
    with pytest.raises(StoreError, match="labels was 'given', now 'folders'"):
        run(folder, out, labels="folders")
    run(folder, out, labels="folders", overwrite=True)
    assert open_results(out).run["labels"] == "folders"
    save(folder / "wolf", other=photo(7))
    run(folder, out)
    assert rows(out)[-1]["label"] == "wolf"
    run(folder, out, labels="given", overwrite=True)
    assert not (out / "summary.json").exists()


def test_folders_of_a_model_without_those_classes_are_no_labels(tmp_path):
    recorder = Recorder()
    run(save(tmp_path / "in", a=photo(1)), tmp_path / "out", observer=recorder, model=make_loaded())
    assert (recorder.notes, rows(tmp_path / "out")[0]["label"]) == ([], None)


def test_folders_of_urls_are_named_and_their_credentials_masked():
    given = SpooledSamples([Sample("x", "https://host/train/cat/x.jpg?sig=sesame")])
    (sample,) = with_folder_labels(MaskedSpool(given))
    assert (sample.label, sample.uri) == ("cat", "https://host/train/cat/x.jpg?sig=***")


@pytest.mark.parametrize("source", [list, SpooledSamples])
def test_folders_are_named_only_where_labels_are_asked_for(monkeypatch, source):
    """A run that goes on asks for ids and places."""
    given = [Sample("x", "/train/cat/x.jpg"), Sample("y", "/train/dog/y.jpg", label="wolf")]
    labelled = with_folder_labels(source(given))
    assert [(sample.sample_id, sample.label) for sample in labelled] == [("x", "cat"), ("y", "wolf")]
    assert list(labelled.pieces("label")) == [{"label": ["cat", "wolf"]}]
    monkeypatch.setattr(folder_labels, "folder_label", None)
    assert list(labelled.pieces("sample_id")) == [{"sample_id": ["x", "y"]}]
