"""What is installed is what is in the repository: packages, templates, kernels, and nothing else."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

import cfcam_gpu

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
SOURCES = {"cfcam_gpu": ROOT / "cfcam_gpu", "cfcam_gpu/kernels": ROOT / "kernels"}


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def _files() -> set[str]:
    """Every file that must be installed, by its path in the wheel."""
    files = set()
    for package, folder in SOURCES.items():
        for path in folder.rglob("*"):
            inside = path.relative_to(folder)
            if path.is_file() and "__pycache__" not in inside.parts and inside.parts[0] != "kernels":
                files.add(f"{package}/{inside.as_posix()}")
    return files


def test_every_folder_with_modules_is_a_package_of_the_project(project):
    folders = {str(Path(name).parent).replace("/", ".") for name in _files() if name.endswith(".py")}
    assert set(project["tool"]["setuptools"]["packages"]) == folders
    for name in folders:
        folder = (
            ROOT / name.removeprefix("cfcam_gpu.")
            if name.endswith(".kernels")
            else ROOT / name.replace(".", "/")
        )
        assert (folder / "__init__.py").is_file(), f"{name} has no __init__.py"


@pytest.mark.slow
def test_a_wheel_holds_every_file_and_the_version(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("cfcam_gpu", "kernels"):
        ignore = shutil.ignore_patterns("__pycache__", *(("kernels",) if name == "cfcam_gpu" else ()))
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "-w", str(tmp_path), str(source)], check=True, capture_output=True, text=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.startswith(f"cfcam_gpu-{cfcam_gpu.__version__}-")
    with zipfile.ZipFile(wheel) as archive:
        installed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert installed == _files()


def test_the_version_stands_in_one_place():
    """`cfcam_gpu.__version__`; the changelog's first heading is that version, or what is not released yet."""
    changelog = (ROOT / "CHANGELOG.md").read_text()
    heading = re.search(r"^## (\S+)", changelog, re.MULTILINE)
    assert heading is not None
    assert heading[1] == cfcam_gpu.__version__
    assert cfcam_gpu.__version__ not in (ROOT / "pyproject.toml").read_text()
