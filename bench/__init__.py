"""Benchmarks: one module per question, each a command of its own (`python -m bench.throughput`)."""

import importlib.util
import sys
from pathlib import Path

import cfcam_gpu

if importlib.util.find_spec("cfcam_gpu.kernels") is None:
    # In a checkout that is not installed the kernels lie beside the package, not in it.
    _folder = Path(__file__).parent.parent / "kernels"
    _spec = importlib.util.spec_from_file_location(
        "cfcam_gpu.kernels", _folder / "__init__.py", submodule_search_locations=[str(_folder)]
    )
    assert _spec is not None
    assert _spec.loader is not None
    sys.modules[_spec.name] = cfcam_gpu.kernels = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(cfcam_gpu.kernels)
