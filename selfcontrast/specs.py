"""The spec of every step of a study: pure, no files.

A spec holds what changes the numbers of one step and nothing else, so that an edit of the study reruns only what it
touches.
"""

from __future__ import annotations

from typing import Any

from selfcontrast import plugins
from selfcontrast.checkpoint_checks import checkpoints_of, fetch_key
from selfcontrast.pins import split_revision
from selfcontrast.schema import Model, Study
from selfcontrast.schema.judges import GAMED_FILE, GAMED_REPO
from selfcontrast.seeds import derive_seed
from selfcontrast.sweep import Arm, arms_of, baseline_id, count_steps, models_of, pool_of, training_of, truth_of

Spec = dict[str, Any]


def expand_specs(study: Study) -> dict[str, Spec]:
    """Return the spec of every step by the folder, under results/<study>/, in which ``spec.json`` is written."""
    specs: dict[str, Spec] = {"summary": _summary_spec(study)}
    specs |= {f"evaluation/{model}": _evaluation_spec(study, model) for model in study.models}
    specs |= {f"scorers/{k}": {"kind": s.kind, "params": s.params} for k, s in study.scorers.items()}
    specs |= {
        f"questions/{key}/{model}": _questions_spec(study, key) | _engine(study.models[model])
        for key in study.evaluation.questions
        for model in study.models
    }
    for key, questions in study.evaluation.questions.items():
        if (control := questions.length_control) is not None and control.revision is not None:
            gamed = {"repo": GAMED_REPO, "revision": control.revision, "files": [GAMED_FILE]}
            specs[f"questions/{key}/fetch"] = gamed
    specs |= {f"judges/{k}": _judge_spec(study, k) for k in study.evaluation.judges}
    specs |= {f"evaluation/benchmarks/{k}": _benchmark_spec(study, k) for k in study.evaluation.benchmarks}
    specs |= _fetches(study)
    for model, m in study.models.items():
        if m.scratch is not None:
            specs[f"models/{model}/base"] = {
                **m.scratch.model_dump(),
                "seed": derive_seed(study.seed, "pretrain", model),
            }
    for name, dataset in study.datasets.items():
        if dataset.world is not None:
            seed = derive_seed(study.seed, "world", name)
            specs[f"{name}/world"] = {"layout": dataset.adaptor, "dialogues": dataset.world.dialogues, "seed": seed}
        if dataset.hub is not None:
            specs[f"{name}/fetch"] = dataset.hub.model_dump(include={"repo", "revision", "files"})
        specs[f"{name}/prompts"] = dataset.model_dump(include={"adaptor", "bad_records", "sha256"})
        for model in models_of(study, name):
            specs |= {f"{name}/{model}/{key}": spec for key, spec in _model_specs(study, name, model)}
    return specs


def _fetches(study: Study) -> dict[str, Spec]:
    """Return how each checkpoint of the hub is fetched; several keys of a study may name one."""
    specs: dict[str, Spec] = {}
    for named in checkpoints_of(study):
        if named.is_on_hub:
            repo, revision = split_revision(named.name)
            first = {"repo": repo, "revision": revision or "main", "code": False, "template": False, "uses": []}
            spec = specs.setdefault(fetch_key(named.name), first)
            spec["code"] |= named.needs.code
            spec["template"] |= named.needs.template
            spec["uses"] = sorted({*spec["uses"], named.needs.use})
    return specs


