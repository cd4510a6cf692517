"""`cfcam explain`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import cfcam_gpu
from cfcam_gpu.cli import demo as demo_job
from cfcam_gpu.cli import options as o
from cfcam_gpu.cli.app import finish
from cfcam_gpu.cli.printing import Follower, Outcome, print_json, say
from cfcam_gpu.cli.results import make_report
from cfcam_gpu.config import FILTERS, WEIGHTINGS, CFCAMConfig
from cfcam_gpu.dataset.options import DISTRIBUTED, OVERLAYS, RunOptions
from cfcam_gpu.dataset.run import RunSummary, explain_dataset
from cfcam_gpu.dataset.store.results import Results, open_results
from cfcam_gpu.errors import ConfigError
from cfcam_gpu.images.colormaps import COLORMAPS
from cfcam_gpu.methods import METHODS, parse_method


def explain_command(
    inputs: o.Inputs,
    out: Annotated[Path, o.option(o.OUTPUT, "Folder of the results and pictures, NAME_cfcam.png.", "DIR")],
    model: o.Spec = demo_job.MODEL,
    weights: o.Weights = None,
    num_classes: o.NumClasses = None,
    class_names: o.ClassNames = None,
    size: o.Size = None,
    mean: o.Mean = None,
    std: o.Std = None,
    target: o.Target = "predicted",
    layer: o.Layer = None,
    finer_layer: o.FinerLayer = None,
    method: Annotated[
        str, o.option(o.METHOD, f"One of {', '.join(METHODS)}, or cfcam:PRESET.", "NAME")
    ] = "cfcam",
    preset: o.Preset = "default",
    dominant_percentile: Annotated[
        str | None, o.option(o.METHOD, "Channels from this percentile are dominant; or none.", "P")
    ] = None,
    eps_percentile: Annotated[
        float | None, o.option(o.METHOD, "Percentile of the distances that is eps.", "P")
    ] = None,
    min_samples_fraction: Annotated[
        float | None, o.option(o.METHOD, "DBSCAN's min_samples, as a share of the channels.", "F")
    ] = None,
    filter: Annotated[str | None, o.option(o.METHOD, f"One of {', '.join(FILTERS)}.", "NAME")] = None,
    sigma_space: Annotated[float | None, o.option(o.METHOD, "Filter's width, in grid cells.", "S")] = None,
    sigma_range: Annotated[float | None, o.option(o.METHOD, "Filter's range, in gradients.", "S")] = None,
    diameter: Annotated[int | None, o.option(o.METHOD, "Filter's window in cells, odd.", "D")] = None,
    weighting: Annotated[str | None, o.option(o.METHOD, f"One of {', '.join(WEIGHTINGS)}.", "NAME")] = None,
    fine_share: Annotated[
        float | None, o.option(o.METHOD, "What the finer layer decides in cfcam-fine, 0..1.", "S")
    ] = None,
    engine: o.Engine = "auto",
    device: o.Device = "auto",
    batch_size: o.BatchSize = 16,
    precision: o.Precision = "float32",
    channels_last: o.ChannelsLast = False,
    fold_batchnorm: o.FoldBatchnorm = False,
    cmap: Annotated[str, o.option(o.OUTPUT, f"Colours: {', '.join(COLORMAPS)}.", "NAME")] = "inferno",
    alpha: Annotated[float, o.option(o.OUTPUT, "Share of the heatmap in the overlay, 0..1.", "A")] = 0.4,
    overlays: Annotated[str, o.option(o.OUTPUT, f"Pictures: {', '.join(OVERLAYS)}.", "KIND")] = "png",
    workers: o.Workers = None,
    sample_timeout: o.SampleTimeout = 60.0,
    max_errors: o.MaxErrors = "1%",
    retry_failed: o.RetryFailed = False,
    overwrite: o.Overwrite = False,
    part_size: o.PartSize = None,
    rank: o.Rank = None,
    world_size: o.WorldSize = None,
    distributed: Annotated[
        str | None, o.option(o.RUN, f"Spread the run over a cluster: {', '.join(DISTRIBUTED)}.", "KIND")
    ] = None,
    actors: Annotated[
        int | None, o.option(o.RUN, "Models of a distributed run; one per GPU, or two CPUs.", "N")
    ] = None,
    with_report: Annotated[
        bool, o.option(o.OUTPUT, "Write DIR/report.html as well.", name="--report")
    ] = False,
    as_json: o.Json = False,
) -> None:
    """Explain images and write the heatmap over each of them.

    What is not given of cfcam comes from the preset. A file that cannot
    be read is named with its reason and skipped; the others are explained.
    The same command goes on with a run that was ended.
    """
    given = dict(locals())
    options = _run_options(given)
    o.say_share(options, out)
    with Follower() as follower:
        summary = explain_dataset(inputs, out, o.model_of(given), options, observer=follower)
    results = open_results(out)
    outcome = Outcome(summary, results)
    if as_json:
        print_json({**_about(given, options, summary, results), **outcome.as_json()})
    else:
        outcome.print(show_predicted=target != "predicted")
    if with_report:
        say(f"report: {make_report(out)}")
    o.say_left(summary.others_left)
    finish(summary.tally)


def _run_options(given: Mapping[str, Any]) -> RunOptions:
    """Every option that is called as a field of `RunOptions` becomes that field."""
    name, preset = _method(given)
    config = _config(given, preset)
    return RunOptions(**o.run_settings(RunOptions, given) | {"method": name, "config": config})


def _method(given: Mapping[str, Any]) -> tuple[str, str]:
    """The method's name and preset."""
    name, _ = parse_method(given["method"])
    preset = given["method"].partition(":")[2] or given["preset"]
    if given["preset"] not in ("default", preset):
        raise ConfigError(f"two presets, --method {given['method']} and --preset {given['preset']}; give one")
    return name, preset


def _config(given: Mapping[str, Any], preset: str) -> CFCAMConfig:
    """The preset, with the parameters that were given in place of its own."""
    overrides = {name: value for name, value in o.fields_of(CFCAMConfig, given).items() if value is not None}
    dominant = given["dominant_percentile"]
    if dominant is not None:
        number = None if dominant == "none" else o.number_of(dominant, "--dominant-percentile")
        overrides["dominant_percentile"] = number
    return CFCAMConfig.preset(preset, **overrides)


def _about(
    given: Mapping[str, Any], options: RunOptions, summary: RunSummary, results: Results
) -> dict[str, Any]:
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
        "method": options.method,
        "preset": _method(given)[1],
        "config": dataclasses.asdict(options.config),
        "target": given["target"],
    }
