"""Which members of a shard belong together: the images of a key, and the label files of each image."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from cfcam_gpu.dataset.sources.names import IMAGE_SUFFIXES

#: Extensions of label files, in the order in which their values count.
LABEL_SUFFIXES = (".cls", ".json")

#: What is wrong with a key whose members cannot be told apart.
_TWICE = (
    "the shard holds this key twice with different members, so that labels and images cannot be told apart"
)


@dataclass
class Members:
    """One image, or several that differ in extension only, with its label files.

    Attributes:
        images, labels: extension -> member.
    """

    images: dict[str, tarfile.TarInfo] = field(default_factory=dict)
    labels: dict[str, tarfile.TarInfo] = field(default_factory=dict)

    def add(self, extension: str, member: tarfile.TarInfo) -> bool:
        """Takes the member; False where one of the same name is here already."""
        members = self.images if extension in IMAGE_SUFFIXES else self.labels
        if extension in members:
            return False
        members[extension] = member
        return True

    @property
    def extensions(self) -> set[str]:
        return {*self.images, *self.labels}


@dataclass(frozen=True)
class KeyedImage:
    """An image of a shard.

    Attributes:
        name: its key, with the extension where the key alone would not be clear.
        member: None where there is no image.
        labels: extension -> its label file.
        problem: why it cannot be explained; None: it can.
    """

    name: str
    member: tarfile.TarInfo | None
    labels: dict[str, tarfile.TarInfo] = field(default_factory=dict)
    problem: str | None = None


class Key:
    """The members of one key: all whose base names agree up to the first dot, as WebDataset divides them.

    Within a key, members belong together whose names agree up to their own extensions: "22.05.png" and
    "22.05.json". A label file of the plain key ("22.json") is for all of its images that have none.
    A member whose name came before begins a second sample of that name.

    Attributes:
        others: extensions of the members that are neither images nor label files.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.others: set[str] = set()
        self._occurrences: dict[str, list[Members]] = {}

    def add(self, extension: str, member: tarfile.TarInfo) -> None:
        """Takes a member of the key; `extension` is what follows the key, in lower case."""
        own = PurePosixPath("x" + extension).suffix
        if own not in IMAGE_SUFFIXES and own not in LABEL_SUFFIXES:
            self.others.add(extension or "no extension")
            return
        occurrences = self._occurrences.setdefault(extension.removesuffix(own), [Members()])
        if not occurrences[-1].add(own, member):
            occurrences.append(Members())
            occurrences[-1].add(own, member)

    def images(self) -> list[KeyedImage]:
        """The images, in the order of the shard; at least one entry.

        Where an image has the plain key, those with more in their names ("000.mask.png") are no samples,
        unless they have label files of their own.
        """
        has_image = {middle for middle, all_of in self._occurrences.items() if any(m.images for m in all_of)}
        images = [
            image
            for middle in self._occurrences
            if self._is_sample(middle, has_image)
            for image in self._images_of(middle)
        ]
        if len(images) == 1 and images[0].member is not None:
            return [replace(images[0], name=self.name)]
        return images or [KeyedImage(self.name, None, problem=self._no_image())]

    def _is_sample(self, middle: str, has_image: set[str]) -> bool:
        if (
            middle not in has_image
        ):  # label files: the image of a sample is missing, or they are for all images
            return bool(has_image) and middle != "" and "" not in has_image
        has_labels = any(members.labels for members in self._occurrences[middle])
        return "" not in has_image or middle == "" or has_labels

    def _images_of(self, middle: str) -> Iterator[KeyedImage]:
        occurrences, name = self._occurrences[middle], self.name + middle
        if not any(members.images for members in occurrences):
            extensions = {extension for members in occurrences for extension in members.labels}
            yield KeyedImage(
                name, None, problem=f"no image of this name, only {', '.join(sorted(extensions))}"
            )
        differ = len({frozenset(members.extensions) for members in occurrences}) > 1
        for members in occurrences:
            labels = [members.labels] if members.labels or not middle else self._shared_labels()
            problem = _TWICE if differ or len(labels) > 1 else None
            for extension, member in members.images.items():
                yield KeyedImage(name + extension, member, {} if problem else dict(*labels), problem)

    def _shared_labels(self) -> list[dict[str, tarfile.TarInfo]]:
        """The label files of the plain key, where no image has that key; more than one where they come twice."""
        return [members.labels for members in self._occurrences.get("", []) if not members.images]

    def _no_image(self) -> str:
        labels = {
            middle + own for middle, all_of in self._occurrences.items() for m in all_of for own in m.labels
        }
        return f"no image among the members of this key, only {', '.join(sorted({*labels, *self.others}))}"
