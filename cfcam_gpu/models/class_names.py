"""Class names: those of ImageNet, and files of names."""

from __future__ import annotations

import runpy
from importlib.util import find_spec
from pathlib import Path

from cfcam_gpu._utils.messages import one_line
from cfcam_gpu._utils.regular_files import refuse_special
from cfcam_gpu.errors import ModelError


def read_class_names(path: Path, count: int | None = None) -> tuple[str, ...]:
    r"""The class names in a UTF-8 text file, one per line, in the order of the model's outputs.

    Args:
        path: the file.
        count: number of the model's outputs, each of which needs a name; two names are fine for one output, which
            decides between two classes. None: any number.

    Raises:
        ModelError: the file cannot be read, has a blank line, or another number of names.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "names.txt"
        ...     _ = path.write_text("normal\npneumonia\n")
        ...     read_class_names(path, count=2)
        ('normal', 'pneumonia')
    """
    try:
        refuse_special(path)
        lines = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(
            f"the class names {path} cannot be read as UTF-8 text ({one_line(error)})"
        ) from error
    names = tuple(line.strip() for line in lines)
    if not names or "" in names:
        blank = f"line {names.index('') + 1} is blank" if names else "the file is empty"
        raise ModelError(f"the class names {path} must be one name per line: {blank}")
    if count is not None and len(names) != count and (count, len(names)) != (1, 2):
        expected = "1 or 2" if count == 1 else count
        raise ModelError(f"the class names {path} must be {expected}, one per line, got {len(names)}")
    return names


def imagenet_names() -> tuple[str, ...]:
    """The names of the 1000 ImageNet classes, in the usual order of outputs.

    They are read from the one file of torchvision that holds them. Importing torchvision takes
    longer than importing PyTorch, because it imports PyTorch's compiler.

    Example:
        >>> imagenet_names()[:3]
        ('tench', 'goldfish', 'great white shark')
    """
    package = find_spec("torchvision")
    for folder in (package and package.submodule_search_locations) or ():
        file = Path(folder) / "models" / "_meta.py"
        names = runpy.run_path(str(file)).get("_IMAGENET_CATEGORIES") if file.is_file() else None
        if names:
            return tuple(names)
    from torchvision.models import ResNet50_Weights  # a release of torchvision that keeps them elsewhere

    return tuple(ResNet50_Weights.IMAGENET1K_V2.meta["categories"])
