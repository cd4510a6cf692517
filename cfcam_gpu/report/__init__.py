"""The HTML report of a dataset run: a static page that opens from disk."""

from cfcam_gpu.report.build import write_report

__all__ = ["write_report"]
