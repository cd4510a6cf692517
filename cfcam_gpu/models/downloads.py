"""Loading weights through a library that may download them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from cfcam_gpu._utils.messages import one_line
from cfcam_gpu.errors import ModelError

#: Makes torch.load refuse pickled objects, also where a library calls it otherwise.
_WEIGHTS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


@contextmanager
def downloading(spec: str, file: str, folder: Path | None) -> Iterator[None]:
    """Wrap a library's call that downloads and loads weights in this.

    No code in the weights file runs. What the library prints, such as its progress, goes to standard
    error, since standard output belongs to the caller.

    Args:
        spec: the model's specification; file: the name of the weights. Both are for messages.
        folder: where the library keeps downloaded files; None: not known.

    Raises:
        ModelError: the download or the loading failed; the message says what to do.
    """
    cached = folder / file if folder is not None and (folder / file).exists() else None
    try:
        with weights_only(), redirect_stdout(sys.stderr):
            yield
    except Exception as error:  # each network library has exceptions of its own
        remedy = "pass --weights FILE, or use --model efficientnet-lite0, which needs no download"
        if cached is not None:
            problem = f"{cached} cannot be loaded ({one_line(error)}); delete it and try again, or {remedy}"
        else:
            place = "" if folder is None else f"put that file into {folder}, or "
            problem = f"the weights {file} could not be downloaded ({one_line(error)}); {place}{remedy}"
        raise ModelError(f"{spec}: {problem}") from error


@contextmanager
def weights_only() -> Iterator[None]:
    """Inside it no code in a weights file runs, whichever library reads the file."""
    before = os.environ.get(_WEIGHTS_ONLY)
    os.environ[_WEIGHTS_ONLY] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_WEIGHTS_ONLY]
        else:
            os.environ[_WEIGHTS_ONLY] = before
