"""The cuML adapter against a stand-in with cuML's documented signature; the real library is in the GPU check.

The stand-in computes with scikit-learn, numbers its clusters backwards, as nothing promises an
order, and refuses keywords and calls that cuML does not document.
"""

from __future__ import annotations

import sys
import types
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import cluster

from cfcam_gpu import BackendError, CFCAMConfig, explain_activations
from cfcam_gpu.cfcam import clustering
from cfcam_gpu.engines.cuml_engine import renumbered, scan_cuml
from tests.helpers.features import blobs


class StandInDBSCAN:
    """`cuml.cluster.DBSCAN` as documented: keyword-only, `fit`, `labels_` and `core_sample_indices_`."""

    def __init__(
        self,
        *,
        eps: float = 0.5,
        min_samples: int = 5,
        metric: str = "euclidean",
        algorithm: str = "brute",
        verbose: bool = False,
        max_mbytes_per_batch: float | None = None,
        output_type: str | None = None,
        calc_core_sample_indices: bool = True,
    ) -> None:
        assert metric in ("euclidean", "cosine", "precomputed")
        assert algorithm in ("brute", "rbc")
        self.scan = cluster.DBSCAN(eps=eps, min_samples=min_samples)

    def fit(
        self,
        X: Any,
        y: Any = None,
        out_dtype: str = "int32",
        sample_weight: Any = None,
        *,
        convert_dtype: bool = True,
    ) -> StandInDBSCAN:
        fitted = self.scan.fit(np.from_dlpack(X).astype(np.float64))
        highest = fitted.labels_.max()
        self.labels_ = np.where(fitted.labels_ < 0, -1, highest - fitted.labels_).astype(out_dtype)
        self.core_sample_indices_ = fitted.core_sample_indices_.astype(out_dtype)
        return self


@pytest.fixture
def stand_in(monkeypatch):
    contents: dict[str, dict[str, Any]] = {
        "cupy": {"from_dlpack": np.from_dlpack},
        "cuml": {},
        "cuml.cluster": {"DBSCAN": StandInDBSCAN},
    }
    for name, values in contents.items():
        module = types.ModuleType(name)
        vars(module).update(values)
        monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("preset", ["default", "workflow"])
def test_labels_and_eps_are_the_contracts(preset):
    activations, _ = blobs(3, 120, 5, 5, clusters=5)
    activations[1] = activations[1, :1]
    config = CFCAMConfig.preset(preset, eps_percentile=8)
    clusters = clustering.cluster_channels(activations, config, scan_cuml)
    expected = clustering.cluster_channels(activations, config, clustering.scan_in_chunks)
    assert torch.equal(clusters.labels, expected.labels)
    assert torch.equal(clusters.n_clusters, expected.n_clusters)
    assert int(clusters.n_clusters.max()) > 2
    torch.testing.assert_close(clusters.eps, expected.eps, rtol=1e-6, atol=0)


def test_clusters_are_renumbered_by_their_lowest_core_index_not_by_border_points():
    labels = torch.tensor([1, -1, 0, 1, 0, 2])
    assert renumbered(labels, torch.tensor([2, 3, 4, 5])).tolist() == [1, -1, 0, 1, 0, 2]
    assert renumbered(labels, torch.tensor([5, 4, 3])).tolist() == [0, -1, 1, 0, 1, 2]
    assert renumbered(torch.tensor([-1, -1]), torch.tensor([], dtype=torch.int64)).tolist() == [-1, -1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="tests the message on a machine without a GPU")
def test_without_a_gpu_the_error_says_what_is_missing():
    features = torch.rand(1, 4, 3, 3)
    with pytest.raises(BackendError, match=r"engine 'cuml' cannot run on cpu: .*GPU.*cfcam-gpu\[cuda1[23]\]"):
        explain_activations(features, features, (3, 3), engine="cuml")
