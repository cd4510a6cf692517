"""When two class names mean the same class."""

from __future__ import annotations


def class_key(name: str) -> str:
    """Equal for names that differ only in capitals, spaces and underscores.

    Example:
        >>> class_key("Egyptian_cat") == class_key(" egyptian  cat ")
        True
    """
    return " ".join(name.replace("_", " ").casefold().split())
