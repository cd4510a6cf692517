"""Wheels that a GPU machine without a network needs for `bench.gpu_check`, fetched on one that has an index.

    python -m bench.gpu_wheels FOLDER [--python 3.12] [--opencv]
    pip install --no-index --no-deps FOLDER/*.whl        (there)

That machine is expected to have PyTorch, torchvision, Triton, NumPy, scikit-learn, Pillow, pyarrow and pytest.
OpenCV is large, so it is fetched only when asked for: the check says whether it is needed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

#: Pure Python: what the package imports beyond what such a machine has, and what is compared with.
PURE = ("kornia==0.9.0", "grad-cam==1.5.7", "ttach==0.0.3", "torchcam==0.5.0", "captum==0.9.0")

#: Compiled for the GPU machine's Python and processor.
COMPILED = ("kornia_rs==0.2.0",)
OPENCV = "opencv-python-headless==5.0.0.93"


def commands(folder: Path, python: str, *, opencv: bool) -> list[list[str]]:
    """The commands that put all wheels into a folder; the machine there is Linux on x86-64."""
    pip = [sys.executable, "-m", "pip"]
    platforms = ["--platform", "manylinux_2_28_x86_64", "--platform", "manylinux2014_x86_64"]
    compiled = [*COMPILED, *([OPENCV] if opencv else [])]
    return [
        [*pip, "wheel", "-q", "--no-deps", "-w", str(folder), *PURE],
        [*pip, "download", "-q", "--no-deps", "--only-binary=:all:", "--python-version", python,
         "--implementation", "cp", *platforms, "-d", str(folder), *compiled],
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default="3.12", help="the GPU machine's Python")
    parser.add_argument("--opencv", action="store_true", help="OpenCV as well")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for command in commands(options.folder, options.python, opencv=options.opencv):
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
