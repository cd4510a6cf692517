"""The score of a class against all others, where one class of several holds."""

from __future__ import annotations

import math

from torch import Tensor

#: T: at 1 the score is the log-odds of the class, log p/(1-p), which its strongest rivals decide; the larger T, the
#: more classes it is contrasted with.
TEMPERATURE = 2.0


def contrasted(scores: Tensor, logits: Tensor, classes: Tensor) -> Tensor:
    """Scores (B,K) less those of the other classes: z_k - T·log Σ exp(z_j/T) over j ≠ k.

    Its gradient has the direction of that of a softened log p, z_k - T·log Σ exp(z_j/T) over all j, and does not
    vanish where p is near 1.

    Args:
        scores: the logits z_k of the classes.
        logits: (B,classes), two classes at least.
        classes: (B,K) int64; one that is no class of the model is taken for the nearest.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[3.0, 1.0], [0.0, 4.0]])
        >>> contrasted(logits[:, :1], logits, torch.tensor([[0], [0]]))
        tensor([[ 2.],
                [-4.]])
    """
    classes = classes.clamp(0, logits.shape[1] - 1)[..., None]
    others = logits[:, None].expand(-1, scores.shape[1], -1).scatter(2, classes, -math.inf)
    return scores - TEMPERATURE * (others / TEMPERATURE).logsumexp(2)
