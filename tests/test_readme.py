"""What the README says to type runs as it stands, in a folder with photos and small models; links lead to files."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import cfcam_gpu
from cfcam_gpu.cli.app import COMMANDS as COMMAND_NAMES
from cfcam_gpu.dataset import explain_dataset, open_results
from cfcam_gpu.images import Preprocess
from tests.helpers.command import OK, cfcam
from tests.helpers.readme_folder import make_folder

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8")


def _shell_lines() -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    return [line.partition("#")[0].strip() for block in blocks for line in block.splitlines()]


def _commands() -> list[str]:
    """Lines of `cfcam` in blocks, in table cells and in the text, each once."""
    inline = re.findall(r"`(cfcam \w+[^`]*)`", TEXT)
    return list(dict.fromkeys(line for line in (*_shell_lines(), *inline) if line.startswith("cfcam ")))


COMMANDS = _commands()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, photos: list[Image.Image]) -> Path:
    made = tmp_path_factory.mktemp("readme")
    make_folder(made, photos)
    return made


def test_the_readme_is_short_and_its_pictures_are_small():
    assert len(TEXT.splitlines()) <= 140
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", TEXT)
    assert len(pictures) == 2
    for name in pictures:
        with Image.open(ROOT / name) as picture:
            picture.verify()
        assert (ROOT / name).stat().st_size < 150_000


def test_there_are_commands_of_every_kind():
    models = {word.partition(":")[0] for line in COMMANDS for word in line.split() if ":" in word}
    assert {"torchvision", "timm", "hf", "py"} <= models
    assert len(COMMANDS) >= 14


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_runs(line, folder, monkeypatch):
    """In their order: `export` reads what an earlier one wrote."""
    monkeypatch.chdir(folder)
    outcome = cfcam(*shlex.split(line)[1:])
    assert outcome.status == OK, outcome.err
    if line.startswith("cfcam explain"):
        assert re.search(r"explained ([1-9]\d*) of \1 images", outcome.out + outcome.err), outcome.out


def test_the_model_of_the_first_block_leaves_a_picture(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (block,) = re.findall(r"^```python\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    namespace: dict[str, Any] = {"__name__": "__readme__"}
    exec(compile(block, str(README), "exec", dont_inherit=True), namespace)
    with Image.open("cat_map.png") as picture, Image.open("photos/cat.jpg") as photo:
        assert picture.size == photo.size
        assert picture.tobytes() != photo.convert("RGB").tobytes()
    assert float(namespace["result"].heatmap.max()) == 1.0


def test_the_line_for_volumes_runs():
    (line,) = re.findall(r"`(heatmaps = [^`]+)`", TEXT)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv3d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(8, 2))
    namespace: dict[str, Any] = {
        "CFCAM": cfcam_gpu.CFCAM,
        "net": net,
        "volumes": torch.rand(2, 1, 12, 16, 16),
    }
    exec(line, namespace)
    assert namespace["heatmaps"].shape == (2, 12, 16, 16)


def test_the_line_for_a_loader_runs(tmp_path, monkeypatch):
    (line,) = re.findall(r"`(explain_dataset\([^`]+)`", TEXT)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    namespace: dict[str, Any] = {
        "explain_dataset": explain_dataset,
        "loader": DataLoader(TensorDataset(torch.rand(3, 3, 16, 16), torch.tensor([0, 1, 0])), batch_size=2),
        "model": net,
        "transform": Preprocess((16, 16), (0.5,) * 3, (0.25,) * 3),
    }
    exec(line, namespace)
    rows = list(open_results("m10").rows())
    assert [(row["status"], row["label"]) for row in rows] == [("ok", "0"), ("ok", "1"), ("ok", "0")]


def test_the_imports_of_the_tables_exist():
    lines = re.findall(r"`(from cfcam_gpu[^`]+)`", TEXT)
    assert len(lines) >= 3
    for line in lines:
        exec(line, {})


def test_extras_and_targets_exist():
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extras in re.findall(r"pip install '\.\[([\w,]+)\]'", TEXT):
        assert set(extras.split(",")) <= set(known)
    rules = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    asked = re.findall(
        r"make ([\w-]+)", "\n".join(line for line in TEXT.splitlines() if line.startswith("make "))
    )
    assert len(asked) >= 3
    assert set(asked) <= set(rules)


PAGES = [
    README,
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "bench" / "README.md",
    ROOT / "CONTRIBUTING.md",
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", text):
        assert (page.parent / target).exists(), target


def test_the_page_about_installing_names_every_extra():
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    page = (ROOT / "docs" / "installing.md").read_text(encoding="utf-8")
    named = {name for cell in re.findall(r"`([^`\n]+)`", page) for name in re.split(r"\W+", cell)}
    named |= {name for group in re.findall(r"\[([\w,]+)\]'", page) for name in group.split(",")}
    assert set(known) <= named


def test_the_page_about_the_command_names_every_command():
    page = (ROOT / "docs" / "command.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `cfcam (\w+)` \|", page, re.MULTILINE)) == set(COMMAND_NAMES)
