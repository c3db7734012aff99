"""What a study says of its trained reward models and of the scorers that read them, checked before anything runs."""

from __future__ import annotations

from collections.abc import Iterator

from selfcontrast.schema import Study


def impossible_rewards(study: Study) -> Iterator[str]:
    """Yield every id that is not there, every label that cannot be had, and every reward model that labels itself."""
    scorers = ", ".join(study.scorers)
    for key, model in study.reward_models.items():
        where = f"reward_models.{key}"
        if model.pool not in study.pools:
            yield f"{where}.pool names `{model.pool}`, which is not under `pools`: {', '.join(study.pools)}"
        elif study.pools[model.pool].params.get("n_responses", 1) < 2:
            yield f"{where}.pool: pool `{model.pool}` has one response to a prompt, of which no pair can be made"
        if model.labels not in study.scorers:
            yield f"{where}.labels names `{model.labels}`, which is not under `scorers`: {scorers}"
        elif study.scorers[model.labels].kind == "grade":
            for name, dataset in study.datasets.items():
                if dataset.world is None:
                    yield f"{where}.labels: `{model.labels}` grades the pocket world alone, and datasets.{name} is none"
        if circle := _circle(study, key):
            yield f"{where}.labels: a reward model cannot learn from its own rewards: {' <- '.join(circle)}"
    for key, scorer in study.scorers.items():
        trained = scorer.params.get("trained")
        if trained is not None and trained not in study.reward_models:
            known = ", ".join(study.reward_models) or "none"
            yield f"scorers.{key}.trained names `{trained}`, which is not under `reward_models`: {known}"
    for scorer_id in study.evaluation.scorers:
        if scorer_id not in study.scorers:
            yield f"evaluation.scorers names `{scorer_id}`, which is not under `scorers`: {scorers}"
        if scorer_id == study.evaluation.judge:
            yield f"evaluation.scorers names `{scorer_id}`, which is `evaluation.judge` already"
    if len(set(study.evaluation.scorers)) < len(study.evaluation.scorers):
        yield "evaluation.scorers names a scorer twice"


def _circle(study: Study, key: str) -> list[str]:
    """Return the reward models on whose rewards a reward model rests, if it is one of them itself; else nothing."""
    chain = [key]
    while True:
        labels = study.scorers.get(study.reward_models[chain[-1]].labels)
        following = labels.params.get("trained") if labels is not None else None
        if following is None or following not in study.reward_models:
            return []
        chain.append(following)
        if following == key:
            return chain
        if following in chain[:-1]:
            return []  # another reward model's circle, which is told there
