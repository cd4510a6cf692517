"""The command as a user meets it: what it writes, prints and returns, and that no mistake shows a traceback."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from typer.testing import CliRunner

import cfcam_gpu
from cfcam_gpu import cli
from cfcam_gpu.cli import demo, doctor
from cfcam_gpu.config import PRESETS, CFCAMConfig
from cfcam_gpu.engines import resolve_engine

OK, FAILED, USAGE, SKIPPED, INTERRUPTED = 0, 1, 2, 3, 130

FACTORY = """
import torch
from torch import nn

def make(num_classes=3):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return nn.Sequential(
            nn.Conv2d(3, 24, 3, stride=4), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, num_classes),
        )
"""
TINY = ("--model", "py:tinynet:make", "--size", "32", "--class-names", "names.txt", "--device", "cpu")

COMMAND = (sys.executable, "-m", "cfcam_gpu")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(cfcam_gpu.__file__).parents[1]), "COLUMNS": "200"}


@dataclasses.dataclass
class Outcome:
    status: int
    out: str
    err: str


def cfcam(*arguments: str) -> Outcome:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(cli.app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert "Traceback" not in result.output
    return Outcome(result.exit_code, result.stdout, result.stderr)


def explain(*arguments: str) -> Outcome:
    """Of a repeated option the last one counts: `arguments` replace the defaults here."""
    return cfcam("explain", "--out", "out", *TINY, *arguments)


def explain_json(*arguments: str) -> dict[str, Any]:
    outcome = explain(*arguments, "--json")
    return json.loads(outcome.out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def photo(seed: int, size: tuple[int, int] = (60, 45)) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a small model, names of its classes, and two photos in `good/`."""
    monkeypatch.chdir(tmp_path)
    Path("tinynet.py").write_text(FACTORY)
    Path("names.txt").write_text("ant\nbumble bee\ncat\n")
    Path("good").mkdir()
    photo(1).save("good/a.png")
    photo(2).save("good/b.png")
    return tmp_path


@pytest.fixture
def mixed(work: Path) -> Path:
    """`mixed/`: two good photos among files that cannot be decoded."""
    folder = work / "mixed"
    folder.mkdir()
    photo(1).save(folder / "a.png")
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:200])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "notes.txt").write_text("not an image")
    photo(2).save(folder / "z.jpg")
    return folder


STORE = {"run.json", "plan.parquet"}


def files(folder: str | Path) -> list[str]:
    """The files below a folder, without a run's own."""
    paths = (path.relative_to(folder) for path in Path(folder).rglob("*") if path.is_file())
    return sorted(
        str(path) for path in paths if path.name not in STORE and path.parts[0] not in (".cfcam", "shards")
    )


