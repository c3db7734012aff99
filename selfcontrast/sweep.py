"""From a study to its arms, and what each of them is made from: pure, no files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from selfcontrast import plugins
from selfcontrast.errors import ConfigError
from selfcontrast.schema import Method, Optimisation, Study


@dataclass(frozen=True)
class Arm:
    """One policy that is evaluated: a method, a selection and a number of negatives.

    Attributes:
        method: id under `methods`.
        selection: id under `selections`; ``none`` for a method that does not train.
        n: negatives for each prompt; 0 for a method that does not train.
    """

    method: str
    selection: str
    n: int

    @property
    def id(self) -> str:
        """Return the name of the arm in paths and tables."""
        return f"{self.method}-{self.selection}-n{self.n}"

    @property
    def is_trained(self) -> bool:
        """Return whether the arm has weights of its own."""
        return self.n > 0


class Need(NamedTuple):
    """What a use of a data set's own rejected answers needs: so many ``answers`` to each of so many ``prompts``."""

    answers: int
    prompts: int


def expand_arms(study: Study) -> dict[str, Arm]:
    """Return every arm of the study by its id, in the order of the study file.

    Raises:
        ConfigError: two sweeps of a method make the same arm, no arm or several arms are the SFT model itself, or the
            study names an arm that there is not.
    """
    arms: dict[str, Arm] = {}
    for name, method in study.methods.items():
        for arm in _arms_of_method(name, method):
            if arm.id in arms:
                raise ConfigError(
                    f"two sweeps of the method `{name}` make the same arm `{arm.id}`", remedy="remove one"
                )
            arms[arm.id] = arm
    untrained = [a.id for a in arms.values() if not a.is_trained]
    if len(untrained) != 1:
        raise ConfigError(
            "a study needs one method with `train: false`, the SFT model as the baseline", found=str(untrained)
        )
    named = {"evaluation.compare_to": study.evaluation.compare_to, "figures.lines": study.figures.lines}
    for key, ids in named.items():
        for arm_id in ids:
            if arm_id not in arms:
                raise ConfigError(f"{key} names `{arm_id}`, which is no arm", remedy=f"arms: {', '.join(arms)}")
    if not any(a.id.rsplit("-", 1)[0] == study.figures.scaling for a in arms.values()):
        raise ConfigError(
            f"figures.scaling names `{study.figures.scaling}`, of which there is no arm",
            remedy=f"arms: {', '.join(arms)}",
        )
    return arms


def _arms_of_method(name: str, method: Method) -> list[Arm]:
    if not method.train:
        return [Arm(name, "none", 0)]
    return [Arm(name, selection, n) for sweep in method.sweeps for selection in sweep.selections for n in sweep.n]


def baseline_id(study: Study) -> str:
    """Return the id of the arm that is the SFT model itself."""
    return next(arm.id for arm in expand_arms(study).values() if not arm.is_trained)


def arms_of(study: Study, dataset: str) -> dict[str, Arm]:
    """Return the arms that a data set can run: those on annotated answers need a data set that has some."""
    own = study.datasets[dataset].has_rejected
    has_rejected = plugins.load("datasets", study.datasets[dataset].adaptor).HAS_REJECTED if own is None else own
    arms = expand_arms(study)
    return {
        i: a
        for i, a in arms.items()
        if not a.is_trained or has_rejected or pool_kind(study, a.selection) != "annotated"
    }


def rejected_needs(study: Study, dataset: str) -> dict[str, Need]:
    """Return what each user of a data set's own rejected answers needs of them.

    The keys are the ids of arms, and the keys of the study for what else reads a pool of the kind `annotated`.
    """
    needs = {}
    for arm in arms_of(study, dataset).values():
        if arm.is_trained and pool_kind(study, arm.selection) == "annotated":
            selection = study.selections[arm.selection]
            module = plugins.load("selections", selection.kind)
            size = int(study.pools[pool_of(study, arm.selection)].params["n_responses"])
            least = next(k for k in range(1, size + 1) if module.largest_n(k, selection.params) >= arm.n)
            needs[arm.id] = Need(least, prompts=1)
    for key, reward in study.reward_models.items():
        if study.pools[reward.pool].kind == "annotated":
            needs[f"reward_models.{key}"] = Need(2, prompts=2)
    shown = study.figures.gradient
    if shown is not None and study.pools[shown.pool].kind == "annotated":
        needs["figures.gradient"] = Need(shown.negatives, prompts=2)
    return needs


