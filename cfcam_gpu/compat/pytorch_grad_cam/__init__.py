"""pytorch-grad-cam's classes: the same constructor, the same call, the same numbers as a NumPy array.

    from cfcam_gpu.compat.pytorch_grad_cam import GradCAM
    from cfcam_gpu.compat.pytorch_grad_cam.utils.image import show_cam_on_image
    from cfcam_gpu.compat.pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

What differs: as many targets as images are needed, where that package leaves out the images without one; errors
inside a `with` block are raised; the model comes back as it was given; Eigen-CAM has a sign of its own choice, and
Score-CAM upsamples its masks by half-pixel centres.
"""

from cfcam_gpu.compat.pytorch_grad_cam.cams import (
    CFCAM,
    FEM,
    AblationCAM,
    BaseCAM,
    CFCAMSharp,
    EigenCAM,
    EigenGradCAM,
    GradCAM,
    GradCAMElementWise,
    GradCAMPlusPlus,
    HiResCAM,
    LayerCAM,
    ScoreCAM,
    SegEigenCAM,
    XGradCAM,
)
from cfcam_gpu.compat.pytorch_grad_cam.meta import FinerCAM, RefineCAM
from cfcam_gpu.compat.pytorch_grad_cam.missing import answer_for_their_modules, missing

__all__ = [
    "CFCAM",
    "FEM",
    "AblationCAM",
    "BaseCAM",
    "CFCAMSharp",
    "EigenCAM",
    "EigenGradCAM",
    "FinerCAM",
    "GradCAM",
    "GradCAMElementWise",
    "GradCAMPlusPlus",
    "HiResCAM",
    "LayerCAM",
    "RefineCAM",
    "ScoreCAM",
    "SegEigenCAM",
    "XGradCAM",
]

answer_for_their_modules()


def __getattr__(name: str) -> object:
    raise missing(__name__, name)