def pixels(path: str | Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_explain_prints_a_table_and_a_summary_and_writes_the_overlays(work):
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


def test_bad_files_are_named_with_their_reasons_and_the_others_are_explained(mixed):
    outcome = explain("mixed")
    assert outcome.status == SKIPPED
    cut, empty, notes = outcome.err.splitlines()
    assert cut.startswith("skipped mixed/cut.png: truncated or corrupt")
    assert empty == "skipped mixed/empty.jpg: empty file"
    assert notes == "skipped mixed/notes.txt: not an image that can be read"
    assert "explained 2 of 5 images" in outcome.out
    assert "3 skipped" in outcome.out
    assert files("out") == ["a_cfcam.png", "z_cfcam.png"]


def test_nothing_explained_is_a_failure(mixed):
    outcome = explain("mixed/empty.jpg", "mixed/notes.txt")
    assert outcome.status == FAILED
    assert outcome.err.splitlines()[-1] == (
        "error: none of the inputs could be explained; the reasons stand above"
    )


def test_json_is_one_object_alone_on_stdout(mixed):
    outcome = explain("mixed", "--json", "--preset", "workflow", "--batch-size", "2")
    assert outcome.status == SKIPPED
    content = json.loads(outcome.out)
    assert content["version"] == cfcam_gpu.__version__
    assert content["model"] == "py:tinynet:make"
    assert content["layer"] == "1"
    assert content["engine"] == resolve_engine("auto", torch.device("cpu"))
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


def test_single_parameters_override_the_preset(work):
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


def test_the_target_is_the_predicted_class_an_index_or_a_name(work):
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


def test_engines_agree_in_the_pictures_they_write(work):
    for engine in ("torch", "reference"):
        content = explain_json("good/a.png", "--engine", engine, "--alpha", "1", "--out", engine)
        assert content["engine"] == engine
    difference = pixels("torch/a_cfcam.png").astype(int) - pixels("reference/a_cfcam.png")
    assert np.abs(difference).max() <= 2


def test_two_inputs_with_the_same_stem_do_not_overwrite_each_other(work):
    photo(3).save("good/a.jpg")
    Path("good/sub").mkdir()
    photo(4, (20, 30)).save("good/sub/a.png")
    rows = explain_json("good")["images"]
    written = [row["outputs"]["overlay"] for row in rows]
    assert len(set(written)) == 4
    assert sorted(written) == sorted(str(Path("out") / name) for name in files("out"))
    assert pixels("out/sub/a_cfcam.png").shape == (30, 20, 3)


def test_the_output_folder_is_no_input_of_a_second_run(work):
    assert explain(".").status == SKIPPED
    before = files("out")
    assert explain(".").status == SKIPPED
    assert files("out") == before


def test_the_original_programs_own_use_works_as_it_is(work):
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


def test_the_overlay_is_40_percent_heatmap_over_60_percent_upright_image(work):
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


def test_cmap_and_alpha_reach_the_picture(work):
    (row,) = explain_json("good/a.png", "--cmap", "jet", "--alpha", "1")["images"]
    jet = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[None], cv2.COLORMAP_JET)[0, :, ::-1]
    shown = pixels(row["outputs"]["overlay"])
    assert {tuple(colour) for colour in shown.reshape(-1, 3)} <= {tuple(colour) for colour in jet}