def models_of(study: Study, dataset: str) -> tuple[str, ...]:
    """Return the ids of the models that a data set is run with."""
    chosen = study.datasets[dataset].models
    return tuple(study.models) if chosen is None else chosen


def benchmark_seeds(study: Study, benchmark: str, arm: Arm) -> tuple[int, ...]:
    """Return the training seeds whose policies run a benchmark: one for the SFT model, which is the same for all."""
    seeds = study.evaluation.benchmarks[benchmark].seeds or study.seeds
    return seeds if arm.is_trained else seeds[:1]


def pool_of(study: Study, selection: str) -> str:
    """Return the id of the pool from which a selection chooses."""
    return str(study.selections[selection].params["pool"])


def pool_kind(study: Study, selection: str) -> str:
    """Return the kind of that pool."""
    return study.pools[pool_of(study, selection)].kind


def training_of(study: Study, arm: Arm) -> Optimisation:
    """Return how an arm trains: as its sweep says, else its method, else the study."""
    method = study.methods[arm.method]
    sweep = next(s for s in method.sweeps if arm.selection in s.selections and arm.n in s.n)
    return sweep.training or method.training or study.training


def count_steps(training: Optimisation, *, n_prompts: int, n: int, budget: str, budget_n: int) -> int:
    """Return the optimiser steps of an arm with ``n`` negatives.

    It is counted from the size of the pool split, not from the prompts that are left after selection, so that arms
    differ in what they learn from and not in how long. Under ``equal_steps`` it does not depend on ``n``.
    """
    steps = training.epochs * n_prompts / training.batch
    if budget == "equal_pairs":
        steps *= budget_n / n
    elif budget == "equal_flops":
        steps *= (budget_n + 1) / (n + 1)
    return max(1, round(steps))


def truth_of(study: Study, dataset: str) -> str | None:
    """Return the scorer that tells false negatives of a data set: the one named, else one that grades its pocket world."""
    if study.figures.truth is not None:
        return study.figures.truth
    graders = [key for key, scorer in study.scorers.items() if scorer.kind == "grade"]
    return graders[0] if graders and study.datasets[dataset].world is not None else None


def graded_splits(study: Study, dataset: str) -> list[str]:
    """Return the splits of a data set whose answers the scorer `grade` scores, if its records are not drawn from the world.

    They can come from the pocket world all the same, stored in files; its prompts are the only ones that can be graded.
    """
    if study.datasets[dataset].world is not None:
        return []
    graders = {key for key, scorer in study.scorers.items() if scorer.kind == "grade"}
    evaluated = {study.evaluation.judge, *study.evaluation.scorers}
    shown = study.figures.similarity
    used = {
        study.selections[a.selection].params.get("scorer") for a in arms_of(study, dataset).values() if a.is_trained
    }
    used |= {study.figures.truth, shown.scorer if shown else None}
    used |= {reward.labels for reward in study.reward_models.values()}
    return ["pool"] * bool(graders & used) + [study.evaluation.split] * bool(graders & evaluated)


def figures_of(study: Study) -> list[str]:
    """Return the figures that a study can have."""
    wanted = {
        "gradient": study.figures.gradient is not None,
        "judges": bool(study.evaluation.judges),
        "overoptimisation": bool(study.evaluation.scorers),
    }
    return [
        "scaling",
        "filters",
        "similarity",
        "length",
        "negatives",
        *(name for name, there in wanted.items() if there),
    ]
