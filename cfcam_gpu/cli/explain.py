"""`cfcam explain`. PyTorch is imported inside the function, so that its help is quick."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import cfcam_gpu
from cfcam_gpu._utils.option import OUTPUT, Option
from cfcam_gpu.cli.early_checks import check_before_loading
from cfcam_gpu.cli.interrupt import raise_again
from cfcam_gpu.cli.options import Folder, Inputs, Json, LogFormat, Records, command, with_rank
from cfcam_gpu.cli.printing import print_json, say
from cfcam_gpu.cli.status import finish
from cfcam_gpu.dataset.options import RunOptions
from cfcam_gpu.errors import ConfigError
from cfcam_gpu.methods import parse_method
from cfcam_gpu.models import ModelOptions

if TYPE_CHECKING:
    from cfcam_gpu.dataset.run_summary import RunSummary
    from cfcam_gpu.dataset.store.results import Results

EXAMPLES = """
 Examples:
   cfcam explain cat.jpg dog.jpg --out maps
   cfcam explain photos "more/*.png" --out maps --overlays jpeg
   cfcam explain train.csv --out maps --overlays none --workers 8
   cfcam explain photos --out maps --model torchvision:resnet50@DEFAULT
   cfcam explain xrays --out maps --model torchvision:resnet50 \\
       --num-classes 2 --weights best_model.pth --layer layer4.2
   cfcam explain xrays --out maps --model py:nets:findings --multi-label 0.4
"""


def _with_preset(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The values of the options, `--method cfcam:PRESET` taken apart. Raises ConfigError."""
    values = with_rank(values)
    method, preset = values["method"], values["preset"]
    name, _ = parse_method(method)
    method_preset = method.partition(":")[2] or preset
    if preset not in ("default", method_preset):
        raise ConfigError(f"two presets, --method {method} and --preset {preset}; give one")
    return {**values, "method": name, "preset": method_preset}


@command(examples=EXAMPLES, adjust=_with_preset)
def explain(
    inputs: Inputs,
    out: Annotated[
        Folder,
        Option("Folder, or s3:// or gs:// URL, of the results and pictures, NAME_cfcam.png.", OUTPUT, "DIR"),
    ],
    model: ModelOptions,
    options: RunOptions,
    preset: str,
    *,
    with_report: Annotated[bool, Option("Write DIR/report.html as well.", OUTPUT, name="report")] = False,
    log_format: LogFormat = "text",
    records: Records = None,
    as_json: Json = False,
) -> None:
    """Explain images and write the heatmap over each of them.

    What is not given of cfcam comes from the preset. A file that cannot
    be read is named with its reason and skipped; the others are explained.
    The same command goes on with a run that was ended.
    """
    check_before_loading(inputs, model, options)

    from cfcam_gpu._utils.allocator import keep_freed_memory
    from cfcam_gpu._utils.device import names_cpu
    from cfcam_gpu.cli.outcome import RunOutcome
    from cfcam_gpu.cli.progress import followed, say_others_left, say_rank, write_report_with_progress
    from cfcam_gpu.dataset.run import explain_dataset
    from cfcam_gpu.dataset.store.results import open_results

    raise_again()
    if names_cpu(options.device):
        keep_freed_memory()
    say_rank(options, out)
    with followed(log_format, records) as follower:
        summary = explain_dataset(inputs, out, model.load, options, observer=follower)
    results = open_results(out)
    outcome = RunOutcome(summary, results)
    if as_json:
        print_json({**_about(options, preset, summary, results), **outcome.as_json()})
    else:
        outcome.print(show_predicted=options.target is not None)
    if with_report:
        say(f"report: {write_report_with_progress(out)}")
    say_others_left(summary.others_left)
    finish(summary.tally)


def _about(options: RunOptions, preset: str, summary: RunSummary, results: Results) -> dict[str, Any]:
    """What --json says of the run."""
    return {
        "version": cfcam_gpu.__version__,
        "model": results.run["fingerprint"]["model"],
        "weights": results.run["info"]["weights"],
        "layer": summary.layer,
        "engine": summary.engine,
        "device": summary.device,
        "precision": options.precision,
        "channels_last": options.channels_last,
        "fold_batchnorm": options.fold_batchnorm,
        "decode": options.decode,
        "method": options.method,
        "preset": preset,
        "config": dataclasses.asdict(options.config),
        "target": "predicted" if options.target is None else options.target,
        "top_k": options.top_k,
        "multi_label": options.multi_label,
        "activation": results.run["fingerprint"]["activation"],
    }