@pytest.mark.parametrize(
    ("kind", "file"), [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP"), ("none", None)]
)
def test_overlays_are_of_the_kind_asked_for(work, kind, file):
    (row,) = explain_json("good/a.png", "--overlays", kind)["images"]
    if file is None:
        assert row["outputs"] == {}
        assert files("out") == []
    else:
        image = Image.open(row["outputs"]["overlay"])
        assert (image.format, image.size) == (file, (60, 45))
    assert ("overlay" in explain("good/a.png", "--overlays", kind).out) == (file is not None)


def test_more_than_fifty_images_get_a_summary_instead_of_a_table(work):
    for i in range(51):
        photo(i, (8, 8)).save(f"good/{i:02}.png")
    Path("good/99.png").write_bytes(b"")
    outcome = explain("good", "--preset", "default", "--target", "0")
    assert outcome.err == "skipped good/99.png: empty file\n"
    *table, summary = outcome.out.splitlines()
    assert summary.startswith("explained 53 of 54 images")
    blank = int(re.search(r"(\d+) blank", summary)[1])
    assert len(table) == (blank + 1 if blank else 0)


def test_the_progress_bar_is_for_terminals_and_never_on_stdout(mixed, monkeypatch):
    assert "explaining" not in explain("mixed").err
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes any stream for a terminal
    outcome = explain("mixed", "--json", "--out", "other")
    assert re.search(r"explaining.*5/5", outcome.err)
    assert "skipped mixed/empty.jpg: empty file" in outcome.err
    assert json.loads(outcome.out)["counts"]["ok"] == 2


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--preset", "best"], USAGE, "unknown preset 'best'; choose one of: default, upstream, workflow"),
        (["--cmap", "rainbow"], USAGE, "unknown colour map 'rainbow'; choose one of: inferno, "),
        (["--alpha", "40"], USAGE, "alpha must be a number from 0 (only the image) to 1 (only colour), got 40"),
        (["--size", "2x"], USAGE, "--size must be like 224 or 224x320 (height x width), got '2x'"),
        (["--size", "0"], USAGE, "--size must be like 224"),
        (["--size", "1x2x3"], USAGE, "--size must be like 224"),
        (["--mean", "0.5,0.5"], USAGE, "--mean must be three numbers like 0.5,0.5,0.5, got '0.5,0.5'"),
        (["--std", "1,1,one"], USAGE, "--std takes numbers, got 'one'"),
        (["--dominant-percentile", "all"], USAGE, "--dominant-percentile takes numbers, got 'all'"),
        (["--dominant-percentile", "101"], USAGE, "dominant_percentile must be a number from 0 to 100 or None"),
        (["--diameter", "4"], USAGE, "diameter must be a positive odd number"),
        (["--filter", "median"], USAGE, "unknown filter 'median'; choose one of: bilateral, "),
        (["--engine", "warp"], USAGE, "unknown engine 'warp'; choose one of: auto, "),
        (["--device", "gpu"], USAGE, "unknown device 'gpu'; choose auto, cpu, cuda or cuda:N"),
        (["--batch-size", "0"], USAGE, "batch size must be at least 1, got 0"),
        (["--overlays", "gif"], USAGE, "unknown overlays 'gif'; choose one of: none, png, jpeg, webp"),
        (["--weights", "none.pth"], FAILED, "the weights none.pth do not exist"),
        (["--model", "resnet"], FAILED, "unknown model 'resnet'; expected efficientnet-lite0, torchvision:"),
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
def test_a_mistake_ends_in_one_line_that_says_what_to_do(work, arguments, status, message):
    outcome = explain("good", *arguments)
    assert outcome.status == status
    assert outcome.out == ""
    (line,) = outcome.err.splitlines()
    assert line.startswith(f"error: {message}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["explain"], "Missing argument 'INPUT...'"),
        (["explain", "good"], "Missing option '--out'"),
        (["explain", "good", "--out", "out", "--batch-size", "many"], "'--batch-size'"),
        (["explain", "good", "--out", "out", "--colour", "red"], "No such option"),
        (["paint"], "No such command 'paint'"),
    ],
)
def test_a_malformed_command_line_is_a_usage_error(work, arguments, message):
    outcome = cfcam(*arguments)
    assert outcome.status == USAGE
    assert message in outcome.err


def test_a_device_that_is_not_there_is_an_error_and_nothing_falls_back(work):
    outcome = explain("good", "--device", "cuda:99")
    assert outcome.status == FAILED
    assert re.match(
        r"error: device 'cuda:99' was asked for, but PyTorch \S+ sees \d+ CUDA devices; ", outcome.err
    )
    assert not Path("out").exists()


def test_layers_lists_candidates_and_marks_exactly_one(work):
    arguments = ("layers", "py:tinynet:make", "--size", "34x66")
    outcome = cfcam(*arguments)
    assert outcome.status == OK
    table = [line.split() for line in outcome.out.splitlines()[1:]]
    assert table == [
        ["0", "Conv2d", "24", "x", "8", "x", "16"],
        ["1", "ReLU", "24", "x", "8", "x", "16", "automatic"],
    ]
    content = json.loads(cfcam(*arguments, "--json").out)
    assert content == {
        "model": "py:tinynet:make",
        "layers": [
            {"name": "0", "type": "Conv2d", "shape": [24, 8, 16], "chosen": False},
            {"name": "1", "type": "ReLU", "shape": [24, 8, 16], "chosen": True},
        ],
    }


def test_layers_of_the_packaged_model():
    layers = json.loads(cfcam("layers", "efficientnet-lite0", "--json").out)["layers"]
    chosen = [layer for layer in layers if layer["chosen"]]
    assert chosen == [{"name": "_swish", "type": "ReLU6", "shape": [1280, 7, 7], "chosen": True}]


