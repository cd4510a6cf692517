"""The Dockerfiles fit the package, and the recipes for clusters fit the command."""

from __future__ import annotations

import fnmatch
import json
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from cfcam_gpu.cli.app import app
from cfcam_gpu.cli.explain import _with_preset
from cfcam_gpu.cli.options import build
from cfcam_gpu.dataset import open_results
from cfcam_gpu.dataset.options import RunOptions
from cfcam_gpu.models import ModelOptions
from tests.helpers.command import OK, cfcam
from tests.helpers.smallnet import photo
from tests.helpers.tinynet import FACTORY, TINY

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "clusters.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DOCKERFILES = ["Dockerfile", "Dockerfile.cuda"]

#: Variables by which a process knows its share, of two.
SHARES = {
    "array": {
        "SLURM_ARRAY_TASK_ID": "{}", "SLURM_ARRAY_TASK_MIN": "0",
        "SLURM_ARRAY_TASK_STEP": "1", "SLURM_ARRAY_TASK_COUNT": "2",
    },
    "srun": {"SLURM_PROCID": "{}", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "2"},
}  # fmt: skip


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


def job() -> dict[str, Any]:
    (block,) = blocks("yaml")
    content: dict[str, Any] = yaml.safe_load(block)
    return content


def commands() -> list[str]:
    """The lines of `cfcam`, whatever stands before them."""
    lines = [line.partition(" #")[0] for block in blocks("sh") for line in block.splitlines()]
    lines += [job()["spec"]["entrypoint"], *re.findall(r"`(cfcam \w+ [^`]*)`", TEXT)]
    found = [
        re.search(r"(?:^|\s)(?:cfcam|cfcam:cuda) ((?:explain|report|export) .*)", line) for line in lines
    ]
    return [match[1] for match in found if match]


def instructions(name: str) -> list[tuple[str, str]]:
    """(instruction, its arguments) of a Dockerfile, without comments."""
    text = "\n".join(line for line in (ROOT / name).read_text().splitlines() if not line.startswith("#"))
    lines = text.replace("\\\n", " ").splitlines()
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in lines if line.strip()]


def arguments(name: str, instruction: str) -> list[str]:
    return [rest for kind, rest in instructions(name) if kind == instruction]


@pytest.mark.parametrize("line", commands())
def test_the_parser_takes_a_recipes_command(line: str):
    name, *given = shlex.split(line)
    command = app.get_command(app.make_context("cfcam", ["--help"], resilient_parsing=True), name)
    assert command is not None
    values: Mapping[str, Any] = command.make_context(name, given).params
    if name == "explain":
        values = _with_preset(values)
        build(RunOptions, values)
        build(ModelOptions, values)


def test_there_are_commands_of_every_recipe():
    assert len(commands()) >= 8
    assert sum("--distributed ray" in line for line in commands()) == 2


@pytest.mark.parametrize("kind", SHARES)
def test_the_processes_of_a_slurm_script_do_the_whole_together(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    script = next(
        block for block in blocks("sh") if "#SBATCH" in block and (kind == "array") == ("--array" in block)
    )
    (line,) = re.findall(r"^(?:srun )?cfcam (.*)", script, re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tinynet.py").write_text(FACTORY)
    (tmp_path / "names.txt").write_text("ant\nbee\ncat\n")
    (tmp_path / "photos").mkdir()
    for number in range(5):
        photo(number).save(tmp_path / "photos" / f"{number}.png")
    for rank in (1, 0):
        for name, value in SHARES[kind].items():
            monkeypatch.setenv(name, value.format(rank))
        outcome = cfcam(*shlex.split(line), *TINY, "--part-size", "1", "--workers", "0")
        assert outcome.status == OK, outcome.err
        assert 0 < open_results("maps").table().num_rows <= 5
    assert [row["status"] for row in open_results("maps").rows()] == ["ok"] * 5


@pytest.mark.parametrize("name", DOCKERFILES)
def test_a_dockerfile_copies_what_the_package_is_built_from(name: str):
    (base,) = arguments(name, "FROM")
    assert re.fullmatch(r"\w+:\d+\.\d+\.\d+-[\w-]+", base), "the base is not pinned"
    copied = [source for line in arguments(name, "COPY") for source in line.split()[:-1]]
    assert all((ROOT / source).exists() for source in copied)
    project = PROJECT["project"]
    packages = {package.partition(".")[0] for package in PROJECT["tool"]["setuptools"]["packages"]}
    moved = set(PROJECT["tool"]["setuptools"]["package-dir"].values())
    needed = {"pyproject.toml", project["readme"], *project["license-files"], *packages, *moved}
    assert needed == set(copied)
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert {line[1:] for line in ignored if line.startswith("!")} == needed
    assert not any(fnmatch.fnmatch(source, line) for source in needed for line in ignored if line not in "*")


@pytest.mark.parametrize("name", DOCKERFILES)
def test_a_dockerfile_installs_extras_that_exist_and_runs_without_privileges(name: str):
    (install,) = [line for line in arguments(name, "RUN") if "pip install" in line]
    assert "--no-cache-dir" in install
    (extras,) = re.findall(r"/src\[([\w,]+)\]", install)
    assert set(extras.split(",")) <= set(PROJECT["project"]["optional-dependencies"])
    assert arguments(name, "USER") == ["1000"]
    assert "useradd --uid 1000" in " ".join(arguments(name, "RUN"))
    assert json.loads(arguments(name, "ENTRYPOINT")[0]) == ["cfcam"]


def test_the_job_of_kuberay_has_the_keys_that_its_definition_names():
    content = job()
    assert (content["apiVersion"], content["kind"]) == ("ray.io/v1", "RayJob")
    cluster = content["spec"]["rayClusterSpec"]
    assert set(cluster) == {"headGroupSpec", "workerGroupSpecs"}
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
        assert pod["securityContext"]["runAsUser"] == 1000
    assert {"groupName", "replicas", "minReplicas", "maxReplicas"} <= set(groups[1])
    (image,) = blocks("dockerfile")
    assert (
        f"'ray[default]{PROJECT['project']['optional-dependencies']['ray'][0].removeprefix('ray')}'" in image
    )