def _model_specs(study: Study, dataset: str, model: str) -> list[tuple[str, Spec]]:
    """Return the specs of one data set with one model, by their key below ``{dataset}/{model}``."""
    data, m = study.datasets[dataset], study.models[model]
    loading = {"dtype": m.dtype, "trust_remote_code": m.trust_remote_code}
    splits = data.splits.model_dump()
    template = _template(m)
    specs: list[tuple[str, Spec]] = [
        (
            "prompts",
            {
                "base": m.path,
                **template,
                "max_length": m.max_length,
                "splits": splits,
                "bad_records": data.bad_records,
                "long_prompts": data.long_prompts,
                "trust_remote_code": m.trust_remote_code,
                "seed": derive_seed(study.seed, "split", dataset),
            },
        ),
        (
            "lint",
            {
                "adaptor": data.adaptor,
                **template,
                "max_length": m.max_length,
                "trust_remote_code": m.trust_remote_code,
                "errors": data.lint,
            },
        ),
        (
            "sft",
            {
                **loading,
                "base": m.path,
                **template,
                "training": m.sft and m.sft.model_dump(),
                "n_steps": max(1, round(m.sft.epochs * data.splits.sft / m.sft.batch)) if m.sft else 0,
                "seed": derive_seed(study.seed, "sft", dataset, model),
            },
        ),
        # The reference computes as the policy does in training, whose precision is that of the whole study.
        ("reference", {**loading, "training": study.training.model_dump(include={"precision", "lora"})}),
    ]
    if any(b.world for b in study.evaluation.benchmarks.values()):
        seed = derive_seed(study.seed, "pocket_tasks", dataset)
        specs.append(("pocket_tasks", {"split": study.evaluation.split, "seed": seed}))
    for pool, plugin in study.pools.items():
        # The number of shards is no part of it: the pool is the same for any.
        params = {k: v for k, v in plugin.params.items() if k != "shards"}
        seed = derive_seed(study.seed, "pool", dataset, pool)
        spec = {**loading, "kind": plugin.kind, "params": params, "template": m.template, "pool": pool, "seed": seed}
        if plugins.load("pools", plugin.kind).NEEDS_POLICY:
            spec |= _engine(m) | _context(m, params["max_new_tokens"])
        specs.append((f"pools/{pool}", spec))
    specs += [(f"rewards/{key}", _reward_spec(study, dataset, model, key)) for key in study.reward_models]
    specs += [(f"proxies/{key}", _proxy_spec(study, dataset, key)) for key in study.evaluation.scorers]
    specs.append(("negatives", _negatives_spec(study, dataset)))
    if (shown := study.figures.gradient) is not None:
        seed = derive_seed(study.seed, "gradient", dataset, model)
        specs.append((f"pools/{shown.pool}/gradient", {**loading, **shown.model_dump(), "seed": seed}))
    for arm in arms_of(study, dataset).values():
        if not arm.is_trained:
            continue
        selection = study.selections[arm.selection]
        comparison = study.comparison
        specs.append(
            (
                f"groups/{arm.selection}/n{arm.n}",
                {
                    "kind": selection.kind,
                    "params": selection.params,
                    "n": arm.n,
                    "common_n": _common_n(study, arm),
                    "nested": comparison.negatives == "nested",
                    "seed": derive_seed(study.seed, "groups", dataset),
                },
            )
        )
        method = study.methods[arm.method]
        training = training_of(study, arm)
        n_steps = count_steps(
            training, n_prompts=data.splits.pool, n=arm.n, budget=comparison.budget, budget_n=comparison.budget_n
        )
        objective = {"kind": method.objective.kind, "params": method.objective.params}
        specs.append(
            (
                f"arms/{arm.id}",
                {
                    **loading,
                    "objective": objective,
                    "sft_weight": method.sft_weight,
                    "training": training.model_dump(),
                    "n_steps": n_steps,
                },
            )
        )
    return specs


def _reward_spec(study: Study, dataset: str, model: str, key: str) -> Spec:
    """Return how a reward model is trained. Pool and labels are inputs of the rule."""
    m, reward = study.models[model], study.reward_models[key]
    return {
        "dtype": m.dtype,
        "trust_remote_code": m.trust_remote_code,
        "max_length": m.max_length,
        **reward.model_dump(include={"pairs", "held_out"}),
        # Weights are float32 while it is trained; those of a half-sized model compute in bfloat16.
        "training": {**reward.training.model_dump(), "precision": "weights" if m.dtype == "float32" else "bf16"},
        "seed": derive_seed(study.seed, "reward", dataset, model, key),
    }


def _proxy_spec(study: Study, dataset: str, key: str) -> Spec:
    """Return whose answers a scorer beside the judge scores, in the order in which the rule lists them."""
    scorer = study.scorers[key]
    arms = list(arms_of(study, dataset))
    return {"kind": scorer.kind, "params": scorer.params, "arms": arms, "seeds": list(study.seeds)}


