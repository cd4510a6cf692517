"""A loaded model with what belongs to it."""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass

from torch import nn

from cfcam_gpu._utils.class_names import class_key
from cfcam_gpu._utils.messages import listed
from cfcam_gpu.errors import TargetError
from cfcam_gpu.images.preprocess import Preprocess

#: A text of more digits is no index; Python refuses to read very long ones.
_MOST_DIGITS = 18


@dataclass(frozen=True)
class LoadedModel:
    """A model with its preprocessing and class names.

    `load_model` returns one; make one yourself to explain a model that is already in memory.

    Attributes:
        model: an image classifier in eval mode, on the CPU: (B, channels, H, W) float32 -> logits (B, classes).
        preprocess: turns an image into the model's input.
        class_names: one name per output; None: not known. A model with one output decides between two classes,
            not and yes: one name is that of the second, and the first gets "not" before it.
        spec: what was asked for; shown to people.
        weights: where the weights come from; shown to people.
        weights_key: the entry of a weights file that was asked for; None: none was.

    Example:
        >>> from torch import nn
        >>> from cfcam_gpu.images.preprocess import PUBLISHED_PREPROCESS
        >>> net = nn.Sequential(nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> loaded = LoadedModel(net.eval(), PUBLISHED_PREPROCESS, ("tabby", "Egyptian cat"), "my net", "random")
        >>> loaded.class_name(0), loaded.class_name(2)
        ('tabby', 'class 2')
        >>> loaded.class_index("egyptian_cat"), loaded.class_index("0")
        (1, 0)
    """

    model: nn.Module
    preprocess: Preprocess
    class_names: tuple[str, ...] | None
    spec: str
    weights: str
    weights_key: str | None = None

    def __post_init__(self) -> None:
        if self.class_names is not None and len(self.class_names) == 1:
            object.__setattr__(self, "class_names", (f"not {self.class_names[0]}", self.class_names[0]))

    def class_name(self, index: int) -> str:
        """The name of a class; "class 7" where it is not known."""
        names = self.class_names or ()
        return names[index] if 0 <= index < len(names) else f"class {index}"

    def class_index(self, text: str) -> int:
        """The index of a class, given as digits or as a name.

        Names are compared without regard to capitals, spaces and underscores (see `class_key`).

        Raises:
            TargetError: no such class, or several classes of that name; the message suggests names.
        """
        if re.fullmatch(r"[+-]?\d+", text.strip(), re.ASCII):
            if len(text) > _MOST_DIGITS:
                raise TargetError(f"no class of {self.spec} has an index of {len(text.strip())} digits")
            return self._checked_index(int(text))
        if self.class_names is None:
            raise TargetError(
                f"the class names of {self.spec} are not known, so {text!r} cannot be found; give the class "
                "index, or a file of class names"
            )
        key = class_key(text)
        matches = [index for index, name in enumerate(self.class_names) if class_key(name) == key]
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise TargetError(f"{text!r} is the name of classes {listed(matches)}; give the index")
        similar = ", ".join(f"{name} ({index})" for index, name in self._similar_names(key))
        raise TargetError(
            f"no class is called {text!r}; {'similar: ' + similar if similar else 'give the index'}"
        )

    def _checked_index(self, index: int) -> int:
        count = math.inf if self.class_names is None else len(self.class_names)
        if 0 <= index < count:
            return index
        expected = "0 or more" if self.class_names is None else f"from 0 to {len(self.class_names) - 1}"
        raise TargetError(f"a class index of {self.spec} must be {expected}, got {index}")

    def _similar_names(self, key: str) -> list[tuple[int, str]]:
        names = self.class_names or ()
        keys = [class_key(name) for name in names]
        similar = [name for name in keys if key and key in name]
        similar += difflib.get_close_matches(key, keys, n=5)
        return [(index, names[index]) for index in dict.fromkeys(map(keys.index, similar))][:5]