def test_doctor_names_everything_with_a_reason():
    outcome = cfcam("doctor")
    assert outcome.status == OK
    for name in ("python", "torch", "opencv", "cpu", "cuda", "reference", "timm", "cupy", "end to end"):
        assert re.search(rf"(^|\s){name}(:0)?\s+(ok|no)\s+\S", outcome.out), name
    findings = json.loads(cfcam("doctor", "--json").out)
    assert list(findings) == ["versions", "devices", "engines", "optional packages", "check"]
    assert all(finding["detail"] for section in findings.values() for finding in section)
    versions = {finding["name"]: finding["detail"] for finding in findings["versions"]}
    assert versions["torch"] == torch.__version__
    assert versions["cfcam_gpu"] == cfcam_gpu.__version__


def test_doctor_tells_why_a_package_is_not_usable(monkeypatch):
    monkeypatch.setitem(doctor.OPTIONAL, "no_such_package", ("timm", False))
    monkeypatch.setitem(doctor.OPTIONAL, "broken_package", ("timm", False))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    find_spec, import_module = importlib.util.find_spec, importlib.import_module

    def broken(name: str) -> Any:
        if name == "broken_package":
            raise OSError("libfoo.so: cannot open\nsecond line")
        return import_module(name)

    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: find_spec("json" if name in ("broken_package", "cupy") else name),
    )
    monkeypatch.setattr(importlib, "import_module", broken)
    found = {finding.name: finding for finding in doctor.examine()["optional packages"]}
    assert not any(found[name].usable for name in ("no_such_package", "broken_package", "cupy"))
    assert found["no_such_package"].detail == "not installed; pip install 'cfcam-gpu[timm]'"
    assert found["broken_package"].detail == "import fails: libfoo.so: cannot open"
    assert found["cupy"].detail == "installed, but there is no CUDA device"


def test_doctor_fails_when_the_engines_disagree(monkeypatch):
    monkeypatch.setattr(doctor, "TOLERANCE", -1.0)
    outcome = cfcam("doctor")
    assert outcome.status == FAILED
    assert re.search(r"end to end\s+no", outcome.out)


@pytest.fixture(scope="module")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Path]:
    out = tmp_path_factory.mktemp("demo") / "pictures"
    return cfcam("demo", "--out", str(out)), out


def test_the_demo_explains_real_photos_with_readable_names(demo_run):
    outcome, out = demo_run
    assert outcome.status == OK
    for photo_name, label in (
        ("chelsea.png", "Egyptian cat"),
        ("coffee.png", "espresso"),
        ("camera.png", "tripod"),
    ):
        assert re.search(
            rf"{photo_name}\s+{label}\s+\d+\.\d%\s+\d+\s+\d+\.\d%\s+no\s+\S+_heatmap.png", outcome.out
        )
    assert "explained 8 of 8 images" in outcome.out
    sheet, report = out / "contact_sheet.png", out / "report.html"
    assert outcome.out.splitlines()[-2:] == [f"contact sheet: {sheet}", f"report: {report}"]
    assert "Egyptian cat" in report.read_text()
    kinds = ("cfcam", "heatmap", "original")
    assert files(out) == sorted(
        ["contact_sheet.png", "report.html", *(f"{name}_{k}.png" for name in demo.PHOTOS for k in kinds)]
    )


def test_the_contact_sheet_is_a_page_of_moderate_size(demo_run):
    _, out = demo_run
    sheet = out / "contact_sheet.png"
    width, height = Image.open(sheet).size
    assert 1200 <= width <= 1800
    assert 900 <= height <= 1800
    assert sheet.stat().st_size < 1_500_000


def test_the_last_row_of_the_sheet_answers_each_question_on_its_half(lite0, photos):
    with cfcam_gpu.CFCAM(lite0.model) as cam:
        strip = demo.two_questions(lite0, cam, photos[:2])
    (picture, _), (cat, cat_caption), (espresso, espresso_caption) = strip.pictures
    assert picture.size == cat.size == espresso.size == (448, 224)
    assert (cat_caption, espresso_caption) == ("Where is the Egyptian cat?", "Where is the espresso?")
    plain = np.asarray(picture, dtype=float)
    brightness = [
        np.asarray(answer, dtype=float).mean((0, 2)) - 0.6 * plain.mean((0, 2)) for answer in (cat, espresso)
    ]
    (cat_left, cat_right), (espresso_left, espresso_right) = (
        (columns[:224].mean(), columns[224:].mean()) for columns in brightness
    )
    assert cat_left > 2 * cat_right
    assert espresso_right > 2 * espresso_left


