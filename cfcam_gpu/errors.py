"""Errors a caller can foresee; every message names what was expected, what came and what to do."""

from __future__ import annotations


class CFCAMError(Exception):
    """Base of all errors raised on purpose by this package."""


class ConfigError(CFCAMError, ValueError):
    """A parameter, preset, filter or weighting that does not exist or is out of range."""


class BackendError(CFCAMError, RuntimeError):
    """An engine that was asked for by name and cannot run here."""


class MissingPackageError(CFCAMError, ImportError):
    """A package that only some features need is not installed; the message names the extra that installs it."""


class CaptureError(CFCAMError, RuntimeError):
    """Activations or gradients of the target layer could not be taken."""


class TargetError(CFCAMError, ValueError):
    """Targets that do not fit the batch or the model's classes."""


class InvalidImagesError(CFCAMError, ValueError):
    """Images of a batch that cannot be explained.

    `problems` maps the image's index in the batch to what is wrong with it.
    """

    def __init__(self, problems: dict[int, str]) -> None:
        self.problems = problems
        listed = "; ".join(f"image {index}: {problem}" for index, problem in problems.items())
        super().__init__(
            f"{listed}. Remove or repair these images, or pass on_invalid='flag' to get blank maps for them."
        )


class ModelError(CFCAMError, ValueError):
    """A model specification, weights file or weights download that cannot be used."""


class ImageError(CFCAMError, ValueError):
    """A file that cannot be decoded to an image; the message is the reason, without the file's name."""


class InputError(CFCAMError, ValueError):
    """Inputs that do not exist or match nothing."""


class OutOfMemory(CFCAMError, RuntimeError):
    """The device's memory does not hold the batch."""


class StoreError(CFCAMError, RuntimeError):
    """A run's output folder that cannot be begun, continued, written or read."""


class TooManyErrors(CFCAMError, RuntimeError):
    """A run that was stopped because more of its samples failed than were allowed."""
