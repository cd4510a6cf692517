"""The ways to decode an image for the model, by name. The modules that do it are imported when one is first used."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from cfcam_gpu.images.read_options import ReadOptions

if TYPE_CHECKING:
    from cfcam_gpu.images.preprocess import Preprocess
    from cfcam_gpu.images.views import FileView, View

__all__ = ["DECODERS", "Decoder"]

_DEFAULT_OPTIONS = ReadOptions()


@dataclass(frozen=True)
class Decoder:
    """A way to decode images for the model. Whatever shows an original image decodes it in full.

    Attributes:
        function: the function in `cfcam_gpu.images.views` that reads a view.
        about: one line for people.
        needs_cuda: the function leaves JPEG files to the GPU, so that it needs one.

    Example:
        >>> import io
        >>> from PIL import Image
        >>> from cfcam_gpu.images.preprocess import PUBLISHED_PREPROCESS
        >>> file = io.BytesIO()
        >>> Image.new("RGB", (1024, 768), "red").save(file, "jpeg")
        >>> view = DECODERS["scaled"].read(file, "", PUBLISHED_PREPROCESS)
        >>> view.pixels.shape, view.width, view.height
        ((224, 224, 3), 1024, 768)
    """

    function: str
    about: str
    needs_cuda: bool = False

    def read(
        self,
        stream: BinaryIO,
        name: str,
        preprocess: Preprocess,
        options: ReadOptions = _DEFAULT_OPTIONS,
    ) -> View | FileView:
        """The view of the image in an opened file, or the file for the GPU to decode.

        Args:
            stream: the file, at its start.
            name: the file's name; see `decode.decode`.
            preprocess: what makes the view.

        Raises:
            ImageError: the file cannot be read or decoded.
        """
        views = importlib.import_module("cfcam_gpu.images.views")
        view: View | FileView = getattr(views, self.function)(stream, name, preprocess, options)
        return view


#: Name -> decoder, in the order of a table for people.
DECODERS: dict[str, Decoder] = {
    "full": Decoder("full_view", "every image at its full size"),
    "scaled": Decoder(
        "scaled_view", "large JPEGs 2, 4 or 8 times smaller, about twice the size of the view or more"
    ),
    "gpu": Decoder("gpu_view", "JPEGs on the NVIDIA GPU, other files in full on the CPU", needs_cuda=True),
}
