"""Public names of a package that are imported at their first use, so that importing the package stays cheap."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy(
    package: str, names: dict[str, Any], home: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The `__getattr__` and `__dir__` of a package.

    Args:
        package: full name of the package.
        names: the package's `globals()`; a name is added to it when it is first used.
        home: public name -> module inside the package that defines it.

    Example:
        >>> get, listing = lazy("json", {}, {"JSONDecoder": "decoder"})
        >>> get("JSONDecoder").__module__
        'json.decoder'
        >>> listing()
        ['JSONDecoder']
    """

    def get(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{package}.{home[name]}"), name)
        names[name] = value
        return value

    return get, lambda: sorted({*names, *home})
