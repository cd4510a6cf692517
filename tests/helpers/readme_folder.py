"""The folder in which a reader of the README types its lines: photos, scans, and a small model of every kind."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

_PROJECT = """
from torch import nn

def build():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)
    )
"""


def make_folder(folder: Path, photos: Sequence[Image.Image]) -> None:
    """Fills a folder with all that the README's lines name."""
    torch.manual_seed(3)
    _save_pictures(folder, photos)
    _save_weights(folder)
    _save_huggingface(folder / "my_model")
    (folder / "my_project.py").write_text(_PROJECT)


def _save_pictures(folder: Path, photos: Sequence[Image.Image]) -> None:
    for name in ("photos", "train", "shards", "scans"):
        (folder / name).mkdir()
    for name, photo in zip(("cat", "espresso"), photos, strict=False):
        photo.save(folder / "photos" / f"{name}.jpg")
    photos[2].save(folder / "train" / "moped.jpg")
    (folder / "more.csv").write_text("path\ntrain/moped.jpg\n")
    with tarfile.open(folder / "shards" / "0.tar", "w") as tar:
        tar.add(folder / "photos" / "cat.jpg", "first.jpg")
    _save_scan(folder / "scans" / "0.dcm", np.asarray(photos[0].convert("L"), np.uint16) * 16)


def _save_weights(folder: Path) -> None:
    import timm
    from torchvision.models import resnet18

    best = resnet18(num_classes=2).state_dict()
    torch.save(best, folder / "best_model.pth")
    # As Lightning's ModelCheckpoint writes it.
    torch.save(
        {"epoch": 3, "state_dict": {f"model.{name}": best[name] for name in best}}, folder / "last.ckpt"
    )
    torch.save(resnet18(num_classes=1).state_dict(), folder / "one_logit.pth")
    gray = resnet18(num_classes=2)
    gray.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
    torch.save(gray.state_dict(), folder / "gray.pth")
    for name, file in (("resnet10t", "timm.pth"), ("vit_tiny_patch16_224", "vit.pth")):
        torch.save(timm.create_model(name, num_classes=2).state_dict(), folder / file)


def _save_huggingface(folder: Path) -> None:
    import transformers

    config = transformers.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[1, 1],
        layer_type="basic",
        id2label={0: "no", 1: "yes"},
    )
    transformers.ResNetForImageClassification(config).save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)


def _save_scan(path: Path, levels: np.ndarray) -> None:
    import pydicom

    scan: Any = pydicom.dataset.Dataset()
    scan.file_meta = pydicom.dataset.FileMetaDataset()
    scan.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    scan.SOPClassUID = scan.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    scan.SOPInstanceUID = scan.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    scan.Rows, scan.Columns = levels.shape
    scan.SamplesPerPixel, scan.PhotometricInterpretation, scan.PixelRepresentation = 1, "MONOCHROME2", 0
    scan.BitsAllocated, scan.BitsStored, scan.HighBit = 16, 12, 11
    scan.PixelData = levels.tobytes()
    scan.save_as(path, enforce_file_format=True)
