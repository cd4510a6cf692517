"""Triton kernels of CF-CAM, installed as `cfcam_gpu.kernels`; each module names its torch reference.

They run compiled on a GPU, and on the CPU under Triton's interpreter (TRITON_INTERPRET=1 set before
Triton is imported). Every launch grid depends on shapes only and nothing is read back to the host,
so a launch sequence can be captured in a CUDA graph. This package imports nothing of `cfcam_gpu`.
"""
