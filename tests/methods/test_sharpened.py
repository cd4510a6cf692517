"""The finer layer: which one is taken, and how its map sharpens the other."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfcam_gpu import CFCAM, CaptureError, CFCAMConfig
from cfcam_gpu.dataset import open_results
from tests.helpers.method_cases import CLOSE, Deeper, explain
from tests.helpers.smallnet import PLAIN, Net, photo, run, save


def test_the_finer_layer_scales_the_map_by_its_evidence(net, images):
    """Cell by cell, from two single-layer explanations; a share of 0 leaves CF-CAM's own map."""
    share = 0.6
    with CFCAM(net, "conv:relu", CFCAMConfig(fine_share=share), method="cfcam-fine") as cam:
        found = cam(images, 1)
    assert cam.finer_layer_name == "stem"
    coarse = explain(net, "cfcam", images, 1).grid
    fine = CFCAM(net, "stem", CFCAMConfig.preset("spatial"))(images, 1).grid
    evidence = (fine / fine.amax((1, 2), keepdim=True)).sqrt()
    expected = F.interpolate(coarse[:, None], size=(32, 32), mode="bilinear")[:, 0] * (
        1 - share + share * evidence
    )
    torch.testing.assert_close(found.grid, expected, **CLOSE)
    none = CFCAM(net, "conv:relu", CFCAMConfig(fine_share=0.0), method="cfcam-fine", finer_layer="stem")
    expected = F.interpolate(coarse[:, None], size=(32, 32), mode="bilinear")[:, 0]
    torch.testing.assert_close(none(images, 1).grid, expected, **CLOSE)


def test_two_layers_take_one_forward_pass_and_agree_with_one_after_the_other(net, images):
    """The first call looks for the finer layer as well; after it a call is one pass."""
    targets = torch.tensor([[0, 2], [1, 0], [2, 1], [0, 1]])
    with CFCAM(net, "conv:relu", method="cfcam-fine") as cam, CFCAM(net, "conv:relu") as other:
        apart = cam.explain(other.features(images, targets))
        runs: list[int] = []
        handle = net.register_forward_hook(lambda *_: runs.append(1))
        together = cam(images, targets)
        handle.remove()
    assert len(runs) == 1
    torch.testing.assert_close(together.grid, apart.grid, **CLOSE)
    assert together.grid.shape == (4, 2, 32, 32)


def test_gradcam_is_sharpened_by_layercam(net, images):
    found = explain(net, "gradcam-fine", images, 1, finer_layer="stem").grid
    coarse, fine = (
        explain(net, "gradcam", images, 1).grid,
        CFCAM(net, "stem", method="layercam")(images, 1).grid,
    )
    evidence = (fine / fine.amax((1, 2), keepdim=True)).sqrt()
    expected = F.interpolate(coarse[:, None], size=(32, 32), mode="bilinear")[:, 0] * (0.6 + 0.4 * evidence)
    torch.testing.assert_close(found, expected, **CLOSE)


@pytest.mark.parametrize(
    ("finer", "message"),
    [
        ("behind", "the finer layer does not come before layer 'conv:relu'; choose an earlier one"),
        ("conv:relu", "the finer layer is the explained layer 'conv:relu' itself; choose an earlier one"),
    ],
)
def test_a_finer_layer_must_come_before(net, images, finer, message):
    with pytest.raises(CaptureError, match=message):
        CFCAM(net, "conv:relu", method="cfcam-fine", finer_layer=finer)(images)


def test_a_finer_layer_that_is_not_finite_is_flagged(images):
    """And only its image."""

    class Broken(Deeper):
        def forward(self, given: Tensor) -> Tensor:
            features = self.conv(torch.nan_to_num(self.stem(given)))
            return self.head(self.behind(features.relu()).relu().mean((2, 3)))

    broken = images.clone()
    broken[2, 0, 3, 3] = torch.nan
    found = explain(Broken().eval(), "cfcam-fine", broken, 1, on_invalid="flag")
    assert found.status.tolist() == [0, 0, 5, 0]
    expected = explain(Broken().eval(), "cfcam-fine", images, 1)
    torch.testing.assert_close(found.heatmap[[0, 1, 3]], expected.heatmap[[0, 1, 3]], **CLOSE)


def test_a_run_of_gradcam_fine_takes_the_share_that_it_reads(tmp_path):
    folder, grids = save(tmp_path / "in", a=photo(1)), {}
    for share in (0.1, 0.9):
        out = tmp_path / str(share)
        run(folder, out, method="gradcam-fine", config=CFCAMConfig(fine_share=share))
        (grids[share],) = (torch.tensor(row["grid"]) for row in open_results(out).rows())
    pixels = PLAIN.normalise(torch.from_numpy(PLAIN.view(photo(1)))[None])
    for share, grid in grids.items():
        cam = CFCAM(Net().eval(), "conv:relu", CFCAMConfig(fine_share=share), method="gradcam-fine")
        torch.testing.assert_close(grid, cam(pixels).grid[0], **CLOSE)
    assert (grids[0.1] - grids[0.9]).abs().max() > 0.1 * grids[0.1].max()


class Shared(Deeper):
    """One ReLU after the stem and after the convolution; the explained layer runs twice, the finer one once."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.ReLU()

    def forward(self, images: Tensor) -> Tensor:
        features = self.behind(self.shared(self.conv(self.shared(self.stem(images))))).relu()
        logits: Tensor = self.head(features.mean((2, 3)))
        return logits


@pytest.mark.parametrize("method", ["cfcam-fine", "gradcam-fine", "cfcam-sharp"])
def test_a_finer_layer_runs_once_where_the_explained_one_is_shared(method, images):
    net = Shared().eval()
    cam = CFCAM(net, "shared", method=method, finer_layer="stem")
    expected = cam(images, targets=1).heatmap
    # Of features that another method captured, as an evaluation does; and of the run by its number.
    features = CFCAM(net, "shared", method="gradcam").features(images, 1)
    torch.testing.assert_close(cam.explain(features).heatmap, expected)
    second = CFCAM(net, "shared", method=method, finer_layer="stem", call=1)
    torch.testing.assert_close(second(images, targets=1).heatmap, expected)
