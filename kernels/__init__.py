"""Triton kernels of CF-CAM, installed as `cfcam_gpu.kernels`; each module names its PyTorch reference.

They run compiled on a GPU, and on the CPU under Triton's interpreter (set TRITON_INTERPRET=1 before
Triton is imported). Every launch grid depends on shapes only and no value is read back to the host,
so that a sequence of launches can be captured in a CUDA graph. This package imports nothing of
`cfcam_gpu`.
"""
