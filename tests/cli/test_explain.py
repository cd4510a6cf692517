"""`cfcam explain` as a user meets it: what it writes, prints and returns, and that no mistake shows a traceback."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

import cfcam_gpu
from cfcam_gpu.config import CFCAMConfig
from tests.helpers.command import FAILED, OK, SKIPPED, USAGE, cfcam
from tests.helpers.smallnet import photo
from tests.helpers.tinynet import explain, explain_json, files, pixels


@pytest.mark.usefixtures("work")
def test_explain_prints_a_table_and_a_summary_and_writes_the_overlays():
    outcome = explain("good")
    assert outcome.status == OK
    assert outcome.err == ""
    head, *rows, summary = outcome.out.splitlines()
    assert head.split() == ["file", "class", "probability", "clusters", "noise", "blank", "overlay"]
    assert [row.split()[0] for row in rows] == ["good/a.png", "good/b.png"]
    assert [row.split()[-1] for row in rows] == ["a_cfcam.png", "b_cfcam.png"]
    assert re.fullmatch(
        r"explained 2 of 2 images in \d+\.\d s \(\d+\.\d images/s\), \d blank, 0 skipped; pictures in out",
        summary,
    )
    assert files("out") == ["a_cfcam.png", "b_cfcam.png"]


@pytest.mark.usefixtures("mixed")
def test_bad_files_are_named_with_their_reasons_and_the_others_are_explained():
    outcome = explain("mixed")
    assert outcome.status == SKIPPED
    cut, empty, notes = outcome.err.splitlines()
    assert cut.startswith("skipped mixed/cut.png: truncated or corrupt")
    assert empty == "skipped mixed/empty.jpg: empty file"
    assert notes == "skipped mixed/notes.txt: not an image that can be read"
    assert "explained 2 of 5 images" in outcome.out
    assert "3 skipped" in outcome.out
    assert files("out") == ["a_cfcam.png", "z_cfcam.png"]


@pytest.mark.usefixtures("mixed")
def test_nothing_explained_is_a_failure():
    outcome = explain("mixed/empty.jpg", "mixed/notes.txt")
    assert outcome.status == FAILED
    assert outcome.err.splitlines()[-1] == (
        "error: none of the inputs could be explained; see the reasons above"
    )


@pytest.mark.usefixtures("mixed")
def test_json_is_one_object_alone_on_stdout():
    outcome = explain("mixed", "--json", "--preset", "workflow", "--batch-size", "2")
    assert outcome.status == SKIPPED
    content = json.loads(outcome.out)
    assert content["version"] == cfcam_gpu.__version__
    assert content["model"] == "py:tinynet:make"
    assert content["layer"] == "1"
    assert content["engine"] == "torch"  # few images do not pay for compiled code
    assert content["device"] == "cpu"
    assert content["preset"] == "workflow"
    assert content["config"] == dataclasses.asdict(CFCAMConfig.preset("workflow"))
    assert content["out"] == "out"
    assert content["counts"]["ok"] == 2
    assert content["counts"]["skipped"] == 3
    assert [row["file"] for row in content["images"]] == [
        "mixed/a.png", "mixed/cut.png", "mixed/empty.jpg", "mixed/notes.txt", "mixed/z.jpg",
    ]  # fmt: skip
    good, _, empty, *_ = content["images"]
    assert good["outputs"] == {"overlay": "out/a_cfcam.png"}
    assert good["class_name"] in ("ant", "bumble bee", "cat")
    assert 1 / 3 <= good["probability"] <= 1
    assert (empty["status"], empty["stage"], empty["error"]) == ("error", "decode", "empty file")
    assert empty["probability"] is None


@pytest.mark.usefixtures("work")
def test_single_parameters_override_the_preset():
    options = {
        "dominant-percentile": ("none", None),
        "eps-percentile": ("10", 10.0),
        "min-samples-fraction": ("0.1", 0.1),
        "filter": ("none", "none"),
        "sigma-space": ("2", 2.0),
        "sigma-range": ("0.5", 0.5),
        "diameter": ("3", 3),
        "weighting": ("mean", "mean"),
        "fine-share": ("0.5", 0.5),
    }
    arguments = [part for name, (text, _) in options.items() for part in (f"--{name}", text)]
    config = explain_json("good", "--preset", "upstream", *arguments)["config"]
    assert config == {name.replace("-", "_"): value for name, (_, value) in options.items()}


@pytest.mark.usefixtures("work")
def test_the_target_is_the_predicted_class_an_index_or_a_name():
    predicted = explain_json("good/a.png")["images"][0]
    assert predicted["class_index"] == predicted["predicted_index"]
    other = (predicted["class_index"] + 1) % 3
    name = ("ant", "bumble bee", "cat")[other]
    for target in (str(other), name, name.upper()):
        row = explain_json("good/a.png", "--target", target, "--overwrite")["images"][0]
        assert (row["class_index"], row["class_name"]) == (other, name)
        assert row["predicted_index"] == predicted["class_index"]
        assert row["probability"] < predicted["probability"]
    assert "predicted" in explain("good/a.png", "--target", name).out.splitlines()[0].split()


@pytest.mark.usefixtures("work")
def test_engines_agree_in_the_pictures_they_write():
    for engine in ("torch", "reference"):
        content = explain_json("good/a.png", "--engine", engine, "--alpha", "1", "--out", engine)
        assert content["engine"] == engine
    difference = pixels("torch/a_cfcam.png").astype(int) - pixels("reference/a_cfcam.png")
    assert np.abs(difference).max() <= 2


@pytest.mark.usefixtures("work")
def test_two_inputs_with_the_same_stem_do_not_overwrite_each_other():
    photo(3).save("good/a.jpg")
    Path("good/sub").mkdir()
    photo(4, (20, 30)).save("good/sub/a.png")
    rows = explain_json("good")["images"]
    written = [row["outputs"]["overlay"] for row in rows]
    assert len(set(written)) == 4
    assert sorted(written) == sorted(str(Path("out") / name) for name in files("out"))
    assert pixels("out/sub/a_cfcam.png").shape == (30, 20, 3)


@pytest.mark.usefixtures("work")
def test_the_output_folder_is_no_input_of_a_second_run():
    assert explain(".").status == SKIPPED
    before = files("out")
    assert explain(".").status == SKIPPED
    assert files("out") == before


@pytest.mark.usefixtures("work")
def test_the_original_programs_own_use_works_as_it_is():
    """The published script's: a ResNet with two classes, its own weights, the last block, 40 % over 60 %."""
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=2)
    torch.save(model.state_dict(), "best_model.pth")
    Path("testimgs").mkdir()
    photo(7, (64, 48)).save("testimgs/one.jpg")
    photo(8, (33, 70)).save("testimgs/two.png")
    outcome = cfcam(
        *["explain", "testimgs", "--model", "torchvision:resnet18", "--num-classes", "2"],
        *["--weights", "best_model.pth", "--layer", "layer4.1", "--out", "output", "--device", "cpu"],
    )
    assert outcome.status == OK
    assert files("output") == ["one_cfcam.png", "two_cfcam.png"]
    assert pixels("output/one_cfcam.png").shape == (48, 64, 3)
    assert pixels("output/two_cfcam.png").shape == (70, 33, 3)


