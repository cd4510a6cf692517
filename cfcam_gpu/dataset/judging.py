"""Whether predictions agree with the samples' labels."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cfcam_gpu._utils.class_names import class_key
from cfcam_gpu.dataset.sources.labels import SEPARATOR

if TYPE_CHECKING:
    import pyarrow as pa


class Judge:
    """Compares a prediction with a label: digits are a class index, all else is a class name.

    Names are compared as `--target` compares them: capitals, spaces and underscores do not matter. Where an
    image has several labels, "edema|mass", the prediction must be one of them.

    Args:
        class_names: the model's class names; None: they are not known, then only indices are compared.

    Example:
        >>> judge = Judge(["Egyptian cat", "espresso"])
        >>> judge("egyptian_cat", 0, "Egyptian cat"), judge("0", 1, "espresso"), judge("wolf", 0, "Egyptian cat")
        (True, False, None)
    """

    def __init__(self, class_names: Sequence[str] | None) -> None:
        self._count = None if class_names is None else len(class_names)
        # Of classes with the same name the first.
        numbered = list(enumerate(class_names or ()))
        self._keys = None if class_names is None else {class_key(name): i for i, name in reversed(numbered)}

    def __call__(self, label: str | None, pred: int | None, pred_name: str | None) -> bool | None:
        """None: there is no label or no prediction, or the label is none of the classes."""
        if label is None or pred is None:
            return None
        if SEPARATOR in label and not self._is_class(label):
            verdicts = {self(one, pred, pred_name) for one in label.split(SEPARATOR)}
            return True if True in verdicts else False if False in verdicts else None
        if _is_index(label):
            index = self.class_of(label)
            return None if index is None else index == pred
        if not self._is_class(label):
            return None
        # By name, not index: class names may repeat (ImageNet has two cranes).
        return class_key(label) == class_key(pred_name or "")

    def class_of(self, label: str) -> int | None:
        """The index of the class that a label names, of classes of one name the first; None: it names none.

        Example:
            >>> Judge(["crane", "heron"]).class_of("Heron"), Judge(["crane"]).class_of("wolf")
            (1, None)
        """
        if _is_index(label):
            index = int(label)
            return None if self._count is not None and index >= self._count else index
        return None if self._keys is None else self._keys.get(class_key(label))

    def classes_of(self, label: str) -> list[int]:
        """The classes that a label names, which may hold several with "|" between them.

        Example:
            >>> Judge(["edema", "mass"]).classes_of("mass|edema"), Judge(["edema", "mass"]).classes_of("wolf")
            ([1, 0], [])
        """
        parts = [label] if self._is_class(label) else label.split(SEPARATOR)
        return list(dict.fromkeys(index for part in parts if (index := self.class_of(part)) is not None))

    def _is_class(self, label: str) -> bool:
        return self._keys is not None and class_key(label) in self._keys


def _is_index(label: str) -> bool:
    return re.fullmatch(r"\d{1,18}", label.strip(), re.ASCII) is not None


@dataclass
class Verdicts:
    """Counts of the predictions beside a label.

    Attributes:
        correct, wrong: predictions that agree with their label, and those that do not.
        unmatched: predictions that cannot be judged, because the label is none of the model's classes.
        confusion: (class of the label, predicted class) -> number of samples, of those with one label; both are the
            same exactly where the prediction is correct.

    Example:
        >>> import pyarrow as pa
        >>> verdicts = Verdicts()
        >>> columns = {"label": ["cat", "dog", "wolf"], "pred": [0, 0, 0], "pred_name": ["cat"] * 3}
        >>> verdicts.add(Judge(["cat", "dog"]), pa.table(columns))
        >>> verdicts
        Verdicts(correct=1, wrong=1, unmatched=1, confusion=Counter({(0, 0): 1, (1, 0): 1}))
        >>> verdicts.judged, verdicts.labelled
        (2, 3)
    """

    correct: int = 0
    wrong: int = 0
    unmatched: int = 0
    confusion: Counter[tuple[int, int]] = field(default_factory=Counter)

    @property
    def judged(self) -> int:
        return self.correct + self.wrong

    @property
    def labelled(self) -> int:
        return self.judged + self.unmatched

    def add(self, judge: Judge, table: pa.Table) -> None:
        """Counts the rows of a table with the columns label, pred and pred_name."""
        if table["label"].null_count == len(table):
            return
        groups = table.group_by(["label", "pred", "pred_name"]).aggregate([([], "count_all")])
        for group in groups.to_pylist():
            label, pred, count = group["label"], group["pred"], group["count_all"]
            verdict = judge(label, pred, group["pred_name"])
            self.correct += count * (verdict is True)
            self.wrong += count * (verdict is False)
            self.unmatched += count * (verdict is None and label is not None and pred is not None)
            if verdict is not None:
                classes = judge.classes_of(label)
                if len(classes) == 1:
                    self.confusion[classes[0], classes[0] if verdict else pred] += count
