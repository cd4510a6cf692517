"""Which method's maps lie on the object in real scenes? COCO photos with masks, three models.

    python -m bench.scenes --coco DIR --photos DIR --out DIR   (make evaluate-photos COCO=DIR PHOTOS=DIR)

COCO/images holds photos and COCO/masks a PNG of the same name whose pixels are COCO category ids (0: none): from the
public repository lightly-ai/coco128_yolo, `images/train2017` and `semantic_segmentation/masks/train2017`. PHOTOS holds
photos `NNNN_name.jpg`, NNNN the ImageNet class: from the public repository EliSchwartz/imagenet-sample-images, the
index in the order of the file names. A question is a photo and a category whose mask covers 0.5 to 60 % of it, one of
whose ImageNet classes is among the model's ten likeliest with p of at least 0.02; the likeliest of these is explained.
The photos of PHOTOS are explained for their class, without masks.

Finished pairs of model and method stay in `--out`; the same command does the rest. Intervals are of the difference from
Grad-CAM, by bootstrap over photos; p by flipping the signs of photos' differences, after Holm for all methods of a
column.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bench.common import command, print_table
from bench.scene_controls import CONTROLS
from cfcam_gpu import CFCAM
from cfcam_gpu.errors import ConfigError
from cfcam_gpu.evaluation.maps import normaliser
from cfcam_gpu.metrics import METRICS, MetricOptions
from cfcam_gpu.metrics.arcc import arcc_of
from cfcam_gpu.metrics.base import Case
from cfcam_gpu.models import LoadedModel, load_model

CATEGORIES = Path(__file__).with_name("coco_to_imagenet.json")
SCALES = (1.0, 1.43, 2.0)

#: Label -> method, and the arguments of `CFCAM`. HiResCAM and XGrad-CAM are Grad-CAM at a last layer that is pooled.
VARIANTS: dict[str, dict[str, Any]] = {
    "gradcam": {"method": "gradcam"},
    "cfcam": {"method": "cfcam"},
    "cfcam-fine": {"method": "cfcam-fine"},
    "gradcam-fine": {"method": "gradcam-fine"},
    "layercam": {"method": "layercam"},
    "gradcam++": {"method": "gradcam++"},
    "hirescam": {"method": "hirescam"},
    "xgradcam": {"method": "xgradcam"},
    "ablationcam": {"method": "ablationcam"},
    "groupcam": {"method": "groupcam"},
    "reciprocam": {"method": "reciprocam"},
    "refinecam": {"method": "refinecam"},
    "gradcam, three sizes": {"method": "gradcam", "scales": SCALES},
    "cfcam-sharp": {"method": "cfcam-sharp"},
    "cfcam-sharp, three sizes": {"method": "cfcam-sharp", "scales": SCALES},
    **{f"control: {name}": {"method": "cfcam-sharp"} for name in CONTROLS},
}

#: Column -> the metric it comes from.
COLUMNS = {
    "pointing": "localisation", "energy_inside": "localisation", "iou_25": "localisation", "iou_50": "localisation",
    "average_precision": "average_precision", "average_drop": "drop", "increase": "drop",
    "deletion_black_auc": "deletion", "insertion_blur_auc": "insertion", "road_combined": "road", "adcc": "adcc",
    "coherency": "adcc", "complexity": "adcc", "arcc": "", "second_class": "", "input_noise": "",
}  # fmt: skip

#: Metrics that take several passes of the model for each map.
_LONG = ("deletion", "insertion", "road", "adcc")

#: Standard deviation of the noise on images in [0,1], and images explained at once.
NOISE, BATCH = 0.1, 8


@dataclass(frozen=True)
class Options:
    """Folders; models; labels of `VARIANTS`, all by default; photos of each folder, 0: all; steps of deletion and
    insertion, 0: without these, ROAD, ADCC, ARCC, the second class and noise.
    """

    coco: str = ""
    photos: str = ""
    out: str = "cfcam-scenes"
    models: tuple[str, ...] = ("efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2")
    methods: tuple[str, ...] = tuple(VARIANTS)
    limit: int = 0
    steps: int = 6


@dataclass(frozen=True)
class Question:
    """A photo as the model sees it (3,H,W) in [0,1], a class, and the object's mask (H,W) bool, where there is one."""

    photo: str
    pixels: Tensor
    target: int
    mask: Tensor | None


def questions(loaded: LoadedModel, options: Options) -> list[Question]:
    """All questions to a model, those about COCO photos first."""
    found = _coco_questions(loaded, Path(options.coco), options.limit) if options.coco else []
    if options.photos:
        files = sorted(Path(options.photos).glob("*.jpg"))[: options.limit or None]
        found += [Question(f.stem, _pixels(loaded, Image.open(f)), int(f.stem[:4]), None) for f in files]
    if not found:
        raise ConfigError(
            "there are no questions; pass --coco DIR or --photos DIR, see python -m bench.scenes --help"
        )
    return found


