"""The score of all classes together, against which a target class is contrasted."""

from __future__ import annotations

from torch import Tensor

#: T: at 1 a class minus this score is log p, which classes of probability near 1 hardly change; the larger T, the
#: more classes a target is contrasted with.
TEMPERATURE = 2.0


def all_classes(logits: Tensor, activation: str = "softmax") -> Tensor | None:
    """T·log Σ exp(z/T) of logits z (B,classes): (B,), a smooth maximum. None: classes do not compete.

    They do not where there is one, or where each has a sigmoid of its own: there log p grows with the class's own
    logit alone.

    Example:
        >>> import torch
        >>> all_classes(torch.tensor([[0.0, 0.0], [6.0, 0.0]]))
        tensor([1.3863, 6.0972])
        >>> all_classes(torch.tensor([[0.5]])) is None
        True
    """
    if logits.ndim != 2 or logits.shape[1] < 2 or activation != "softmax":
        return None
    return TEMPERATURE * (logits.float() / TEMPERATURE).logsumexp(1).to(logits.dtype)
