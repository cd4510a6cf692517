"""The names of samples, from which the names of their output files are made."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Container, Sequence
from functools import lru_cache
from pathlib import PurePath, PurePosixPath

from cfcam_gpu.dataset.sources.sample import clean_text

#: File extensions of images. They tell images from other members of a shard; the decoder goes by content.
IMAGE_SUFFIXES = frozenset((
    ".avif", ".bmp", ".dcm", ".dicom", ".gif", ".ico", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".jpx",
    ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp",
))  # fmt: skip

#: Longest name of a file or folder. File systems allow 255 bytes; suffixes and numbers are added to a name.
_MAX_BYTES = 180

#: Files and folders of an output folder, lower case.
_OF_THE_STORE = frozenset((
    ".cfcam", "cost", "evaluation.json", "metrics.parquet", "overlays", "plan.parquet", "plots", "report.html",
    "report_files", "run.json", "shards", "summary.json",
))  # fmt: skip

#: Ends of the names of pictures that runs and exports write.
_PICTURES = (".png", ".jpg", ".webp")

#: Folders and a file: printable ASCII but "/", "\\" and ":", none beginning with a dot or a space, nor the end a space.
_PLAIN = re.compile(
    r"(?:[!-,0-9;-\[\]-~\-][ -.0-9;-\[\]-~]*/)*[!-,0-9;-\[\]-~\-](?:[ -.0-9;-\[\]-~]*[!-.0-9;-\[\]-~])?"
)

_CONTROL = re.compile(r"[\x00-\x1f\x7f\\]")


def names_of(path: str) -> tuple[str, str]:
    """The name of an image file: its path without the extension, and its whole path, for where others clash.

    Example:
        >>> names_of("pets/cat.png")
        ('pets/cat', 'pets/cat.png')
    """
    if is_plain(path):
        stem, dot, suffix = path.rpartition(".")
        return (stem if dot and suffix and "/" not in suffix else path), path
    pure = PurePath(path)
    full = pure.as_posix()
    return (pure.with_suffix("").as_posix() if _has_stem(pure) else full), full


def image_stem(name: PurePosixPath) -> PurePosixPath:
    """The name without an image's extension; other extensions belong to the name.

    Example:
        >>> image_stem(PurePosixPath("pets/cat.png")), image_stem(PurePosixPath("patient.1"))
        (PurePosixPath('pets/cat'), PurePosixPath('patient.1'))
    """
    is_image = _has_stem(name) and name.suffix.lower() in IMAGE_SUFFIXES
    return name.with_suffix("") if is_image else name


def _has_stem(path: PurePath) -> bool:
    """Whether something is left without the extension: of "...png" only dots would be."""
    return path.stem.strip(".") != ""


def is_plain(path: str) -> bool:
    """Whether a path is relative, in ASCII, and the same in any spelling: most are, and need no closer look.

    Example:
        >>> is_plain("cats/1 (2).png"), is_plain("cats/../1.png"), is_plain("/cats/1.png"), is_plain(" 1.png")
        (True, False, False, False)
    """
    return len(path) <= _MAX_BYTES and _PLAIN.fullmatch(path) is not None


def names_of_id(sample_id: str) -> tuple[str, str]:
    """The name of a sample from its id, without an image's extension, and its whole name, for where others clash.

    Example:
        >>> names_of_id("/photos/../cat.png")
        ('photos/cat', 'photos/cat.png')
    """
    if is_plain(sample_id):
        stem, dot, suffix = sample_id.rpartition(".")
        return (stem if f"{dot}{suffix.lower()}" in IMAGE_SUFFIXES else sample_id), sample_id
    name = safe_name(sample_id)
    return str(image_stem(name)), str(name)


def safe_name(text: str) -> PurePosixPath:
    """A relative path for output files made of any text: without root, "..", control characters and long parts.

    Example:
        >>> safe_name("/photos/../cat\\\\1.png")
        PurePosixPath('photos/cat_1.png')
    """
    parts = [_shortened(_CONTROL.sub("_", part)) for part in clean_text(text).split("/")]
    kept = [part for part in parts if part not in ("", ".", "..")]
    return PurePosixPath(*kept) if kept else PurePosixPath("sample")


def leads_out(name: str) -> bool:
    """Whether the path leads out of the folder it is appended to, or is no path.

    Example:
        >>> leads_out("pets/cat"), leads_out("../cat"), leads_out("/cat")
        (False, True, True)
    """
    return name.startswith("/") or "\0" in name or (".." in name and ".." in PurePosixPath(name).parts)


def output_name(name: str) -> str:
    """The name with "_" behind each folder that a run may need for a file or folder of its own.

    Example:
        >>> output_name("shards/part-00001.parquet/x"), output_name("cat_cfcam.png/x"), output_name("pets/cat")
        ('shards_/part-00001.parquet/x', 'cat_cfcam.png_/x', 'pets/cat')
    """
    folder, slash, last = name.rpartition("/")
    return f"{_output_folder(folder)}/{last}" if slash else name


@lru_cache(maxsize=1024)
def _output_folder(path: str) -> str:
    folders = path.split("/")
    if folders[0].lower() in _OF_THE_STORE:
        folders[0] += "_"
    return "/".join(f"{folder}_" if folder.lower().endswith(_PICTURES) else folder for folder in folders)


def _shortened(part: str) -> str:
    if len(part.encode()) <= _MAX_BYTES:
        return part
    suffix = PurePath(part).suffix[:10]
    return part.encode()[: _MAX_BYTES - 40].decode(errors="ignore") + suffix


def unique_names(stems: Sequence[str], fulls: Sequence[str]) -> list[str]:
    """A different name for each sample, also on file systems that ignore case or compose accents.

    It is the stem; where stems are equal the full path; where these are equal as well a numbered stem.

    Args:
        stems: short names; fulls: the long name of each.

    Example:
        >>> unique_names(["cat", "cat", "dog", "Dog"], ["cat.png", "cat.jpg", "dog", "Dog"])
        ['cat.png', 'cat.jpg', 'dog', 'Dog-2']
    """
    stem_counts, full_counts = Counter(map(name_key, stems)), Counter(map(name_key, fulls))
    wanted = [
        full if stem_counts[name_key(stem)] > 1 and full_counts[name_key(full)] == 1 else stem
        for stem, full in zip(stems, fulls, strict=True)
    ]
    numbering = Numbering(reserved=set(map(name_key, wanted)))
    return [numbering.unique(name) for name in wanted]


class Numbering:
    """Different texts: of equal ones the first stays as it is, the others end with "-2", "-3", …

    Args:
        reserved: keys of texts that no text becomes by a number.
        key: equal for texts that count as equal.

    Example:
        >>> numbering = Numbering(reserved={"cat-2"})
        >>> [numbering.unique(name) for name in ("cat", "Cat", "cat-2")]
        ['cat', 'Cat-3', 'cat-2']
    """

    def __init__(self, reserved: Container[str] = (), key: Callable[[str], str] | None = None) -> None:
        self.reserved = reserved
        self.key = key or name_key
        self.taken: set[str] = set()
        self.last_number: Counter[str] = Counter()

    def unique(self, text: str) -> str:
        """The text, with a number where it was given before."""
        key, unique = self.key(text), text
        while self.key(unique) in self.taken or (unique != text and self.key(unique) in self.reserved):
            self.last_number[key] += 1
            unique = f"{text}-{self.last_number[key] + 1}"
        self.taken.add(self.key(unique))
        return unique


def name_key(name: str) -> str:
    """Equal for names that a file system that ignores case or composes accents takes for the same file."""
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())
