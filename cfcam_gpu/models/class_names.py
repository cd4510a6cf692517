"""Files of class names."""

from __future__ import annotations

from pathlib import Path

from cfcam_gpu._utils.messages import one_line
from cfcam_gpu.errors import ModelError


def read_class_names(path: Path, count: int | None = None) -> tuple[str, ...]:
    r"""The class names in a UTF-8 text file, one per line, in the order of the model's outputs.

    Args:
        path: the file.
        count: how many names the file must have; None: any number.

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
        lines = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(
            f"the class names {path} cannot be read as UTF-8 text ({one_line(error)})"
        ) from error
    names = tuple(line.strip() for line in lines)
    if not names or "" in names:
        blank = f"line {names.index('') + 1} is blank" if names else "the file is empty"
        raise ModelError(f"the class names {path} must be one name per line: {blank}")
    if count is not None and len(names) != count:
        raise ModelError(f"the class names {path} must be {count}, one per line, got {len(names)}")
    return names
