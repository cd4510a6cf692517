"""Every kernel compiles for a GPU: Triton's interpreter accepts what its compiler does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys

COMPILE = """
import json, re, resource, subprocess, sys, tempfile
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from cfcam_gpu.kernels import channels, cluster_filter, components, distances, heatmaps, neighbours, weighted_sum

POINTERS = {
    "columns": "*fp32", "statistics": "*fp32", "eps": "*fp64", "gradients": "*fp32", "pooled": "*fp32",
    "weights": "*fp32", "grid": "*fp32", "activations": "*bf16", "sigma_space": "fp32", "sigma_range": "fp32",
    "labels": "*i64", "n_clusters": "*i64", "status": "*i64", "out_of_range": "*i1", "blanks": "*i1",
    "norms": "*fp64", "means": "*fp32", "peaks": "*fp32", "heatmaps": "*fp32",
    **dict.fromkeys(["counts", "order", "largest", "low", "shift", "below", "bins", "above"], "*i32"),
    **dict.fromkeys(["words", "degrees", "frontiers"], "*i32"),
}
search = dict(LOG2_BINS=distances.LOG2_BINS, LAST=distances.LAST)
place = dict(POSITION=0.25, FLOOR=1e-5)
split = dict(FRACTION=0.25, FACTOR=1 - 1e-6, HAS_DOMINANT=True, HAS_RANGE=True, ZERO_GRADIENT=True)
codes = dict(NO_ACTIVATIONS=1, NO_GRADIENTS=2)
kernels = [
    (channels._statistics, dict(CHANNELS=32, CELLS=64)),
    (channels._statistics, dict(CHANNELS=32, CELLS=64, c=1, k=1, hw=1, blocks=1)),
    (channels._split, dict(**split, **codes, OUT_OF_RANGE=3, ALL_ZERO=4, CHANNELS=2048, num_warps=8)),
    (channels._split, dict(**split, **codes, OUT_OF_RANGE=3, ALL_ZERO=4, CHANNELS=1, c=1, k=1, rank=1, num_warps=8)),
    (channels._columns, dict(**codes, ROWS=32, CELLS=64)),
    (heatmaps._peaks, dict(NOT_FINITE=5, BLOCK=512)),
    (heatmaps._peaks, dict(NOT_FINITE=5, BLOCK=16, h=1, w=1, k=1, height=1)),
    (heatmaps._heatmaps, dict(BLOCK=1024)),
    (distances._sample, dict(SAMPLES=distances.SAMPLES, **search, **place)),
    (distances._count, dict(BLOCK=64, **search)),
    (distances._narrow, dict(**search, **place)),
    (neighbours._neighbours, dict(BLOCK=64, FACTOR=1 + 1e-6)),
    (neighbours._neighbours, dict(BLOCK=32, FACTOR=1 + 1e-6, n=1, n_words=1, depth=1)),
    (components._dbscan, dict(FRACTION=0.05, WORDS=64, ROWS=128)),
    (components._dbscan, dict(FRACTION=0.05, WORDS=1, ROWS=1, n=1, n_words=1)),
    (cluster_filter._pooled, dict(CIRCLE=True, RANGE=True, CELLS=64, CHANNELS=64)),
    (cluster_filter._pooled, dict(CIRCLE=False, RANGE=False, CELLS=4096, CHANNELS=1, num_warps=8)),
    (cluster_filter._pooled, dict(CIRCLE=False, RANGE=True, CELLS=16, CHANNELS=1, c=1, h=1, w=1)),
    (cluster_filter._means, dict(CELLS=1024, CHANNELS=4)),
    (cluster_filter._pooled_tiles, dict(CIRCLE=True, RANGE=True, CELLS=1024)),
    (weighted_sum._weighted_sum, dict(CLUSTERED=True, CHANNELS=128, CELLS=32)),
    (weighted_sum._weighted_sum, dict(CLUSTERED=False, CHANNELS=128, CELLS=32, k=1, slots=1)),
]

def seconds():
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)

def spilled_bytes(ptx):
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        command = [triton.knobs.nvidia.ptxas.path, "-v", "--gpu-name=sm_90a", file.name, "-o", "/dev/null"]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return sum(map(int, re.findall(r"(\\d+) bytes spill stores", told)))
for kernel, constants in kernels:
    warps = constants.pop("num_warps", 4)
    signature = {name: "constexpr" if name in constants else POINTERS.get(name, "i32") for name in kernel.arg_names}
    source = ASTSource(kernel, signature, constexprs=constants)
    begun = seconds()
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps})
    # The H100 has 227 KB of shared memory a block.
    assert compiled.metadata.shared <= 227 * 1024, kernel
    took = seconds() - begun
    print(json.dumps([kernel.__name__, took, spilled_bytes(compiled.asm["ptx"])]))
"""

#: Seconds of CPU time that a kernel may take to compile; the slowest takes 2.
SECONDS = 12.0


def test_every_kernel_compiles_for_an_h100(tmp_path):
    """Compiling needs no GPU. No kernel takes long to compile, and none keeps registers in memory."""
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", COMPILE], capture_output=True, text=True, check=False, env=environment
    )
    assert run.returncode == 0, run.stderr[-2000:]
    kernels = [json.loads(line) for line in run.stdout.splitlines()]
    print(kernels)
    assert len(kernels) == 22
    for name, seconds, spilled in kernels:
        assert seconds < SECONDS, name
        assert spilled == 0, name
