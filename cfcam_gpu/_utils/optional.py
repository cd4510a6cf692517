"""Packages that only some features need: imported when used, and named with their extra when missing."""

from __future__ import annotations

import importlib
from types import ModuleType

from cfcam_gpu._utils.messages import first_line
from cfcam_gpu.errors import MissingPackageError

#: What installs a package that an extra brings.
INSTALL = "pip install 'cfcam-gpu[{extra}]'"


def require(module: str, extra: str, package: str | None = None) -> ModuleType:
    """The module, imported.

    Args:
        module: dotted name of the module.
        extra: the extra of this package that installs it.
        package: the name to show; None: the module's first part.

    Raises:
        MissingPackageError: it is not installed, or its import fails.

    Example:
        >>> require("json", "demo").loads("1")
        1
        >>> require("no_such_module", "demo")
        Traceback (most recent call last):
        cfcam_gpu.errors.MissingPackageError: no_such_module is not installed; run: pip install 'cfcam-gpu[demo]'
    """
    name = package or module.partition(".")[0]
    install = INSTALL.format(extra=extra)
    try:
        return importlib.import_module(module)
    except ImportError as error:
        absent = isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}.")
        problem = "is not installed" if absent else f"cannot be imported ({first_line(error)})"
        raise MissingPackageError(f"{name} {problem}; run: {install}") from error


def importable(module: str, remedy: str) -> tuple[bool, str]:
    """Whether a module can be imported; its version, or the reason with the remedy.

    Example:
        >>> importable("no_such_module", "pip install it")
        (False, "No module named 'no_such_module'; pip install it")
    """
    try:
        imported = importlib.import_module(module)
    except ImportError as error:
        return False, f"{error}; {remedy}"
    return True, f"{module} {getattr(imported, '__version__', '')}".strip()
