"""The kinds of models that a specification can name. Imports no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """One kind of model.

    Attributes:
        form: how a specification of this kind is written.
        module: the module of this package that loads it, imported when it is used. It has a function
            `load(request: Request) -> LoadedModel`.
    """

    form: str
    module: str


#: What stands before the first colon of a specification -> its kind.
KINDS = {
    "efficientnet-lite0": Kind("efficientnet-lite0", "packaged"),
    "efficientnet-lite1": Kind("efficientnet-lite1", "packaged"),
    "efficientnet-lite2": Kind("efficientnet-lite2", "packaged"),
    "torchvision": Kind("torchvision:NAME[@WEIGHTS]", "torchvision"),
    "timm": Kind("timm:NAME", "timm"),
    "hf": Kind("hf:NAME_OR_FOLDER", "huggingface"),
    "py": Kind("py:package.module:factory", "python"),
}

#: How specifications are written, for help texts and messages.
FORMS = tuple(kind.form for kind in KINDS.values())
