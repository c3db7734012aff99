"""What scorers cost that read a model, and the reward models that a study trains; arithmetic on the counts of ``costs``."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from selfcontrast.planning.costs import BYTES, Lengths, forward, training_memory, training_operations
from selfcontrast.planning.machines import Machine
from selfcontrast.planning.shapes import Shape, named_shape
from selfcontrast.schema import Execution, Model, Optimisation, Plugin, RewardModel, Study

EMBEDDER_CONTEXT = 512
"""Tokens of a text that embedding models read."""


@dataclass(frozen=True)
class RewardCost:
    """The training of one reward model: answers and tokens that it reads, seconds of work, bytes of its device."""

    rows: float
    tokens: float
    seconds: float
    memory: float


def reads_a_model(scorer: Plugin) -> bool:
    """Return whether a scorer runs a model."""
    return any(scorer.params.get(key) for key in ("model", "package", "trained"))


def scoring_cost(
    scorer: Plugin, own: Shape, machine: Machine, *, texts: float, lengths: Lengths
) -> tuple[float, float, float]:
    """Return the tokens that a scorer runs over so many texts, the seconds of it, and the bytes of its weights.

    Args:
        own: shape of the model that is trained, of which the study's reward models are too. All reward models read prompts
            as well.
    """
    named = scorer.params.get("model") or scorer.params.get("package")
    shape = named_shape(str(named)) if named else own
    length = lengths.prompt + lengths.response
    if scorer.kind != "reward" and scorer.params.get("long_texts") != "chunks":
        length = min(lengths.response, EMBEDDER_CONTEXT)
    tokens = texts * length
    operations = forward(shape, tokens, head_tokens=0, context=length)
    number = BYTES[scorer.params.get("dtype", "float32")]
    return tokens, operations / (machine.flops * machine.score_share), float(number * shape.weights)


def trained_rewards(study: Study, scorers: Collection[str]) -> list[RewardModel]:
    """Return the reward models that some scorers need, in the order of the study."""
    needed, open_ids = set(), list(scorers)
    while open_ids:
        trained = study.scorers[open_ids.pop()].params.get("trained")
        if trained is not None and trained not in needed:
            needed.add(trained)
            open_ids.append(study.reward_models[trained].labels)
    return [reward for key, reward in study.reward_models.items() if key in needed]


def reward_cost(
    reward: RewardModel, shape: Shape, model: Model, machine: Machine, *, n_pool: int, lengths: Lengths
) -> RewardCost:
    """Return what a reward model costs: both answers of a pair with their prompt, and one pass over all pairs to check it."""
    length = lengths.prompt + lengths.response
    pairs = n_pool * reward.pairs
    learned = pairs * (1 - reward.held_out) * reward.training.epochs
    tokens = 2 * learned * length
    training = Optimisation.model_validate(reward.training.model_dump())
    execution = Execution.model_validate({"sharing": "none"})
    operations = training_operations(
        shape, tokens=tokens, head_tokens=0, context=length / 2, training=training, execution=execution
    )
    checked = forward(shape, 2 * pairs * length, head_tokens=0, context=length / 2)
    seconds = operations / (machine.flops * machine.train_share) + checked / (machine.flops * machine.score_share)
    whole = model.model_copy(update={"dtype": "float32", "gpus": min(1, model.gpus), "execution": execution})
    together = min(2 * reward.training.batch * length, model.execution.tokens or float("inf"))
    memory = training_memory(shape, whole, training, tokens=together)
    return RewardCost(2 * learned, tokens, seconds, memory)
