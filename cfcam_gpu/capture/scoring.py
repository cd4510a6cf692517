"""What a model puts out: where the logits are in it, which classes they score, and their probabilities."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from cfcam_gpu._utils.messages import unknown
from cfcam_gpu.config import ACTIVATION_NAMES
from cfcam_gpu.errors import CaptureError, ConfigError

#: Names under which models keep their logits; the first that an output has is taken.
USUAL_KEYS = ("logits", "out", "pred", "preds", "prediction", "predictions", "output")

#: From logits (B,classes) to probabilities, by the name of the activation.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda logits: logits.softmax(1),
    "sigmoid": torch.sigmoid,
}


def probabilities(logits: Tensor, activation: str) -> Tensor:
    """Probabilities (B,classes) float32 in [0,1] of logits (B,classes); `activation`: a key of `ACTIVATIONS`.

    Example:
        >>> probabilities(torch.tensor([[0.0, 0.0]]), "softmax"), probabilities(torch.zeros(1, 3), "sigmoid")
        (tensor([[0.5000, 0.5000]]), tensor([[0.5000, 0.5000, 0.5000]]))
    """
    return ACTIVATIONS[activation](logits.float())


@dataclass(frozen=True)
class Scoring:
    """How the scores and probabilities of the classes are read from a model's output.

    A model with one output decides between two classes: its output z is the logit of class 1, whose probability is
    sigmoid(z), and -z is that of class 0.

    Attributes:
        activation: makes probabilities of the logits: `softmax` where one class of several holds, `sigmoid` where each
            class holds or not by itself; `auto`: sigmoid for one output and for models of transformers whose
            `config.problem_type` is `multi_label_classification`, else softmax.
        output: index, key or attribute of the logits in the output, `a.b` for one inside another; None: the output
            itself, or what it has under one of `USUAL_KEYS`.

    Raises:
        ConfigError: an unknown activation.

    Example:
        >>> Scoring().class_logits({"logits": torch.tensor([[2.0]])})
        tensor([[-2.,  2.]])
        >>> Scoring(output=1).logits((torch.zeros(1, 8), torch.tensor([[0.5, 2.0]])))
        tensor([[0.5000, 2.0000]])
    """

    activation: str = "auto"
    output: int | str | None = None

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATION_NAMES:
            raise ConfigError(unknown("activation", self.activation, ACTIVATION_NAMES))

    def of_model(self, model: nn.Module) -> Scoring:
        """With a sigmoid where `auto` meets a model of transformers whose config says that it is multi-label.

        The model may stand alone in modules around it, as where one makes a tensor of its output.
        """
        problem = _problem_type(model)
        multi_label = self.activation == "auto" and problem == "multi_label_classification"
        return replace(self, activation="sigmoid") if multi_label else self

    def logits(self, output: Any) -> Tensor:
        """The logits as the model puts them out.

        Raises:
            CaptureError: the output has none, several tensors that may be they, or nothing under that key.
        """
        if self.output is None:
            return logits_of(output)
        found = _at(output, self.output)
        if not isinstance(found, Tensor):
            raise CaptureError(
                f"output {self.output!r} must be a tensor of logits, got {describe(found)} in {contents(output)}"
            )
        return found

    def class_logits(self, output: Any) -> Tensor:
        """The logits (B,classes) of all classes, two of them for a model with one output.

        Raises:
            CaptureError: as `logits`, or a softmax of one output.
        """
        return self.of_classes(self.logits(output))

    def of_classes(self, logits: Tensor) -> Tensor:
        """The logits of all classes: [-z, z] for logits (B,1) or (B,), or () of one image, else the logits themselves.

        Raises:
            CaptureError: a softmax of one output.
        """
        if not _is_one_output(logits):
            return logits
        if self.activation == "softmax":
            raise CaptureError(
                "the softmax of a model with one output is 1 for every image; leave activation out, or pass sigmoid"
            )
        column = logits.reshape(-1, 1)
        return torch.cat([-column, column], dim=1)

    def activation_of(self, logits: Tensor) -> str:
        """The key of `ACTIVATIONS` for logits as the model puts them out."""
        if self.activation != "auto":
            return self.activation
        return "sigmoid" if _is_one_output(logits) else "softmax"


def _problem_type(model: nn.Module) -> Any:
    while not hasattr(model, "config") and len(model._modules) == 1:
        (inner,) = model._modules.values()
        if inner is None:
            break
        model = inner
    return getattr(getattr(model, "config", None), "problem_type", None)


def _is_one_output(logits: Tensor) -> bool:
    return logits.ndim < 2 or (logits.ndim == 2 and logits.shape[1] == 1)


def logits_of(output: Any) -> Tensor:
    """The logits in a model's output: the tensor itself, or the one under one of `USUAL_KEYS`, or the only one.

    Of several tensors in a tuple or list, the only one of two axes is taken.

    Raises:
        CaptureError: no such tensor, or several.

    Example:
        >>> logits_of({"logits": torch.tensor([[0.5, 2.0]])})
        tensor([[0.5000, 2.0000]])
    """
    if isinstance(output, Tensor):
        return output
    for key in USUAL_KEYS:
        found = output.get(key) if isinstance(output, Mapping) else getattr(output, key, None)
        if isinstance(found, Tensor):
            return found
    items = _items(output)
    tensors = [item for item in items.values() if isinstance(item, Tensor)]
    candidates = tensors if len(tensors) == 1 else [item for item in tensors if item.ndim == 2]
    if len(candidates) == 1:
        return candidates[0]
    raise CaptureError(
        f"the model must return a tensor of logits or an object with .logits, got {contents(output)}; "
        + (
            f"say which holds the logits: output={next(iter(items))!r} in Python, --output for the command"
            if tensors
            else "wrap it in a module that returns the logits"
        )
    )


def _items(output: Any) -> dict[int | str, Any]:
    if isinstance(output, Mapping):
        return dict(output)
    return dict(enumerate(output)) if isinstance(output, (tuple, list)) else {}


def _at(output: Any, path: int | str) -> Any:
    """What lies under an index, key or attribute of an output. Raises CaptureError."""
    if isinstance(output, Mapping) and path in output:
        return output[path]
    found = output
    for step in str(path).split("."):
        try:
            found = _step(found, step)
        except (KeyError, IndexError, AttributeError) as error:
            raise CaptureError(
                f"the model's output has nothing under {path!r}; it is {contents(output)}"
            ) from error
    return found


def _step(value: Any, step: str) -> Any:
    if isinstance(value, Mapping):
        return value[step] if step in value or not step.isdecimal() else value[int(step)]
    if isinstance(value, Sequence) and step.lstrip("-").isdecimal():
        return value[int(step)]
    return getattr(value, step)


def contents(output: Any) -> str:
    """What an output is and holds, for an error message.

    Example:
        >>> contents((torch.zeros(1, 8), None))
        'a tuple of 0: a float32 tensor of shape (1, 8), 1: a NoneType'
    """
    items = _items(output)
    if not items:
        return describe(output)
    return f"{describe(output)} of " + ", ".join(f"{key}: {describe(item)}" for key, item in items.items())


def describe(value: Any) -> str:
    """What a value is, for an error message.

    Example:
        >>> describe(torch.zeros(2, 3)), describe(None)
        ('a float32 tensor of shape (2, 3)', 'a NoneType')
    """
    if isinstance(value, Tensor):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"
