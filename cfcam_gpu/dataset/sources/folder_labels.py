"""Labels from the folders that images lie in: `train/cat/x.jpg` is labelled "cat"."""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Iterable, Iterator, Sequence

from cfcam_gpu._utils.messages import listed
from cfcam_gpu.dataset.judging import Judge
from cfcam_gpu.dataset.sources.columns import Columns, pieces_of
from cfcam_gpu.dataset.sources.sample import Sample, clean_text, split_uri
from cfcam_gpu.dataset.sources.spool import SpooledSamples
from cfcam_gpu.errors import InputError


def folder_label(uri: str) -> str | None:
    """The name of the folder that holds an image file, from its URI; None for other images.

    Example:
        >>> folder_label("/data/train/cat/x.jpg"), folder_label("tar:/a.tar#y.jpg")
        ('cat', None)
    """
    if uri.startswith("tar:"):
        return None
    scheme, parts = ("file", [uri]) if uri.startswith("/") else split_uri(uri)
    name = (
        posixpath.basename(posixpath.dirname(parts[0].replace("\\", "/")))
        if scheme in ("file", "url")
        else ""
    )
    return clean_text(name) or None


def chosen_labels(
    wanted: str, samples: Collection[Sample], class_names: Sequence[str] | None
) -> tuple[str, str | None]:
    """`folders` or `given`, and a sentence for the user where folders are recognised, or nearly so.

    Args:
        wanted: one of `cfcam_gpu.dataset.options.LABELS`.
        samples: those of an object that makes them as they are asked for have the labels they come with.
        class_names: of the model; None: not known.

    Raises:
        InputError: `folders` is wanted, and no folder is named for a class.

    Example:
        >>> samples = [Sample("x", "/train/cat/x.jpg"), Sample("y", "/train/dog/y.jpg")]
        >>> chosen_labels("auto", samples, ["cat", "dog"])[0], chosen_labels("auto", samples, ["cat"])[0]
        ('folders', 'given')
    """
    if not isinstance(samples, (list, SpooledSamples)):
        if wanted == "folders":
            raise InputError("labels from folders are for files; give the samples their labels")
        return "given", None
    if wanted == "given" or (wanted == "auto" and _any_label(samples)):
        return "given", None
    uris = (uri for piece in pieces_of(samples, "uri") for uri in piece["uri"])
    names = {name: None for uri in uris if (name := folder_label(uri)) is not None}
    judge = Judge(class_names)
    if wanted == "folders":
        if not any(judge.class_of(name) is not None for name in names):
            raise InputError(_no_class(list(names), class_names))
        return "folders", None
    # A folder "12" is more often a day than a class.
    matches = [name for name in names if not name.isdigit() and judge.class_of(name) is not None]
    if not matches or len(matches) < len(names):
        return "given", _nearly(len(matches), len(names)) if len(matches) > 1 else None
    return "folders", (
        f"labels are the names of the folders ({listed(list(names))}), which are classes of the model; "
        "--labels given leaves them out"
    )


def _any_label(samples: Iterable[Sample]) -> bool:
    return any(label is not None for piece in pieces_of(samples, "label") for label in piece["label"])


def with_folder_labels(samples: Iterable[Sample]) -> SpooledSamples:
    """The samples; each without a label gets the name of its file's folder. `SpooledSamples` are taken over.

    Example:
        >>> [sample.label for sample in with_folder_labels([Sample("x", "/train/cat/x.jpg")])]
        ['cat']
    """
    return _FolderLabelled(samples if isinstance(samples, SpooledSamples) else SpooledSamples(samples))


class _FolderLabelled(SpooledSamples):
    """Names the folders only when labels are asked for, which resuming a run does not do."""

    def __init__(self, samples: SpooledSamples) -> None:
        self._spool, self._samples = samples._spool, samples

    def pieces(self, *names: str) -> Iterator[Columns]:
        if "label" not in names:
            yield from self._samples.pieces(*names)
            return
        for piece in self._samples.pieces(*dict.fromkeys((*names, "uri"))):
            given = zip(piece["label"], piece["uri"], strict=True)
            piece["label"] = [folder_label(uri) if label is None else label for label, uri in given]
            yield {name: piece[name] for name in names}


def _nearly(matches: int, folders: int) -> str:
    return (
        f"{matches} of {folders} folders are named for classes of the model; --labels folders takes the names "
        "as labels"
    )


def _no_class(names: list[str], class_names: Sequence[str] | None) -> str:
    if not names:
        return "labels from folders need image files, and none of the inputs is one"
    known = (
        "the model's class names are not known; give --class-names FILE"
        if class_names is None
        else f"its classes are {listed(class_names)}"
    )
    return f"no folder is named for a class of the model: the folders are {listed(names)}, {known}"
