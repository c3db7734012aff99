"""Preference training on groups: one chosen and k rejected responses to a prompt, computed together.

The chosen response runs once for its k negatives, the prompt once for all responses, and the reference not at all: its
log-probabilities are computed once for the whole pool and looked up by key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from selfcontrast.logprobs import Sharing, response_logps
from selfcontrast.records import GroupLogps
from selfcontrast.training.loop import optimise, seeded_batches
from selfcontrast.training.sft import make_schedule

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class TokenGroup:
    """One group as token ids, chosen first, with the reference's log-probabilities in the same order."""

    prompt_ids: list[int]
    responses: list[list[int]]
    reference: list[float]


def as_group_logps(flat: Tensor, sizes: Sequence[int]) -> GroupLogps:
    """Return log-probabilities that come group by group, chosen first, as padded ``(batch,)`` and ``(batch, k)``.

    Args:
        flat: ``(sum of sizes,)``.
        sizes: responses of each group, the chosen one included; at least 2.
    """
    parts = flat.split(list(sizes))
    widest = max(sizes) - 1
    rejected = torch.stack([torch.nn.functional.pad(p[1:], (0, widest - (len(p) - 1))) for p in parts])
    valid = torch.tensor([[j < s - 1 for j in range(widest)] for s in sizes], device=flat.device)
    return GroupLogps(torch.stack([p[0] for p in parts]), rejected, valid)


def group_loss(
    model: PreTrainedModel,
    groups: Sequence[TokenGroup],
    objective: ModuleType,
    params: Any,
    *,
    sharing: Sharing = "prefix",
) -> tuple[Tensor, dict[str, float]]:
    """Return the mean loss over the groups of a batch, and figures: margin, accuracy, log-probabilities."""
    sizes = [len(g.responses) for g in groups]
    flat = response_logps(model, [g.prompt_ids for g in groups], [g.responses for g in groups], sharing=sharing)
    policy = as_group_logps(flat, sizes)
    stored = torch.tensor([x for g in groups for x in g.reference], dtype=flat.dtype, device=flat.device)
    reference = as_group_logps(stored, sizes)
    loss = objective.loss(policy, reference, params).mean()
    return loss, _figures(policy, reference)


@torch.no_grad()
def _figures(policy: GroupLogps, reference: GroupLogps) -> dict[str, float]:
    valid = policy.valid
    margin = (policy.chosen - reference.chosen)[:, None] - (policy.rejected - reference.rejected)
    return {
        "margin": margin[valid].mean().item(),
        "accuracy": (margin[valid] > 0).float().mean().item(),
        "chosen_logp": policy.chosen.mean().item(),
        "rejected_logp": policy.rejected[valid].mean().item(),
    }


def train_preference(
    model: PreTrainedModel,
    groups: Sequence[TokenGroup],
    objective: ModuleType,
    params: Any,
    training: dict[str, Any],
    *,
    n_steps: int,
    seed: int,
) -> list[dict[str, float]]:
    """Train ``model`` in place and return the history of its steps; ``training`` holds the keys of ``Optimisation``."""
    schedule = make_schedule(training, n_steps)
    batches = seeded_batches(len(groups), batch=schedule.batch, n_steps=n_steps, seed=seed)
    return optimise(
        model, schedule, batches, lambda items: group_loss(model, [groups[i] for i in items], objective, params)
    )
