"""The HTML report of a dataset run: a static page that opens from disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cfcam_gpu._utils.lazy import lazy

if TYPE_CHECKING:
    from cfcam_gpu.report.build import write_report

__all__ = ["write_report"]

__getattr__, __dir__ = lazy(__name__, globals(), {"write_report": "build"})