def _coco_questions(loaded: LoadedModel, folder: Path, limit: int) -> list[Question]:
    categories = {int(name): classes for name, classes in json.loads(CATEGORIES.read_text()).items()}
    normalise, found = normaliser(loaded.preprocess), []
    for file in sorted((folder / "images").glob("*.jpg"))[: limit or None]:
        image = Image.open(file)
        mask = np.asarray(
            Image.open(folder / "masks" / f"{file.stem}.png").resize(image.size, Image.Resampling.NEAREST)
        )
        pixels = _pixels(loaded, image)
        with torch.inference_mode():
            p = loaded.model(normalise(pixels[None])).softmax(1)[0]
        likeliest = [index for index in p.topk(10).indices.tolist() if p[index] >= 0.02]
        for category, classes in categories.items():
            answers = [index for index in likeliest if index in classes]
            if answers and 0.005 <= (mask == category).mean() <= 0.6:
                small = Image.fromarray(mask == category).resize(
                    loaded.preprocess.size[::-1], Image.Resampling.NEAREST
                )
                found.append(Question(file.stem, pixels, answers[0], torch.from_numpy(np.array(small))))
    return found


def _pixels(loaded: LoadedModel, image: Image.Image) -> Tensor:
    """(3,H,W) in [0,1]: the photo squashed to the model's input size."""
    size = loaded.preprocess.size[::-1]
    squashed = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(squashed)).permute(2, 0, 1) / 255


def measure(loaded: LoadedModel, label: str, asked: Sequence[Question], steps: int) -> dict[str, Any]:
    """One value for each question in each column, and seconds a map."""
    control = CONTROLS.get(label.removeprefix("control: "))
    if control is None:
        return _measured(loaded, VARIANTS[label], asked, steps)
    with control():
        return _measured(loaded, VARIANTS[label], asked, steps)


def _measured(
    loaded: LoadedModel, arguments: dict[str, Any], asked: Sequence[Question], steps: int
) -> dict[str, Any]:
    cam = CFCAM(loaded.model, on_invalid="flag", **arguments)
    normalise, seconds = normaliser(loaded.preprocess), 0.0
    values: dict[str, list[float]] = {name: [] for name in COLUMNS}
    for start in range(0, len(asked), BATCH):
        batch = asked[start : start + BATCH]
        pixels, targets = torch.stack([q.pixels for q in batch]), torch.tensor([q.target for q in batch])
        images = normalise(pixels)
        begun = time.perf_counter()
        heatmaps = cam(images, targets).heatmap
        seconds += time.perf_counter() - begun

        def logits(modified: Tensor) -> Tensor:
            with torch.inference_mode():
                return torch.cat([loaded.model(normalise(part)).float() for part in modified.split(BATCH)])

        none = torch.zeros_like(heatmaps[0], dtype=torch.bool)
        masks = torch.stack([none if q.mask is None else q.mask for q in batch])
        maps: Any = _Maps(cam, normalise)
        case = Case.of_heatmaps(logits, pixels, targets, heatmaps, masks=masks, maps=maps)
        for column, found in _figures(case, steps).items():
            values[column] += found.tolist()
        if not steps:
            continue
        second = logits(pixels).scatter(1, targets[:, None], -torch.inf).argmax(1)
        values["second_class"] += _alike(heatmaps, cam(images, second).heatmap)
        noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(start)) * NOISE
        noisy = cam(normalise((pixels + noise).clamp(0, 1)), targets).heatmap
        values["input_noise"] += _alike(heatmaps, noisy)
    return {"values": {name: v for name, v in values.items() if v}, "seconds": seconds / len(asked)}


@dataclass(frozen=True)
class _Maps:
    """What `Case.maps` is asked for here: heatmaps of other images by the same method."""

    cam: CFCAM
    normalise: Callable[[Tensor], Tensor]

    def of_images(self, images: Tensor, targets: Tensor) -> Tensor:
        return self.cam(self.normalise(images), targets).heatmap


def _figures(case: Case, steps: int) -> dict[str, Tensor]:
    """Column -> values (B,) of the metrics in `COLUMNS`, those that take long only if there are steps."""
    figures: dict[str, Tensor] = {}
    for name in dict.fromkeys(metric for metric in COLUMNS.values() if metric):
        if steps or name not in _LONG:
            figures |= METRICS[name](case, MetricOptions(steps=max(2, steps)))
    if steps:
        figures["arcc"] = arcc_of(figures["coherency"], figures["complexity"], figures["road_combined"])
    return {column: figures[column] for column in COLUMNS if column in figures}


