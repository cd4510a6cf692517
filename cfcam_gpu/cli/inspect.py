"""`cfcam layers` and `cfcam doctor`."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import torch
import typer

from cfcam_gpu._utils.device import model_errors
from cfcam_gpu.capture.layers import list_layers
from cfcam_gpu.cli import doctor as doctor_job
from cfcam_gpu.cli import options as o
from cfcam_gpu.cli.app import FAILED
from cfcam_gpu.cli.printing import print_json, print_table
from cfcam_gpu.models import load_model


def layers(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=o.SPEC_HELP)],
    weights: o.Weights = None,
    num_classes: o.NumClasses = None,
    size: o.Size = None,
    as_json: o.Json = False,
) -> None:
    """List the layers that can be explained, with their maps' shapes and the automatic choice."""
    loaded = load_model(model, weights=weights, num_classes=num_classes, size=o.size_of(size))
    images = torch.rand(1, 3, *loaded.preprocess.size, generator=torch.Generator().manual_seed(0))
    with model_errors(images.shape):
        found = list_layers(loaded.model, images)
    if as_json:
        print_json({"model": loaded.spec, "layers": [dataclasses.asdict(info) for info in found]})
        return
    print_table(
        {"layer": "left", "type": "left", "channels x height x width": "right", "choice": "left"},
        [
            (info.name, info.type, " x ".join(map(str, info.shape)), "automatic" if info.chosen else "")
            for info in found
        ],
    )


def doctor(as_json: o.Json = False) -> None:
    """Show versions, devices, engines and optional packages, and explain two tiny images as a check.

    Exit status 1 if the check fails.
    """
    findings = doctor_job.examine()
    if as_json:
        print_json({section: [dataclasses.asdict(f) for f in found] for section, found in findings.items()})
    else:
        rows = [
            (section if first else "", f.name, "ok" if f.usable else "no", f.detail)
            for section, found in findings.items()
            for first, f in zip([True] + [False] * len(found), found, strict=False)
        ]
        print_table({"section": "left", "what": "left", "usable": "left", "version or reason": "left"}, rows)
    if not all(f.usable for f in findings["check"]):
        raise typer.Exit(FAILED)
