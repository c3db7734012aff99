"""What fetching checkpoints from the hub costs: which of them a run needs, their bytes, and the time for these."""

from __future__ import annotations

from collections.abc import Iterator

from selfcontrast.checkpoint_checks import Named, checkpoints_of, fetch_key
from selfcontrast.errors import ConfigError
from selfcontrast.planning.costs import BYTES
from selfcontrast.planning.machines import Machine
from selfcontrast.planning.scoring import trained_rewards
from selfcontrast.planning.shapes import named_shape
from selfcontrast.planning.stage import Stage
from selfcontrast.schema import Study
from selfcontrast.sweep import arms_of, models_of, truth_of

BYTES_A_SECOND = 50e6
"""Of a download; assumed, not measured."""


def checkpoint_stages(study: Study, machine: Machine) -> Iterator[Stage]:
    """Yield a stage for each checkpoint that the run fetches, whatever number of keys name it."""
    needed = {
        *(f"models.{m}.path" for dataset in study.datasets for m in models_of(study, dataset)),
        *(f"scorers.{s}.model" for s in needed_scorers(study)),
        *(f"evaluation.judges.{j}.server.path" for j in study.evaluation.judges),
    }
    fetched = {fetch_key(n.name): n for n in checkpoints_of(study) if n.is_on_hub and n.where in needed}
    for named in fetched.values():
        size = _bytes(study, named)
        seconds = machine.step_s + size / BYTES_A_SECOND
        yield Stage("fetch", 1, seconds=seconds, longest=seconds, disk=size)


def needed_scorers(study: Study) -> set[str]:
    """Return the ids of the scorers that some job of a run computes."""
    e, shown = study.evaluation, study.figures.similarity
    found = {e.judge, *e.scorers, *([shown.scorer] if shown else [])}
    for dataset in study.datasets:
        selections = {arm.selection for arm in arms_of(study, dataset).values() if arm.is_trained}
        if selections and (truth := truth_of(study, dataset)):
            found.add(truth)
        found |= {s for name in selections if (s := study.selections[name].params.get("scorer"))}
    return found | {reward.labels for reward in trained_rewards(study, found)}


def _bytes(study: Study, named: Named) -> float:
    """Return the bytes of a checkpoint's weights in the type that it is loaded in; 0 if its size is not known."""
    _, key, *_ = named.where.split(".")
    dtype = "bfloat16"
    if named.where.startswith("models."):
        dtype = study.models[key].dtype
    elif named.where.startswith("scorers."):
        dtype = str(study.scorers[key].params.get("dtype", "float32"))
    try:
        return float(BYTES[dtype] * named_shape(named.name).weights)
    except ConfigError:
        return 0.0
