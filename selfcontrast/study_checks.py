"""What the keys of a study say of each other, checked before anything runs."""

from __future__ import annotations

from collections.abc import Iterator

from selfcontrast import plugins
from selfcontrast.reward_checks import impossible_rewards
from selfcontrast.schema import WORLD_LAYOUTS, Optimisation, Study

_RESERVED = {
    "datasets": (
        *("models", "scorers", "evaluation", "summary", "tables", "figures", "cost", "logs", "benchmarks"),
        *("judges", "questions"),
    ),
    "models": ("world", "fetch", "prompts", "benchmarks"),
    "selections": ("none",),
}
"""Ids that would share a folder under results/<study>/ with something else."""


def problems(study: Study) -> Iterator[str]:
    """Yield every id that one part of the study names of another and that is not there, and every impossible n."""
    for folder, reserved in _RESERVED.items():
        for key in getattr(study, folder):
            if key in reserved:
                yield f"`{key}` cannot be an id under `{folder}`: a folder of that name has another purpose"
    for key, dataset in study.datasets.items():
        if dataset.world is not None and dataset.adaptor not in WORLD_LAYOUTS:
            yield f"datasets.{key}: the pocket world writes no `{dataset.adaptor}`; layouts: {', '.join(WORLD_LAYOUTS)}"
    for key, selection in study.selections.items():
        pool, scorer = selection.params.get("pool"), selection.params.get("scorer")
        if pool not in study.pools:
            yield f"selections.{key}.pool names `{pool}`, which is not under `pools`: {', '.join(study.pools)}"
        if scorer is not None and scorer not in study.scorers:
            yield f"selections.{key}.scorer names `{scorer}`, which is not under `scorers`: {', '.join(study.scorers)}"
    yield from _impossible_n(study)
    for key, method in study.methods.items():
        needs_score = "score" in plugins.load("objectives", method.objective.kind).NEEDS
        for sweep in method.sweeps if needs_score else ():
            for name in sweep.selections:
                if name in study.selections and not study.selections[name].params.get("scorer"):
                    yield f"methods.{key}: the objective reads scores, and selections.{name} has no `scorer`"
        trainers = {t.trainer for t in (method.training, study.training, *(s.training for s in method.sweeps)) if t}
        if method.train and "trl" in trainers and (method.objective.kind != "dpo" or method.sft_weight):
            yield f"methods.{key} trains with TRL (`trainer: trl`), which here knows the objective `dpo` alone"
    yield from _wrong_precision(study)
    for key, model in study.models.items():
        trainers = {t.trainer for t in (model.sft, study.training) if t}
        if "trl" in trainers and model.gpus > 1 and model.execution.strategy != "ddp":
            yield f"models.{key}: `trainer: trl` runs on one GPU or with `strategy: ddp`, not {model.execution.strategy}"
        zero = model.gpus > 1 and model.execution.strategy.startswith("zero")
        own = [(f"models.{key}.sft", model.sft)] if model.sft else []
        for where, training in (own + _trainings(study)) if zero else ():
            if training.ema is not None:
                yield f"{where}.ema: `strategy: {model.execution.strategy}` holds the weights: leave it out, or take `fsdp`"
    if study.evaluation.judge not in study.scorers:
        yield f"evaluation.judge names `{study.evaluation.judge}`, which is not under `scorers`: {', '.join(study.scorers)}"
    yield from impossible_rewards(study)
    yield from _impossible_judges(study)
    yield from _impossible_benchmarks(study)
    shown = study.figures.similarity
    if shown is not None and (shown.pool not in study.pools or shown.scorer not in study.scorers):
        yield f"figures.similarity names a pool or scorer that is not there: {shown.pool}, {shown.scorer}"
    yield from _impossible_gradient(study)
    if study.figures.truth is not None and study.figures.truth not in study.scorers:
        yield f"figures.truth names `{study.figures.truth}`, which is not under `scorers`: {', '.join(study.scorers)}"
    for name, dataset in study.datasets.items():
        for model_id in dataset.models or ():
            if model_id not in study.models:
                yield f"datasets.{name}.models names `{model_id}`, which is not under `models`: {', '.join(study.models)}"
        if dataset.splits.validation == 0 and study.evaluation.split == "validation":
            yield f"evaluation.split is `validation`, but datasets.{name}.splits.validation is 0"
    if not any(study.figures.ablation_n in sweep.n for method in study.methods.values() for sweep in method.sweeps):
        yield f"figures.ablation_n is {study.figures.ablation_n}, which no method sweeps"