def _alike(one: Tensor, other: Tensor) -> list[float]:
    """The correlation of each pair of heatmaps (B,H,W); NaN where one is constant."""
    pairs = zip(one.flatten(1), other.flatten(1), strict=True)
    return [float(torch.corrcoef(torch.stack(pair))[0, 1]) for pair in pairs]


def compared(values: Sequence[float], base: Sequence[float], photos: Sequence[str]) -> dict[str, float]:
    """The mean, the difference from the base, its 95 % interval by photo, and p by flipped signs."""
    differences = np.asarray(values) - np.asarray(base)
    kept = np.isfinite(differences)
    names, of = np.unique(np.asarray(photos)[kept], return_inverse=True)
    sums, counts = np.bincount(of, differences[kept]), np.bincount(of)
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(names), size=(4000, len(names)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    flipped = (rng.choice((-1, 1), size=(4000, len(names))) * sums).sum(1)
    low, high = np.percentile(means, (2.5, 97.5))
    return {
        "mean": float(np.nanmean(np.asarray(values)[kept])),
        "difference": float(differences[kept].mean()),
        "low": float(low),
        "high": float(high),
        "p": float((1 + (np.abs(flipped) >= abs(sums.sum())).sum()) / 4001),
        "photos": len(names),
    }


def holm(p: dict[str, float]) -> dict[str, float]:
    """p of several comparisons, corrected for their number (Holm 1979).

    Example:
        >>> holm({"a": 0.01, "b": 0.04, "c": 0.02})
        {'a': 0.03, 'c': 0.04, 'b': 0.04}
    """
    corrected, highest = {}, 0.0
    for place, name in enumerate(sorted(p, key=lambda one: p[one])):
        highest = max(highest, min(1.0, p[name] * (len(p) - place)))
        corrected[name] = round(highest, 4)
    return corrected


def summary(measured: dict[str, dict[str, Any]], photos: Sequence[str]) -> dict[str, Any]:
    """Label -> column -> what `compared` gives, with Holm's p; and seconds a map."""
    base = measured["gradcam"]["values"]
    found: dict[str, Any] = {
        label: {column: compared(v, base[column], photos) for column, v in one["values"].items()}
        for label, one in measured.items()
    }
    for column in base:
        p = {label: of[column]["p"] for label, of in found.items() if label != "gradcam" and column in of}
        for label, value in holm(p).items():
            found[label][column]["p_holm"] = value
    for label, one in measured.items():
        found[label]["seconds"] = one["seconds"]
    return json.loads(json.dumps(found), parse_float=lambda text: round(float(text), 4))


def columns_of(steps: int) -> set[str]:
    """The columns that a run measures; a file of an earlier version may hold others.

    Example:
        >>> "road_combined" in columns_of(6), "pointing" in columns_of(0), "arcc" in columns_of(0)
        (True, True, False)
    """
    quick = {name for name, metric in COLUMNS.items() if metric and metric not in _LONG}
    return set(COLUMNS) if steps else quick


def run(options: Options) -> dict[str, Any]:
    """The benchmark's result."""
    folder, models = Path(options.out), {}
    folder.mkdir(parents=True, exist_ok=True)
    for spec in options.models:
        loaded = load_model(spec)
        asked = questions(loaded, options)
        key = f"{spec}-{len(asked)}-{options.steps}"
        measured = {}
        for label in dict.fromkeys(("gradcam", *options.methods)):
            file = folder / f"{key}-{label.replace(': ', '-').replace(', ', '-').replace(' ', '-')}.json"
            if not file.exists() or json.loads(file.read_text())["values"].keys() != columns_of(
                options.steps
            ):
                file.write_text(json.dumps(measure(loaded, label, asked, options.steps)))
            measured[label] = json.loads(file.read_text())
        masked = sum(q.mask is not None for q in asked)
        models[spec] = {
            "questions": len(asked),
            "with_masks": masked,
            "methods": summary(measured, [q.photo for q in asked]),
        }
    return {"steps": options.steps, "models": models}


def show(result: dict[str, Any]) -> None:
    """Prints one table for each model: means, and * where Holm's p of the difference from Grad-CAM is below 0.05."""
    for spec, of in result["models"].items():
        columns = [name for name in COLUMNS if name in of["methods"]["gradcam"]]
        rows = [
            (label, *(_shown(one.get(name)) for name in columns), f"{one['seconds']:.2f}")
            for label, one in of["methods"].items()
        ]
        title = f"{spec}, {of['questions']} questions, {of['with_masks']} with masks"
        print_table(title, ("method", *columns, "s a map"), rows)


def _shown(figure: dict[str, float] | None) -> str:
    if figure is None:
        return "-"
    return f"{figure['mean']:.3f}{'*' if figure.get('p_holm', 1) < 0.05 else ''}"


if __name__ == "__main__":
    command("scenes", Options, run, show, __doc__)
