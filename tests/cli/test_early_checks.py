"""What is checked before PyTorch is imported is what the run itself would refuse, in the same words."""

from __future__ import annotations

from pathlib import Path

import pytest

from cfcam_gpu.cli.early_checks import check_before_loading
from cfcam_gpu.dataset.options import RunOptions
from cfcam_gpu.dataset.sources.folders import check_input, expand_input
from cfcam_gpu.errors import InputError, ModelError
from cfcam_gpu.models import ModelOptions

HERE = [
    "a.png",
    "folder",
    ".",
    "*.png",
    "fol*",
    "**/b.png",
    "{a,c}.png",
    "{a,c}.p*",
    "p-{0..1}.tar",
    "[x].png",
]
GONE = [
    "",
    " ",
    "gone",
    "gone/*",
    "*.gif",
    "**/gone.png",
    "{a,gone}.png",
    "{a,c}.g*",
    "p-{0..2}.tar",
    "[y].png",
]


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    for name in ("a.png", "c.png", "folder/b.png", "p-0.tar", "p-1.tar", "[x].png"):
        Path(name).touch()
    return tmp_path


@pytest.mark.usefixtures("places")
@pytest.mark.parametrize("text", HERE)
def test_an_input_that_the_run_takes_passes(text: str):
    assert list(expand_input(text))
    check_input(text)


@pytest.mark.usefixtures("places")
@pytest.mark.parametrize("text", GONE)
def test_an_input_that_is_not_there_is_refused_in_the_words_of_the_run(text: str):
    with pytest.raises(InputError) as early:
        check_input(text)
    with pytest.raises(InputError) as late:
        list(expand_input(text))
    assert str(early.value) == str(late.value)


@pytest.mark.usefixtures("places")
@pytest.mark.parametrize("files", [{"weights": Path("gone.pth")}, {"class_names": Path("gone.txt")}], ids=str)
def test_a_models_files_must_be_here_unless_other_machines_load_it(files: dict[str, Path]):
    model = ModelOptions("torchvision:squeezenet1_1@none", **files)  # type: ignore[arg-type]
    with pytest.raises(ModelError) as early:
        check_before_loading(["a.png"], model, RunOptions())
    with pytest.raises(ModelError) as late:
        model.load()
    assert str(early.value) == str(late.value)
    check_before_loading(["a.png"], model, RunOptions(distributed="ray"))
