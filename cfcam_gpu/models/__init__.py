"""Classifiers loaded from a short specification: the model, its preprocessing and its class names.

How a specification is written (see `kinds.KINDS`):

    efficientnet-lite0                packaged ImageNet classifier, no download (extra `demo`)
    torchvision:NAME[@WEIGHTS]        a classification model of torchvision; @none: untrained
    timm:NAME                         a model of timm (extra `timm`); NAME@none: untrained
    hf:NAME_OR_FOLDER                 an image classifier of transformers (extra `hf`), from the hub or a folder
    py:package.module:factory         the model that factory() of an importable module returns

Importing this package imports no PyTorch: the command's `--help` reads `FORMS` and `PRECISIONS`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cfcam_gpu._utils.lazy import lazy

if TYPE_CHECKING:
    from cfcam_gpu.models.class_names import read_class_names
    from cfcam_gpu.models.kinds import FORMS
    from cfcam_gpu.models.load import load_model
    from cfcam_gpu.models.loaded import LoadedModel
    from cfcam_gpu.models.options import PRECISIONS, ModelOptions
    from cfcam_gpu.models.prepare import prepared

__all__ = [
    "FORMS",
    "PRECISIONS",
    "LoadedModel",
    "ModelOptions",
    "load_model",
    "prepared",
    "read_class_names",
]

_HOME = {
    "FORMS": "kinds",
    "PRECISIONS": "options",
    "LoadedModel": "loaded",
    "ModelOptions": "options",
    "load_model": "load",
    "prepared": "prepare",
    "read_class_names": "class_names",
}

__getattr__, __dir__ = lazy(__name__, globals(), _HOME)
