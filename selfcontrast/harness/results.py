"""From what lm-evaluation-harness returns to what is kept of it: no times, no paths, no machine; pure."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from selfcontrast.finite import require_finite
from selfcontrast.harness.definitions import Definition


def describe_task(name: str, found: Mapping[str, Any], definition: Definition) -> dict[str, Any]:
    """Return what is kept of a task: its definition, its numbers with the harness' standard errors, its parts.

    Args:
        found: what ``lm_eval.simple_evaluate`` returns.
    """
    parts = leaves(name, found)
    counts = [found["n-samples"][part] for part in parts]
    kept: dict[str, Any] = {
        "version": definition.version,
        "sha256": definition.sha256,
        "source": definition.source,
        "few_shot": int(found["n-shot"][parts[0]]),
        "questions": sum(int(c["effective"]) for c in counts),
        "questions_there": sum(int(c["original"]) for c in counts),
        "questions_sha256": question_hash([row for part in parts for row in found["samples"][part]]),
        "metrics": metrics(found["results"][name], name),
    }
    if parts != [name]:
        kept["parts"] = {
            part: {
                "questions": int(found["n-samples"][part]["effective"]),
                "metrics": metrics(found["results"][part], part),
            }
            for part in parts
        }
    return kept


def leaves(name: str, found: Mapping[str, Any]) -> list[str]:
    """Return the tasks with questions below a task or group, sorted; of a task, itself."""
    children = found["group_subtasks"].get(name)
    if not children:
        return [name]
    return sorted({leaf for child in children for leaf in leaves(child, found)})


def metrics(numbers: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """Return the metrics of a task, each with its filter, value and standard error; None where there is none.

    Raises:
        NotFiniteError: a value is not finite.
    """
    kept = []
    for key, value in numbers.items():
        metric, comma, chosen = key.partition(",")
        if not comma or metric.endswith("_stderr") or isinstance(value, str):
            continue
        error = numbers.get(f"{metric}_stderr,{chosen}")
        stderr = None if error is None or isinstance(error, str) or not math.isfinite(error) else float(error)
        require_finite([float(value)], f"the metric `{key}` of a benchmark", f"of the task {name}")
        kept.append({"metric": metric, "filter": chosen, "value": float(value), "stderr": stderr})
    return kept


def question_hash(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return one hash for the questions, prompts and right answers of a task.

    It is the harness' own ``task_hashes``: for rows of one task the same text of hexadecimal digits.
    """
    parts = "".join(row["doc_hash"] + row["prompt_hash"] + row["target_hash"] for row in rows)
    return hashlib.sha256(parts.encode()).hexdigest()


def samples(found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield one row for each question and filter: what was right, what the model said, and its value of each metric."""
    for task in sorted(found["samples"]):
        for row in found["samples"][task]:
            yield {
                "task": task,
                "question": int(row["doc_id"]),
                "filter": row["filter"],
                "target": plain(row["target"]),
                "said": plain(row["filtered_resps"]),
                "metrics": {metric: plain(row[metric]) for metric in row["metrics"]},
                "question_sha256": row["doc_hash"],
                "prompt_sha256": row["prompt_hash"],
                "target_sha256": row["target_hash"],
            }


def plain(value: Any) -> Any:
    """Return a value as JSON knows it: numbers of numpy as Python's, tuples as lists, anything else as text."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if value is None or isinstance(value, bool | int | float | str):
        return float(value) if isinstance(value, float) else value
    return plain(value.item()) if hasattr(value, "item") else str(value)
