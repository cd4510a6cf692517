"""`cfcam evaluate`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

import cfcam_gpu
from cfcam_gpu.cli import demo as demo_job
from cfcam_gpu.cli import options as o
from cfcam_gpu.cli.app import finish
from cfcam_gpu.cli.printing import Follower, print_json, print_table, printable
from cfcam_gpu.errors import ConfigError
from cfcam_gpu.evaluation.options import DEFAULT_METRICS, EvaluationOptions
from cfcam_gpu.evaluation.run import EvaluationSummary, evaluate
from cfcam_gpu.evaluation.store import EvaluationStore
from cfcam_gpu.evaluation.tables import (
    ARROWS,
    MARKS,
    has_values,
    interval,
    legend,
    number,
    same_for_every_class,
    scalars,
    title,
    verdict,
)
from cfcam_gpu.methods import METHODS
from cfcam_gpu.metrics.options import MetricOptions
from cfcam_gpu.metrics.registry import METRICS

#: Marks the best method of a line.
BEST = "★"

_METRICS_HELP = f"all, or of these: {', '.join(METRICS)}; unless given {', '.join(DEFAULT_METRICS)}."


def evaluate_command(
    inputs: o.Inputs,
    out: Annotated[Path, o.option(o.OUTPUT, "Folder of the results, plots and page.", "DIR")],
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
    methods: Annotated[
        str,
        o.option(o.METHOD, f"all, or of these, or cfcam:PRESET: {', '.join(METHODS)}.", "NAME,NAME"),
    ] = "cfcam,gradcam",
    metrics: Annotated[str | None, o.option(o.METHOD, _METRICS_HELP, "NAME,NAME")] = None,
    masks: Annotated[
        Path | None, o.option(o.METHOD, "Folder of the objects' masks, NAME.png for each image.", "DIR")
    ] = None,
    baseline: Annotated[str, o.option(o.METHOD, "Method the others are compared with.", "NAME")] = "gradcam",
    steps: Annotated[int, o.option(o.METHOD, "Points of deletion and insertion curves.", "N")] = 101,
    seed: Annotated[int, o.option(o.METHOD, "Of all random draws.", "N")] = 0,
    engine: o.Engine = "auto",
    device: o.Device = "auto",
    batch_size: o.BatchSize = 16,
    precision: o.Precision = "float32",
    channels_last: o.ChannelsLast = False,
    fold_batchnorm: o.FoldBatchnorm = False,
    workers: o.Workers = None,
    sample_timeout: o.SampleTimeout = 60.0,
    max_errors: o.MaxErrors = "1%",
    retry_failed: o.RetryFailed = False,
    overwrite: o.Overwrite = False,
    part_size: o.PartSize = None,
    rank: o.Rank = None,
    world_size: o.WorldSize = None,
    plots: Annotated[bool, o.option(o.OUTPUT, "Draw plots, in DIR/plots and on the page.")] = True,
    as_json: o.Json = False,
) -> None:
    """Measure how good methods' heatmaps are, side by side on the same images.

    Without --metrics, those that need masks of the objects are measured where
    images have masks. The same command goes on with a run that was ended.
    """
    given = dict(locals())
    options = _options(given)
    o.say_share(options, out)
    with Follower("evaluating") as follower:
        summary = evaluate(inputs, out, o.model_of(given), options, observer=follower)
    if as_json:
        print_json(_as_json(summary, options))
    else:
        _print(summary, options)
    o.say_left(summary.run.others_left)
    finish(summary.run.tally, "evaluated")


def _options(given: Mapping[str, Any]) -> EvaluationOptions:
    metrics = given["metrics"]
    return EvaluationOptions(
        **o.run_settings(EvaluationOptions, given)
        | {
            "methods": _names(given["methods"], "--methods"),
            "metrics": None if metrics is None else _names(metrics, "--metrics"),
            "measuring": MetricOptions(steps=given["steps"], seed=given["seed"]),
        }
    )


def _names(text: str, option: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise ConfigError(f"{option} takes names divided by commas, got {text!r}")
    return names


def _as_json(summary: EvaluationSummary, options: EvaluationOptions) -> dict[str, Any]:
    """The curves stay in summary.json."""
    run, found = summary.run, summary.found
    stored = EvaluationStore(run.out, ()).read_run() or {}
    return {
        "version": cfcam_gpu.__version__,
        "model": stored["fingerprint"]["model"],
        "weights": stored["info"]["weights"],
        "layer": run.layer,
        "device": run.device,
        "precision": options.precision,
        "methods": list(options.cams()),
        "metrics": stored["fingerprint"]["metrics"],
        "out": str(run.out),
        "counts": dataclasses.asdict(run.tally),
        "samples": run.total,
        "done_before": run.before,
        "others_left": run.others_left,
        "seconds": round(run.seconds, 3),
        "summary": None if found is None else {k: v for k, v in found.items() if k != "curves"},
        "plots": [str(path) for path in summary.plots],
        "report": None if summary.page is None else str(summary.page),
    }


def _print(summary: EvaluationSummary, options: EvaluationOptions) -> None:
    run = summary.run
    if summary.found is not None and summary.found["images"]:
        methods = dict.fromkeys(summary.found["methods"], "right")
        print_table({"metric": "left", **methods}, _rows(summary.found))
        typer.echo(f"{legend(summary.found)} {BEST} best, where that is clear.")
        for sentence in same_for_every_class(summary.found):
            typer.echo(sentence)
    before = f" ({run.before} of them before)" if run.before else ""
    typer.echo(
        f"evaluated {len(options.cams())} methods on {run.tally.ok} of {run.total} images{before} in "
        f"{run.seconds:.1f} s, {run.tally.skipped} skipped; results in {printable(run.out)}"
    )
    if summary.page is not None:
        typer.echo(f"report: {printable(summary.page)}")


def _rows(found: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Lines of the table: a metric's column and each method's mean with its interval, then the speed."""
    for column in scalars(dict(found)):
        name, better = column["name"], column["better"]
        if has_values(dict(found), name):
            best = _best(found, name, better)
            cells = (_cell(found, method, name, method == best) for method in found["methods"])
            yield (f"{title(name)} {ARROWS[better]}".strip(), *cells)
    if found["cost"]:
        yield ("images/s", *(_speed(found, method) for method in found["methods"]))


def _cell(found: Mapping[str, Any], method: str, column: str, best: bool) -> str:
    entry = found["methods"][method][column]
    marks = f"{MARKS[verdict(dict(found), method, column)]}{BEST if best else ''}"
    return f"{number(entry['mean'])} {marks}".strip() + f"\n{interval(entry)}"


def _best(found: Mapping[str, Any], column: str, better: str) -> str | None:
    """The method with the best mean, if the baseline differs from it, or from all others, beyond chance."""
    means = {method: entries[column]["mean"] for method, entries in found["methods"].items()}
    known = {method: mean for method, mean in means.items() if mean is not None}
    if not better or len(known) < 2:
        return None
    best = (max if better == "higher" else min)(known, key=lambda method: known[method])
    verdicts = {
        method: verdict(dict(found), method, column) for method in known if method != found["baseline"]
    }
    if best == found["baseline"]:
        return best if set(verdicts.values()) == {"worse"} else None
    return best if verdicts[best] == "better" else None


def _speed(found: Mapping[str, Any], method: str) -> str:
    """Images per second, and how many times the baseline's."""
    speed, base = found["cost"].get(method), found["cost"].get(found["baseline"])
    if speed is None:
        return number(None)
    return f"{speed:.3g}\n" + (f"{speed / base:.2f} × {found['baseline']}" if base else "")  # noqa: RUF001
