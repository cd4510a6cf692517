"""A test of whether a layer's output is a map of the picture: where a patch of noise is, the map changes.

Nine images, flat but for a patch of noise in one of nine places, and a flat one go through the model as
one batch. How much a cell of the map changes must fall with its distance from the patch. No trained
weights are needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cfcam_gpu._utils.precision import use_gradients, widest
from cfcam_gpu._utils.undo import Undo
from cfcam_gpu.capture.failures import run_model
from cfcam_gpu.capture.layouts import Layout
from cfcam_gpu.capture.model_state import make_explainable

#: Places along a side.
SIDE = 3

#: Images of the test: the flat one and those with a patch.
PATCH_IMAGES = SIDE * SIDE + 1

#: Least agreement of a map. Over the models of `bench.models` what is a map has 0.5 and more where its strength
#: is at least `WEAK`, and the same output with channels read as columns less: docs/models.md.
AGREES = 0.4

#: Below this strength every patch changes every cell nearly alike, and the agreement must be at least `CLEAR`:
#: gates such as squeeze-and-excitation weaken the changes of a map that much, attention and latents give an
#: agreement by chance. Below `FAINT` nothing can be told.
WEAK, CLEAR, FAINT = 0.06, 0.8, 0.01

#: Value of the flat image, in the model's input units: networks without biases are dead at zero.
FLAT = 0.5


@dataclass(frozen=True)
class Locality:
    """How the changes of a map follow the patches.

    Attributes:
        agreement: 1 perfectly, 0 by chance.
        strength: how much more a patch changes near cells than far ones, as a deviation of logarithms;
            0 where every patch changes every cell alike.
    """

    agreement: float
    strength: float

    @property
    def is_map(self) -> bool:
        """Whether the map changes where the picture does."""
        least = AGREES if self.strength >= WEAK else CLEAR
        return self.agreement >= least and self.strength >= FAINT

    @property
    def is_spread(self) -> bool:
        """Whether nothing can be told, because every patch changes every cell alike."""
        return not self.is_map and self.strength < WEAK


def noise_patches(image: Tensor) -> Tensor:
    """(10,C,H,W) images like one (C,H,W): a flat one, and nine with a patch of noise, row by row.

    Example:
        >>> noise_patches(torch.zeros(3, 6, 9))[:, 0].ne(0.5).sum((1, 2)).tolist()
        [0, 6, 6, 6, 6, 6, 6, 6, 6, 6]
    """
    height, width = image.shape[1:]
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0)).to(image)
    batch = torch.full_like(image, FLAT).repeat(PATCH_IMAGES, 1, 1, 1)
    for place in range(SIDE * SIDE):
        rows, columns = (
            slice(n * size // SIDE, (n + 1) * size // SIDE)
            for n, size in zip(divmod(place, SIDE), (height, width), strict=True)
        )
        batch[place + 1, :, rows, columns] += noise[:, rows, columns]
    return batch


def locality(maps: Tensor) -> Locality:
    """How the changes of maps (10,C,h,w) of `noise_patches` follow the patches.

    The change of a cell is the length of its channels' change, in logarithms. What a place changes
    everywhere, and what changes wherever the patch is, are subtracted: a model that spreads every
    change over the whole map still changes most where the patch is. For rows and columns apart, the
    rest is correlated with the product of the patch's and the cell's distance from the centre; the
    lower of the two correlations counts.
    """
    change = (widest(maps[1:]) - widest(maps[:1])).norm(dim=1)
    if not change.isfinite().all() or not change.any():
        return Locality(0.0, 0.0)
    # (3,3,h,w): the patch's row and column, the cell's row and column.
    logs = (change / change.amax() + 1e-4).log().unflatten(0, (SIDE, SIDE))
    profiles = [_centred(profile) for profile in (logs.mean((1, 3)), logs.mean((0, 2)))]
    profiles = [profile for profile in profiles if profile.shape[1] > 1]
    return Locality(
        min((_correlation(profile) for profile in profiles), default=0.0),
        min((float(profile.square().mean().sqrt()) for profile in profiles), default=0.0),
    )


def _centred(profile: Tensor) -> Tensor:
    """(3,n), patch by cell along one side, without the means of its rows and columns."""
    return profile - profile.mean(0, keepdim=True) - profile.mean(1, keepdim=True) + profile.mean()


def _correlation(profile: Tensor) -> float:
    """Of a centred profile (3,n) with what the distance alone would give."""
    patch = torch.arange(3, dtype=profile.dtype, device=profile.device) - 1
    cell = torch.linspace(-1, 1, profile.shape[1], dtype=profile.dtype, device=profile.device)
    expected = patch[:, None] * cell
    scale = float(profile.norm() * expected.norm())
    return float((profile * expected).sum()) / scale if scale > 0 else 0.0


def localities(output: object, layouts: Sequence[Layout]) -> dict[Layout, Locality]:
    """Of each way to read an output for the images of `noise_patches`; nothing for other outputs."""
    if not isinstance(output, Tensor) or len(output) != PATCH_IMAGES:
        return {}
    fitting = [layout for layout in layouts if layout.fits(output.shape)]
    return {layout: locality(layout.maps(output.detach())) for layout in fitting}


def run_patches(model: nn.Module, images: Tensor) -> None:
    """Run the model on `noise_patches` of the size of images (B,channels,H,W), for hooks to see."""
    undo = Undo()
    try:
        make_explainable(model, undo)
        use_gradients(undo, enabled=False)
        run_model(model, noise_patches(images[0].detach()))
    finally:
        undo.run()
