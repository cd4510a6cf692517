"""Whether a weights file may be read at all. Imports no PyTorch, so that a wrong path is answered at once."""

from __future__ import annotations

from pathlib import Path

from cfcam_gpu._utils.regular_files import refuse_special
from cfcam_gpu.errors import ModelError


def check_weights_file(path: Path) -> None:
    """Raises ModelError for a path that is no file, and for a file that is recognised as something else.

    Example:
        >>> check_weights_file(Path("none.pth"))
        Traceback (most recent call last):
        cfcam_gpu.errors.ModelError: the weights none.pth do not exist; give a .pth, .pt or .safetensors file
    """
    try:
        refuse_special(path)
        with path.open("rb") as file:
            start = file.read(512).lstrip().lower()
    except OSError as error:
        reason = (
            "do not exist" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        )
        raise ModelError(f"the weights {path} {reason}; give a .pth, .pt or .safetensors file") from error
    if not start:
        raise ModelError(f"the weights {path} are an empty file; copy or download it again")
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ModelError(f"the weights {path} are a web page, not weights; download the file itself")
    if start.startswith(b"version https://git-lfs"):
        raise ModelError(f"the weights {path} are a Git LFS pointer, not weights; run git lfs pull")