def test_the_demo_names_the_extra_that_is_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "skimage" else find_spec(name, *rest)
    )
    outcome = cfcam("demo")
    assert outcome.status == FAILED
    (line,) = outcome.err.splitlines()
    assert line == (
        "error: the demo's photos come with the package skimage, which is not installed; "
        "run: pip install 'cfcam-gpu[demo]'"
    )


def test_the_demo_reports_a_photo_that_is_gone(tmp_path, monkeypatch):
    kept = {name: demo.PHOTOS[name] for name in ("cat", "espresso")}
    monkeypatch.setattr(demo, "PHOTOS", {**kept, "gone": ("skimage", "data/gone.png")})
    outcome = cfcam("demo", "--out", str(tmp_path / "out"), "--json")
    assert outcome.status == SKIPPED
    assert outcome.err == "skipped gone: the installed skimage does not contain data/gone.png\n"
    content = json.loads(outcome.out)
    assert content["counts"] == {"ok": 2, "skipped": 1, "blank": 0}
    assert content["contact_sheet"] == str(tmp_path / "out/contact_sheet.png")


def test_version():
    assert cfcam("--version").out == f"cfcam {cfcam_gpu.__version__}\n"


@pytest.mark.parametrize("command", ["", "explain", "evaluate", "layers", "demo", "doctor"])
def test_help_is_readable_in_80_columns(command, monkeypatch):
    result = CliRunner(env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"}).invoke(
        cli.app, [*command.split(), "--help"]
    )
    assert result.exit_code == OK
    assert max(map(len, result.stdout.splitlines())) <= 80
    if command in ("", "explain", "evaluate", "layers"):
        assert re.search(r"Examples:\s+\S* ?cfcam \w+", result.stdout)


def test_the_help_of_explain_names_every_choice():
    text = " ".join(re.sub("[│─]", " ", cfcam("explain", "--help").out).split())
    assert "torchvision:NAME[@WEIGHTS]" in text
    for choice in (*PRESETS, "inferno", "reference", "cuda:N"):
        assert choice in text


def test_an_interrupt_ends_in_one_line(work, monkeypatch):
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.explain, "explain_dataset", interrupted)
    outcome = explain("good")
    assert outcome.status == INTERRUPTED
    assert outcome.err == "interrupted; what is finished is kept, the same command goes on from there\n"


def test_module_run_with_a_reader_that_goes_away_is_quiet(work):
    """`python -m cfcam_gpu … | head` in a process of its own."""
    arguments = ("layers", "py:tinynet:make", "--size", "32", "--json")
    with subprocess.Popen(
        (*COMMAND, *arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT
    ) as process:
        process.stdout.close()
        error = process.stderr.read().decode()
        assert process.wait(60) == FAILED
    assert error == ""


def test_a_file_name_that_is_no_text_is_explained_and_printed(work):
    name = os.fsdecode(b"good/\xff[red].png")
    try:
        photo(3).save(name)
    except OSError:
        pytest.skip("this file system takes no such name")
    outcome = explain(name)
    assert outcome.status == OK
    assert r"good/\udcff[red].png" in outcome.out
    assert len(files("out")) == 1


def test_report_of_a_run_with_or_after_it_and_of_a_folder_that_is_none(mixed):
    ran = cfcam("explain", str(mixed), "--out", "out", *TINY, "--report")
    assert ran.status == SKIPPED
    assert "report: out/report.html" in ran.err
    with_the_run = Path("out/report.html").read_text()
    assert all(text in with_the_run for text in ("a.png", "empty.jpg", "tinynet"))
    after = cfcam("report", "out", "--out", "page.html")
    assert (after.status, after.out) == (OK, "report: page.html\n")
    assert len(Path("page.html").read_text()) == len(with_the_run)
    nothing = cfcam("report", "good")
    assert nothing.status == FAILED
    assert "Traceback" not in nothing.err
    assert nothing.err.count("\n") == 1
