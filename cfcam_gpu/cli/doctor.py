"""`cfcam doctor`. PyTorch is imported inside the function, so that its help is quick."""

from __future__ import annotations

import dataclasses

import click

from cfcam_gpu.cli.interrupt import raise_again
from cfcam_gpu.cli.options import Json, command
from cfcam_gpu.cli.printing import print_json, print_table
from cfcam_gpu.cli.status import FAILED


@command()
def doctor(*, as_json: Json = False) -> None:
    """Show versions, devices, engines and optional packages, and explain two tiny images as a check.

    Exit status 1 if the check fails.
    """
    from cfcam_gpu.cli.doctor_checks import examine

    raise_again()
    sections = examine()
    if as_json:
        print_json({name: [dataclasses.asdict(f) for f in findings] for name, findings in sections.items()})
    else:
        rows = [
            (section if i == 0 else "", finding.name, "ok" if finding.usable else "no", finding.detail)
            for section, findings in sections.items()
            for i, finding in enumerate(findings)
        ]
        print_table({"section": "left", "what": "left", "usable": "left", "version or reason": "left"}, rows)
    if not all(finding.usable for finding in sections["check"]):
        raise click.exceptions.Exit(FAILED)