@pytest.mark.usefixtures("work")
def test_the_overlay_is_40_percent_heatmap_over_60_percent_upright_image():
    upright = photo(9, (40, 70))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side: turn by 90 degrees to see it upright
    upright.rotate(90, expand=True).save("good/turned.png", exif=exif)
    shown = {}
    for alpha in ("0.4", "1", "0"):
        (row,) = explain_json("good/turned.png", "--alpha", alpha, "--overwrite")["images"]
        shown[alpha] = pixels(row["outputs"]["overlay"]).astype(float)
    np.testing.assert_array_equal(shown["0"], np.asarray(upright))
    assert np.abs(shown["0.4"] - (0.4 * shown["1"] + 0.6 * shown["0"])).max() <= 0.5 + 1e-4


@pytest.mark.usefixtures("work")
def test_cmap_and_alpha_reach_the_picture():
    (row,) = explain_json("good/a.png", "--cmap", "jet", "--alpha", "1")["images"]
    jet = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[None], cv2.COLORMAP_JET)[0, :, ::-1]
    shown = pixels(row["outputs"]["overlay"])
    assert {tuple(colour) for colour in shown.reshape(-1, 3)} <= {tuple(colour) for colour in jet}


@pytest.mark.usefixtures("work")
@pytest.mark.parametrize(
    ("kind", "file"), [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP"), ("none", None)]
)
def test_overlays_are_of_the_kind_asked_for(kind, file):
    (row,) = explain_json("good/a.png", "--overlays", kind)["images"]
    if file is None:
        assert row["outputs"] == {}
        assert files("out") == []
    else:
        image = Image.open(row["outputs"]["overlay"])
        assert (image.format, image.size) == (file, (60, 45))
    assert ("overlay" in explain("good/a.png", "--overlays", kind).out) == (file is not None)


@pytest.mark.usefixtures("work")
def test_more_than_fifty_images_get_a_summary_instead_of_a_table():
    for i in range(51):
        photo(i, (8, 8)).save(f"good/{i:02}.png")
    Path("good/99.png").write_bytes(b"")
    outcome = explain("good", "--preset", "default", "--target", "0")
    assert outcome.err == "skipped good/99.png: empty file\n"
    *table, summary = outcome.out.splitlines()
    assert summary.startswith("explained 53 of 54 images")
    (blank,) = map(int, re.findall(r"(\d+) blank", summary))
    assert len(table) == (blank + 1 if blank else 0)


@pytest.mark.usefixtures("mixed")
def test_the_progress_bar_is_for_terminals_and_never_on_stdout(monkeypatch):
    assert "explaining" not in explain("mixed").err
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes any stream for a terminal
    outcome = explain("mixed", "--json", "--out", "other")
    assert re.search(r"explaining.*5/5", outcome.err)
    assert "skipped mixed/empty.jpg: empty file" in outcome.err
    assert json.loads(outcome.out)["counts"]["ok"] == 2


@pytest.mark.usefixtures("work")
@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--preset", "best"], USAGE, "unknown preset 'best'; choose one of: default, upstream, workflow"),
        (["--cmap", "rainbow"], USAGE, "unknown colour map 'rainbow'; choose one of: inferno, "),
        (["--alpha", "40"], USAGE, "alpha must be a number from 0 (only the image) to 1 (only colour), got 40"),
        (["--size", "2x"], USAGE, "--size must be like 224 or 224x320 (height x width), got '2x'"),
        (["--size", "0"], USAGE, "--size must be like 224"),
        (["--size", "1x2x3"], USAGE, "--size must be like 224"),
        (["--mean", "0.5,0.5"], FAILED, "mean and std must have one number a channel each, got 2 and 3"),
        (["--std", "1,1,one"], USAGE, "--std must be numbers separated by commas, like 0.5,0.5,0.5, got '1,1,one'"),
        (["--dominant-percentile", "all"], USAGE, "--dominant-percentile takes numbers, got 'all'"),
        (["--dominant-percentile", "101"], USAGE, "dominant_percentile must be a number from 0 to 100 or None"),
        (["--diameter", "4"], USAGE, "diameter must be a positive odd number"),
        (["--filter", "median"], USAGE, "unknown filter 'median'; choose one of: bilateral, "),
        (["--engine", "warp"], USAGE, "unknown engine 'warp'; choose one of: auto, "),
        (["--device", "gpu"], USAGE, "unknown device 'gpu'; choose auto, cpu, cuda or cuda:N"),
        (["--batch-size", "0"], USAGE, "batch size must be at least 1, got 0"),
        (["--overlays", "gif"], USAGE, "unknown overlays 'gif'; choose one of: none, png, jpeg, webp"),
        (["--weights", "none.pth"], FAILED, "the weights none.pth do not exist"),
        (["--model", "resnet"], FAILED, "unknown model 'resnet'; expected efficientnet-lite0, efficientnet-lite1, "),
        (["--model", "py:tinynet:build"], FAILED, "py:tinynet:build: tinynet has no 'build'"),
        (["--target", "bumblebee"], FAILED, "no class is called 'bumblebee'; similar: bumble bee (1)"),
        (["--target", "3"], FAILED, "a class index of py:tinynet:make must be from 0 to 2, got 3"),
        (["--layer", "3"], FAILED, "target layer '3' must put out a floating-point tensor (B,C,h,w)"),
        (["--layer", "9"], FAILED, "the model has no layer '9'"),
        (["--size", "2"], FAILED, "the model failed on images (1, 3, 2, 2): "),
        (["nowhere"], FAILED, "input 'nowhere' does not exist"),
        (["--out", "names.txt"], FAILED, "cannot make the output folder names.txt: File exists"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)  # fmt: skip
def test_a_mistake_ends_in_one_line_that_says_what_to_do(arguments, status, message):
    outcome = explain("good", *arguments)
    assert outcome.status == status
    assert outcome.out == ""
    (line,) = outcome.err.splitlines()
    assert line.startswith(f"error: {message}")


@pytest.mark.usefixtures("work")
def test_a_device_that_is_not_there_is_an_error_and_nothing_falls_back():
    outcome = explain("good", "--device", "cuda:99")
    assert outcome.status == FAILED
    assert re.match(
        r"error: device 'cuda:99' was asked for, but PyTorch \S+ sees \d+ CUDA devices; ", outcome.err
    )
    assert not Path("out").exists()


@pytest.mark.usefixtures("work")
def test_a_file_name_that_is_no_text_is_explained_and_printed():
    name = os.fsdecode(b"good/\xff[red].png")
    try:
        photo(3).save(name)
    except OSError:
        pytest.skip("this file system takes no such name")
    outcome = explain(name)
    assert outcome.status == OK
    assert r"good/\udcff[red].png" in outcome.out
    assert len(files("out")) == 1
