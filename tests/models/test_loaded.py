"""Classes of a model by index and by name."""

from __future__ import annotations

import pytest
from torch import nn

from cfcam_gpu.errors import TargetError
from cfcam_gpu.images.preprocess import PUBLISHED_PREPROCESS
from cfcam_gpu.models import LoadedModel


def _named(*names: str) -> LoadedModel:
    return LoadedModel(nn.Identity(), PUBLISHED_PREPROCESS, names or None, "some:model", "")


@pytest.mark.parametrize(
    ("text", "index"),
    [("1", 1), (" 1 ", 1), ("Egyptian cat", 1), ("egyptian CAT", 1), ("egyptian_cat", 1), ("espresso", 3)],
)
def test_class_by_index_or_name(text: str, index: int) -> None:
    assert _named("tabby", "Egyptian cat", "crane", "espresso", "crane").class_index(text) == index


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("crane", "'crane' is the name of classes 2, 4; give the index"),
        ("Egyptian ct", "no class is called 'Egyptian ct'; similar: Egyptian cat (1)"),
        ("cat", "no class is called 'cat'; similar: Egyptian cat (1)"),
        ("zeppelin", "no class is called 'zeppelin'; give the index"),
        ("", "no class is called ''; give the index"),
        ("5", "a class index of some:model must be from 0 to 4, got 5"),
        ("-1", "a class index of some:model must be from 0 to 4, got -1"),
        ("9" * 5000, "no class of some:model has an index of 5000 digits"),
    ],
)
def test_classes_that_are_not_there(text: str, message: str) -> None:
    with pytest.raises(TargetError) as caught:
        _named("tabby", "Egyptian cat", "crane", "espresso", "crane").class_index(text)
    assert str(caught.value) == message


def test_one_name_is_that_of_the_second_of_two_classes() -> None:
    loaded = _named("pneumonia")
    assert [loaded.class_name(index) for index in (0, 1)] == ["not pneumonia", "pneumonia"]
    assert loaded.class_index("Pneumonia") == 1


def test_model_without_class_names() -> None:
    assert _named().class_name(7) == "class 7"
    assert _named("a", "b").class_name(2) == "class 2"
    assert _named().class_index("281") == 281
    with pytest.raises(
        TargetError, match=r"^the class names of some:model are not known, so 'cat' cannot be found"
    ):
        _named().class_index("cat")
    with pytest.raises(TargetError, match=r"^a class index of some:model must be 0 or more, got -1$"):
        _named().class_index("-1")
