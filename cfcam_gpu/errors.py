"""The errors that this package raises on purpose.

Every message says what was expected, what came instead and what to do. All of them are `CFCAMError`.
"""

from __future__ import annotations


class CFCAMError(Exception):
    """Base of all errors that this package raises on purpose.

    Example:
        >>> from cfcam_gpu import CFCAMConfig
        >>> try:
        ...     CFCAMConfig(sigma_space=0)
        ... except CFCAMError as error:
        ...     print(error)
        sigma_space must be a positive number, got 0
    """


class ConfigError(CFCAMError, ValueError):
    """A parameter, preset, filter, method or other choice that does not exist or is out of range."""


class BackendError(CFCAMError, RuntimeError):
    """The engine or device that was asked for does not exist here or cannot run."""


class MissingPackageError(CFCAMError, ImportError):
    """A package that only some features need is not installed; the message names the extra that installs it."""


class CaptureError(CFCAMError, RuntimeError):
    """The activations or gradients of the target layer could not be captured."""


class ModelFailedError(CaptureError):
    """The model raised an error when it was run.

    Attributes:
        sentence: what failed, without advice.

    Example:
        >>> str(ModelFailedError("the model failed", "run it by itself"))
        'the model failed; run it by itself'
    """

    def __init__(self, sentence: str, advice: str) -> None:
        self.sentence, self.advice = sentence, advice
        super().__init__(f"{sentence}; {advice}")

    def __reduce__(self) -> tuple[type[ModelFailedError], tuple[str, str]]:
        return type(self), (self.sentence, self.advice)


class TargetError(CFCAMError, ValueError):
    """The targets do not fit the batch or the model's classes."""


class InvalidImagesError(CFCAMError, ValueError):
    """Some images of a batch cannot be explained.

    Attributes:
        problems: index of the image in the batch -> what is wrong with it.

    Example:
        >>> error = InvalidImagesError({2: "the gradients contain NaN or Inf"})
        >>> error.problems
        {2: 'the gradients contain NaN or Inf'}
        >>> str(error).partition(".")[0]
        'image 2: the gradients contain NaN or Inf'
    """

    def __init__(self, problems: dict[int, str]) -> None:
        self.problems = problems
        sentences = "; ".join(f"image {index}: {problem}" for index, problem in problems.items())
        super().__init__(
            f"{sentences}. Remove or repair these images, or pass on_invalid='flag' to get blank maps for them."
        )

    def __reduce__(self) -> tuple[type[InvalidImagesError], tuple[dict[int, str]]]:
        return type(self), (self.problems,)


class ModelError(CFCAMError, ValueError):
    """The model specification, weights file or weights download cannot be used."""


class ImageError(CFCAMError, ValueError):
    """A file cannot be decoded to an image; the message is the reason, without the file's name."""


class InputError(CFCAMError, ValueError):
    """The inputs do not exist or match nothing."""


class PlaceError(CFCAMError, OSError):
    """A file at a URL cannot be read or written; the message is the reason, without the URL.

    Attributes:
        passing: whether it may go better the next time.
        absent: whether there is no such file, though its bucket can be read.

    Example:
        >>> PlaceError("access denied").passing
        False
    """

    def __init__(self, reason: str, *, passing: bool = False, absent: bool = False) -> None:
        self.passing, self.absent = passing, absent
        super().__init__(reason)


class OutOfMemory(CFCAMError, RuntimeError):
    """The batch does not fit into the device's memory."""


class StoreError(CFCAMError, RuntimeError):
    """A run's output folder cannot be started, continued, written or read."""


class TooManyErrors(CFCAMError, RuntimeError):
    """A run stopped because more samples failed than `max_errors` allows."""
