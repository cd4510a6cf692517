"""Which tensors of a forward pass are queries, keys or values of an attention, told by what becomes of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

#: Functions that multiply queries with keys, and weights with values.
_PRODUCTS = {"matmul", "__matmul__", "bmm", "baddbmm", "einsum"}

#: Functions after which queries, keys and values are still that: they move values, scale or normalise them, or
#: turn them by their positions.
_KEEP = {
    "view", "view_as", "reshape", "permute", "transpose", "movedim", "swapaxes", "t", "flatten", "unflatten",
    "contiguous", "chunk", "split", "unbind", "__getitem__", "squeeze", "unsqueeze", "expand", "repeat", "float",
    "to", "type_as", "mul", "__mul__", "__rmul__", "div", "__truediv__", "add", "__add__", "masked_fill", "where",
    "dropout", "normalize", "layer_norm", "rms_norm",
}  # fmt: skip


class Attended:
    """Told of each function in turn, with the ids of its tensors, it knows those that attention takes.

    Attention is `scaled_dot_product_attention`, or a softmax of the product of two tensors, with which a third
    is multiplied. What goes into PyTorch's own `MultiheadAttention` counts as it is before its projections.

    Attributes:
        ids: of all queries, keys and values.

    Example:
        >>> attended = Attended()
        >>> for name, result, tensors in (
        ...     ("linear", 2, [1]), ("reshape", 3, [2]), ("matmul", 4, [3, 3]), ("softmax", 5, [4])
        ... ):
        ...     attended.note(name, result, tensors)
        >>> sorted(attended.ids)
        [2, 3]
    """

    def __init__(self) -> None:
        self.ids: set[int] = set()
        self._before: dict[int, int] = {}
        self._factors: dict[int, list[int]] = {}
        self._weights: set[int] = set()

    def note(self, function: str, result: int, tensors: list[int]) -> None:
        """A function has made `result` of the tensors that it took, in this order."""
        if not tensors:
            return
        if function in _KEEP and tensors[0] != result:
            self._before[result] = tensors[0]
        elif function == "scaled_dot_product_attention":
            self._add(tensors[:3])
        elif function == "softmax":
            factors = [factor for one in self._line(tensors[0]) for factor in self._factors.get(one, [])]
            if factors:
                self._weights.add(result)
                self._add(factors)
        elif function in _PRODUCTS:
            self._factors[result] = tensors
            others = [one for one in tensors if self._weights.isdisjoint(self._line(one))]
            if len(others) < len(tensors):
                self._add(others)

    def _add(self, tensors: Iterable[int]) -> None:
        for tensor in tensors:
            self.ids.update(self._line(tensor))

    def _line(self, tensor: int) -> Iterator[int]:
        """A tensor and those before it from which functions made it that keep what it is."""
        passed: set[int] = set()
        line: int | None = tensor
        while line is not None and line not in passed:
            passed.add(line)
            yield line
            line = self._before.get(line)
