"""`cfcam evaluate`. PyTorch is imported inside the function, so that its help is quick."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import cfcam_gpu
from cfcam_gpu._utils.option import OUTPUT, Option
from cfcam_gpu.cli.early_checks import check_before_loading
from cfcam_gpu.cli.interrupt import raise_again
from cfcam_gpu.cli.options import Folder, Inputs, Json, LogFormat, Records, command, with_rank
from cfcam_gpu.cli.printing import print_json
from cfcam_gpu.cli.status import finish
from cfcam_gpu.evaluation.options import UNUSED, EvaluationOptions
from cfcam_gpu.models import ModelOptions

if TYPE_CHECKING:
    from cfcam_gpu.evaluation.run import EvaluationResult

EXAMPLES = """
 Examples:
   cfcam evaluate photos --out measured
   cfcam evaluate photos --out measured --methods cfcam,cfcam:upstream,gradcam
   cfcam evaluate photos --out measured --masks masks --metrics localisation
   cfcam evaluate list.csv --out measured --metrics all --methods all
"""


@command(examples=EXAMPLES, leave_out=UNUSED, adjust=with_rank)
def evaluate(
    inputs: Inputs,
    out: Annotated[
        Folder, Option("Folder, or s3:// or gs:// URL, of the results, plots and page.", OUTPUT, "DIR")
    ],
    model: ModelOptions,
    options: EvaluationOptions,
    *,
    log_format: LogFormat = "text",
    records: Records = None,
    as_json: Json = False,
) -> None:
    """Measure how good methods' heatmaps are, side by side on the same images.

    Without --metrics, those that need masks of the objects are measured where
    images have masks. The same command goes on with a run that was ended.
    """
    check_before_loading(inputs, model, options)

    from cfcam_gpu._utils.allocator import keep_freed_memory
    from cfcam_gpu._utils.device import names_cpu
    from cfcam_gpu.cli.evaluation_table import print_evaluation
    from cfcam_gpu.cli.progress import followed, say_others_left, say_rank
    from cfcam_gpu.evaluation.run import evaluate as evaluate_dataset

    raise_again()
    if names_cpu(options.device):
        keep_freed_memory()
    say_rank(options, out)
    with followed(log_format, records, "evaluating") as follower:
        result = evaluate_dataset(inputs, out, model.load, options, observer=follower)
    if as_json:
        print_json(_as_json(result, options))
    else:
        print_evaluation(result, options)
    say_others_left(result.run.others_left)
    finish(result.run.tally, "evaluated")


def _as_json(result: EvaluationResult, options: EvaluationOptions) -> dict[str, Any]:
    """The object that `--json` prints; the curves stay in summary.json."""
    from cfcam_gpu.evaluation.store import EvaluationStore

    run, summary = result.run, result.summary
    stored = EvaluationStore(run.out, ()).read_run() or {}
    return {
        "version": cfcam_gpu.__version__,
        "model": stored["fingerprint"]["model"],
        "weights": stored["info"]["weights"],
        "layer": run.layer,
        "device": run.device,
        "precision": options.precision,
        "methods": list(options.methods_by_label()),
        "metrics": stored["fingerprint"]["metrics"],
        "out": run.place,
        "counts": dataclasses.asdict(run.tally),
        "samples": run.total,
        "done_before": run.before,
        "others_left": run.others_left,
        "seconds": round(run.seconds, 3),
        "summary": None if summary is None else {k: v for k, v in summary.items() if k != "curves"},
        "plots": [run.located(path) for path in result.plots],
        "report": None if result.page is None else run.located(result.page),
    }
