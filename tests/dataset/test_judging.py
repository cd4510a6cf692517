"""Whether a prediction agrees with a label."""

from __future__ import annotations

import pytest
from torch.nn import Linear

from cfcam_gpu.dataset.judging import Judge
from cfcam_gpu.models import LoadedModel
from tests.helpers.smallnet import PLAIN


@pytest.mark.parametrize(
    ("label", "names", "verdict"),
    [
        ("1", ["cat", "dog"], True),
        ("0", ["cat", "dog"], False),
        (" Dog ", ["cat", "dog"], True),
        ("cat", ["cat", "dog"], False),
        ("wolf", ["cat", "dog"], None),
        ("2", ["cat", "dog"], None),
        ("-1", ["cat", "dog"], None),
        ("1", None, True),
        ("dog", None, None),
        (None, ["cat", "dog"], None),
    ],
)
def test_labels_are_an_index_or_a_name(label: str | None, names: list[str] | None, *, verdict: bool | None):
    assert Judge(names)(label, 1, "dog" if names else "class 1") is verdict


@pytest.mark.parametrize("label", ["Egyptian_cat", "egyptian cat", " EGYPTIAN  cat_"])
def test_a_label_names_the_class_that_the_option_target_finds_by_it(label: str):
    names = ("Egyptian cat", "tiger_cat")
    assert Judge(names)(label, 0, names[0]) is True
    assert Judge(names)(label, 1, names[1]) is False
    assert Judge(names)("tiger cat", 1, names[1]) is True
    assert LoadedModel(Linear(1, 2), PLAIN, names, "made", "random").class_index(label) == 0


def test_classes_of_the_same_name_are_not_told_apart_by_a_name():
    assert Judge(["crane", "heron", "crane"])("crane", 2, "crane") is True


@pytest.mark.parametrize(
    ("label", "verdict"),
    [
        ("mass", True),
        ("1", True),
        ("edema", False),
        ("edema|mass", True),
        ("0|1", True),
        ("edema|0", False),
        ("edema|unknown", False),
        ("unknown|other", None),
        ("a|b", False),  # the name of a class
        ("9" * 5000, None),
    ],
)
def test_one_of_several_labels_is_enough(label: str, *, verdict: bool | None) -> None:
    assert Judge(["edema", "mass", "a|b"])(label, 1, "mass") is verdict