def _negatives_spec(study: Study, dataset: str) -> Spec:
    """Return which negatives are described, and by which scores."""
    shown = study.figures.similarity
    selections: Spec = {}
    for arm in arms_of(study, dataset).values():
        if not arm.is_trained:
            continue
        selection, pool = study.selections[arm.selection], pool_of(study, arm.selection)
        scorer = selection.params.get("scorer")
        found = selections.setdefault(
            arm.selection,
            {
                "kind": selection.kind,
                "params": selection.params,
                "pool": pool,
                "scorer": scorer,
                "similarity": shown.scorer if shown is not None and shown.pool == pool else scorer,
                "nested": study.comparison.negatives == "nested",
                "seed": derive_seed(study.seed, "groups", dataset),
                "n": [],
                "id": arm.selection,
            },
        )
        if arm.n not in found["n"]:
            found["n"].append(arm.n)
    # A list, since the keys of a spec are sorted: tables show the selections in the order of the arms.
    return {"selections": list(selections.values()), "seeds": list(study.seeds), "truth": truth_of(study, dataset)}


def _common_n(study: Study, arm: Arm) -> int:
    """Return how many candidates a prompt must have for an arm beside its own n.

    The reserve for larger n is asked of selections that can give so many: annotated pairs never give more than they have.
    """
    if study.comparison.prompt_set == "per_n":
        return 0
    selection = study.selections[arm.selection]
    size = study.pools[pool_of(study, arm.selection)].params.get("n_responses", 1)
    limit = plugins.load("selections", selection.kind).largest_n(size, selection.params)
    return study.comparison.common_n if limit >= study.comparison.common_n else 0


def _evaluation_spec(study: Study, model: str) -> Spec:
    e = study.evaluation
    keys = {"samples", "temperature", "top_p", "max_new_tokens", "batch_responses"}
    return {
        **e.model_dump(include=keys),
        **_engine(study.models[model]),
        **_context(study.models[model], e.max_new_tokens),
        "seed": derive_seed(study.seed, "evaluation"),
    }


def _template(model: Model) -> Spec:
    """Return how a model's dialogues are rendered: the template, and what the study says of it beyond the defaults."""
    more = {"end_of_turn": model.end_of_turn, "template_date": model.template_date}
    defaults = {key: Model.model_fields[key].default for key in more}
    return {"template": model.template} | {key: value for key, value in more.items() if value != defaults[key]}


def _engine(model: Model) -> Spec:
    """Return what the back-end of sampling adds to a spec: nothing for the one that needs no more than the rest."""
    return {} if model.backend == "hf" else {"engine": {"backend": model.backend, "max_length": model.max_length}}


def _context(model: Model, max_new_tokens: int | None) -> Spec:
    """Return what a sampler must know of the context: nothing where responses have a length of their own."""
    return {"max_length": model.max_length} if max_new_tokens is None else {}


def _questions_spec(study: Study, key: str) -> Spec:
    """Return how a benchmark is answered. The files themselves are inputs of the rules."""
    questions = study.evaluation.questions[key]
    return {
        **questions.model_dump(include={"layout", "max_new_tokens", "temperature"}),
        "top_p": 1.0,
        "batch_responses": study.evaluation.batch_responses,
        "seed": derive_seed(study.seed, "questions", key),
    }


def _benchmark_spec(study: Study, key: str) -> Spec:
    """Return what is asked and how. The user's definitions are inputs of the rule, wherever they lie."""
    return study.evaluation.benchmarks[key].model_dump(exclude={"folder", "seeds", "world"})


def _judge_spec(study: Study, key: str) -> Spec:
    """Return everything about a judge, endpoint and limits included: a rerun asks nothing that was asked before."""
    judge, e = study.evaluation.judges[key], study.evaluation
    asked = e.questions[judge.questions].model_dump() if judge.questions else None
    models = {d: list(models_of(study, d)) for d in study.datasets}
    all_alike = all(chosen == list(study.models) for chosen in models.values())
    return {
        "judge": judge.model_dump(),
        "questions": asked,
        "split": e.split,
        "datasets": {d: list(arms_of(study, d)) for d in study.datasets},
        "models": list(study.models) if all_alike else models,
        "seeds": list(study.seeds),
        "baseline": baseline_id(study),
    }


def _summary_spec(study: Study) -> Spec:
    """Return what tables and figures are made from: the whole study, as it was understood."""
    # A list, since the keys of a spec are sorted: tables show the arms in the order of the study file.
    arms = {d: list(arms_of(study, d)) for d in study.datasets}
    return {"study": study.model_dump(mode="json"), "arms": arms, "baseline": baseline_id(study)}