def _wrong_precision(study: Study) -> Iterator[str]:
    """Yield every training whose steps would be rounded away, or that runs otherwise than its reference."""

    def held(training: Optimisation) -> tuple[str, str]:
        return training.precision, training.lora.quantise if training.lora else "no adapters"

    for where, training in _trainings(study):
        if held(training) != held(study.training):
            yield (
                f"{where} differs from `training` in `precision`, in the use of `lora` or in its `quantise`: the reference's "
                "log-probabilities are computed once, as `training` says; make them equal"
            )
    for key, model in study.models.items():
        own = [(f"models.{key}.sft", model.sft)] if model.sft else []
        for where, training in own + _trainings(study):
            if model.dtype != "float32" and training.precision == "weights" and training.lora is None:
                yield (
                    f"{where} would train weights of {model.dtype}, which round small steps away; set `precision: bf16`, "
                    "which holds float32 weights while training"
                )


def _trainings(study: Study) -> list[tuple[str, Optimisation]]:
    """Return every preference training that the study describes, with the path of its key."""
    found = [("training", study.training)]
    for key, method in study.methods.items():
        found += [(f"methods.{key}.training", method.training)] if method.training else []
        found += [
            (f"methods.{key}.sweeps[{i}].training", s.training) for i, s in enumerate(method.sweeps) if s.training
        ]
    return found


def _impossible_gradient(study: Study) -> Iterator[str]:
    shown = study.figures.gradient
    if shown is None:
        return
    if shown.pool not in study.pools:
        yield f"figures.gradient.pool names `{shown.pool}`, which is not under `pools`: {', '.join(study.pools)}"
    elif (size := study.pools[shown.pool].params.get("n_responses", 1)) < shown.negatives:
        yield f"figures.gradient.negatives is {shown.negatives}, but pool `{shown.pool}` has {size} responses to a prompt"


def _impossible_judges(study: Study) -> Iterator[str]:
    """Yield what judges ask for that there is not, or that they cannot judge."""
    e = study.evaluation
    for key, judge in e.judges.items():
        where = f"evaluation.judges.{key}"
        compares = plugins.load("judges", judge.kind).COMPARES
        if judge.questions is not None and judge.questions not in e.questions:
            known = ", ".join(e.questions) or "none"
            yield f"{where}.questions names `{judge.questions}`, which is not under `evaluation.questions`: {known}"
            continue
        layout = e.questions[judge.questions].layout if judge.questions else None
        if compares and layout == "mt_bench":
            yield f"{where}: `{judge.kind}` compares answers to one turn, and MT-Bench has two; use the kind `mt_bench`"
        if judge.questions is not None and (judge.opponent, judge.prompts, judge.samples) != ("sft", None, 1):
            yield f"{where}: `opponent`, `prompts` and `samples` are for judges of the held-out split"
        if judge.samples > e.samples:
            yield f"{where}.samples is {judge.samples}, but evaluation.samples is {e.samples}"
        is_pocket = judge.server is not None and judge.server.kind == "pocket"
        for name, dataset in study.datasets.items():
            n_prompts = dataset.splits.model_dump()[e.split]
            if judge.prompts is not None and judge.prompts > n_prompts:
                yield f"{where}.prompts is {judge.prompts}, but datasets.{name} has {n_prompts} {e.split} prompts"
            if is_pocket and (dataset.world is None or judge.questions is not None):
                yield f"{where}: the server `pocket` can grade answers to pocket-world prompts alone"


def _impossible_benchmarks(study: Study) -> Iterator[str]:
    for key, benchmark in study.evaluation.benchmarks.items():
        where = f"evaluation.benchmarks.{key}"
        if missing := set(benchmark.seeds or ()) - set(study.seeds):
            yield f"{where}.seeds names {sorted(missing)}, which are not among `seeds`: {list(study.seeds)}"
        for name, dataset in study.datasets.items():
            if benchmark.world and dataset.world is None:
                yield f"{where}: `world: true` is for studies of the pocket world, and datasets.{name} is none"


def _impossible_n(study: Study) -> Iterator[str]:
    """Yield every selection that a sweep names and that is not there or cannot give so many negatives."""
    limits = []
    for key, method in study.methods.items():
        for i, sweep in enumerate(method.sweeps):
            where = f"methods.{key}.sweeps[{i}]"
            for name in sweep.selections:
                if name not in study.selections:
                    yield f"{where} names `{name}`, which is not under `selections`: {', '.join(study.selections)}"
                    return
                selection = study.selections[name]
                pool_id = selection.params["pool"]
                size = study.pools[pool_id].params.get("n_responses", 1)
                limit = plugins.load("selections", selection.kind).largest_n(size, selection.params)
                limits.append(limit)
                for n in sweep.n:
                    if n > limit:
                        yield (
                            f"{where} asks for n={n} negatives, but selection `{name}` can give at most {limit} of the "
                            f"{size} responses of pool `{pool_id}`; raise pools.{pool_id}.n_responses or drop n={n}"
                        )
    common_n = study.comparison.common_n
    if study.comparison.prompt_set == "common" and limits and common_n > max(limits):
        yield f"comparison.common_n is {common_n}, but no selection can give more than {max(limits)} negatives"
