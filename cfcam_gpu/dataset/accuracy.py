"""How often the predictions of a run agree with the labels: overall, class by class, and which classes are confused."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from cfcam_gpu.dataset.judging import Judge, Verdicts
from cfcam_gpu.dataset.store.atomic_files import os_reason, write_atomically
from cfcam_gpu.dataset.store.results import Results, open_results
from cfcam_gpu.dataset.store.schema import is_first_row
from cfcam_gpu.dataset.store.store import Store
from cfcam_gpu.errors import StoreError


def judge_results(results: Results) -> Verdicts:
    """The verdicts on all samples with a label, from one pass over the parts.

    Raises:
        StoreError: a part cannot be read.
    """
    verdicts, judge = Verdicts(), Judge(results.run.get("class_names"))
    for table in results.tables(["sample_id", "label", "pred", "pred_name"]):
        firsts = is_first_row(table["sample_id"].to_pylist())
        # Filtering imports pyarrow.compute and pandas, which a run over one image does without.
        verdicts.add(judge, table if firsts.all() else table.filter(pa.array(firsts)))
    return verdicts


def accuracy_summary(verdicts: Verdicts, class_names: Sequence[str] | None) -> dict[str, Any]:
    """The verdicts as JSON has them.

    Returns:
        `labelled`, `judged`, `correct`: numbers of samples; `accuracy`: correct of the judged, 0 to 1, None where
        none is judged. `several_labels`: judged samples with several labels, which are in none of the
        following. `classes`: for each class that is a label or a prediction its index, name, the number of
        samples `labelled` and `predicted` so and `correct` in both, and its `accuracy` (recall), None without labels.
        `confusion`: for each pair of classes that occurs, the most frequent first: `label`, `predicted`
        (indices) and `count`.

    Example:
        >>> verdicts = Verdicts(correct=3, wrong=1, confusion=Counter({(0, 0): 3, (0, 1): 1}))
        >>> summary = accuracy_summary(verdicts, ["cat", "dog"])
        >>> summary["accuracy"], summary["classes"][0]["accuracy"], summary["confusion"][1]
        (0.75, 0.75, {'label': 0, 'predicted': 1, 'count': 1})
    """
    labelled: Counter[int] = Counter()
    predicted: Counter[int] = Counter()
    for (label, pred), count in verdicts.confusion.items():
        labelled[label] += count
        predicted[pred] += count
    return {
        "labelled": verdicts.labelled,
        "judged": verdicts.judged,
        "correct": verdicts.correct,
        "accuracy": _share(verdicts.correct, verdicts.judged),
        "several_labels": verdicts.judged - verdicts.confusion.total(),
        "classes": [
            {
                "index": index,
                "name": _name(index, class_names),
                "labelled": labelled[index],
                "predicted": predicted[index],
                "correct": verdicts.confusion[index, index],
                "accuracy": _share(verdicts.confusion[index, index], labelled[index]),
            }
            for index in sorted({*labelled, *predicted})
        ],
        "confusion": [
            {"label": label, "predicted": pred, "count": count}
            for (label, pred), count in sorted(
                verdicts.confusion.items(), key=lambda item: (-item[1], item[0])
            )
        ],
    }


def write_summary(store: Store) -> None:
    """Writes summary.json of a finished run where its samples have labels.

    Raises:
        StoreError: a part cannot be read, or the file not written.
    """
    results = open_results(store.out)
    verdicts = judge_results(results)
    if not verdicts.labelled:
        return
    summary = accuracy_summary(verdicts, results.run.get("class_names"))
    try:
        write_atomically(store.summary_file, (json.dumps(summary, indent=1) + "\n").encode())
    except OSError as error:
        raise StoreError(f"cannot write {store.summary_file}: {os_reason(error)}") from error


def _share(count: int, total: int) -> float | None:
    return count / total if total else None


def _name(index: int, class_names: Sequence[str] | None) -> str:
    names = class_names or ()
    return names[index] if index < len(names) else f"class {index}"
