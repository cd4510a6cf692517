"""`cfcam layers`. PyTorch is imported inside the function, so that its help is quick."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from cfcam_gpu._utils.messages import either
from cfcam_gpu._utils.option import METHOD, Option
from cfcam_gpu.cli.interrupt import raise_again
from cfcam_gpu.cli.options import Argument, Json, command
from cfcam_gpu.cli.printing import print_json, print_table
from cfcam_gpu.models import FORMS, ModelOptions

EXAMPLES = """
 Examples:
   cfcam layers efficientnet-lite0
   cfcam layers torchvision:resnet50 --size 320x320
"""


@command(examples=EXAMPLES, leave_out=("model", "class_names"))
def layers(
    spec: Annotated[str, Argument(f"{either(FORMS)}.", "MODEL")],
    options: ModelOptions,
    *,
    output: Annotated[
        str | None, Option("Index or key of the logits in what the model returns.", METHOD, "KEY")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the layers whose output may be a map of the image, how it is read, and the automatic choice."""
    options.check()  # before PyTorch is imported, which takes seconds

    import torch

    from cfcam_gpu._utils.device import model_errors
    from cfcam_gpu.capture import Scoring, list_layers

    raise_again()
    loaded = dataclasses.replace(options, model=spec).load()
    shape = (1, loaded.preprocess.channels, *loaded.preprocess.size)
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    with model_errors(images.shape):
        infos = list_layers(loaded.model, images, Scoring(output=output))
    if as_json:
        print_json({"model": loaded.spec, "layers": [dataclasses.asdict(info) for info in infos]})
        return
    print_table(
        {
            "layer": "left",
            "type": "left",
            "output": "right",
            "layout": "left",
            "map": "right",
            "choice": "left",
        },
        [
            (
                info.name,
                info.type,
                " x ".join(map(str, info.shape)),
                info.layout,
                " x ".join(map(str, info.map_shape)),
                f"automatic: {info.note}" if info.chosen else info.note,
            )
            for info in infos
        ],
    )
