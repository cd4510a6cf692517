"""Engine `numba`: as `torch`, but Numba compiles the clustering of the channels for the CPU.

Numba takes more than a second to import, so this waits until the engine first runs.
"""

from __future__ import annotations

import importlib.util

from torch import Tensor

from cfcam_gpu._utils.messages import one_line
from cfcam_gpu.cfcam.maps import Maps
from cfcam_gpu.config import CFCAMConfig
from cfcam_gpu.engines import torch_engine
from cfcam_gpu.errors import BackendError


def run(activations: Tensor, gradients: Tensor, size: tuple[int, int], config: CFCAMConfig) -> Maps:
    """See `Engine.run`.

    Raises:
        BackendError: Numba is installed but cannot be imported.
    """
    try:
        from cfcam_gpu.engines.numba_scan import scan_compiled
    except ImportError as error:
        raise BackendError(
            f"engine 'numba' cannot run: {one_line(error)}; reinstall numba, or choose engine torch"
        ) from error
    return torch_engine.run(activations, gradients, size, config, scan_compiled)


def available(device_type: str) -> tuple[bool, str]:
    """See `Engine.available`; Numba is looked for, not imported."""
    if device_type != "cpu":
        return False, "runs on the CPU only"
    if importlib.util.find_spec("numba") is None:
        return False, "numba is not installed; run: pip install numba"
    return True, "numba is installed; it compiles at the first run"
