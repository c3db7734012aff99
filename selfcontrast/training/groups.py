"""Groups as token ids, what an objective sees of them, and how a batch of them is cut to fit into memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from selfcontrast.logprobs import TokenLogps, Tokens
from selfcontrast.records import GroupBatch, GroupLogps


@dataclass(frozen=True)
class Elsewhere:
    """An answer to another prompt, for the objectives that measure how far the policy has drifted (KTO).

    Attributes:
        ids: the answer.
        reference: its log-probability under the reference, given this prompt.
    """

    ids: Tokens
    reference: float


@dataclass(frozen=True)
class TokenGroup:
    """One group as token ids, chosen first, with the reference's log-probabilities in the same order.

    Attributes:
        reference: of each response, summed.
        reference_tokens: of each token of each response; only for objectives that need ``shared``.
        margin: nats by which the chosen response must win, for each negative; none is 0.
        score: of each negative, where the selection has a scorer.
        weight: factor of this group's loss.
        prompt_id: name of the prompt, for messages.
    """

    prompt_ids: Tokens
    responses: Sequence[Tokens]
    reference: Sequence[float]
    reference_tokens: Sequence[Sequence[float]] | None = None
    margin: Sequence[float] = field(default=())
    score: Sequence[float] | None = None
    weight: float = 1.0
    elsewhere: Elsewhere | None = None
    prompt_id: str = field(default="", compare=False)

    @property
    def lengths(self) -> list[int]:
        """Return the tokens of each response."""
        return [len(r) for r in self.responses]

    @property
    def n_tokens(self) -> int:
        """Return the tokens that run where the prompt is shared: the prompt, and the responses padded to the longest."""
        return len(self.prompt_ids) + len(self.responses) * max(self.lengths)


def as_batch(groups: Sequence[TokenGroup], tokens: TokenLogps, *, drift: Tensor | None, shared: bool) -> GroupBatch:
    """Return what an objective sees of the groups.

    Args:
        tokens: log-probabilities under the policy of every response token, group by group, chosen first.
        shared: whether the log-probabilities of the tokens that pairs have in common are needed.
    """
    device, kind = tokens.values.device, tokens.values.dtype
    sizes = [len(g.responses) for g in groups]
    widest = max(sizes) - 1
    valid = torch.tensor([[j < s - 1 for j in range(widest)] for s in sizes], device=device)

    def padded(rows: Sequence[Sequence[float]], dtype: torch.dtype) -> Tensor:
        return torch.tensor([[*r, *[0] * (widest - len(r))] for r in rows], dtype=dtype, device=device)

    policy = tokens.split()
    reference = None
    if shared:
        reference = [torch.tensor(t, dtype=kind, device=device) for g in groups for t in g.reference_tokens or ()]
    return GroupBatch(
        policy=_logps(tokens.sums(), policy if shared else None, sizes),
        reference=_logps(
            torch.tensor([x for g in groups for x in g.reference], dtype=kind, device=device), reference, sizes
        ),
        valid=valid,
        chosen_length=torch.tensor([g.lengths[0] for g in groups], device=device),
        rejected_length=padded([g.lengths[1:] for g in groups], torch.long),
        margin=padded([g.margin for g in groups], kind),
        score=None if groups[0].score is None else padded([g.score or () for g in groups], kind),
        drift=drift,
    )


def _logps(sums: Tensor, tokens: Sequence[Tensor] | None, sizes: Sequence[int]) -> GroupLogps:
    """Return sums (and, if given, sums over common tokens) that come group by group as ``(batch,)`` and ``(batch, k)``."""
    widest = max(sizes) - 1

    def rows(parts: Sequence[Tensor]) -> Tensor:
        return torch.stack([torch.nn.functional.pad(p, (0, widest - len(p))) for p in parts])

    parts = sums.split(list(sizes))
    chosen, rejected = torch.stack([p[0] for p in parts]), rows([p[1:] for p in parts])
    if tokens is None:
        return GroupLogps(chosen, rejected)
    of_chosen, of_rejected = [], []
    start = 0
    for size in sizes:
        first, others = tokens[start], tokens[start + 1 : start + size]
        common = [min(len(first), len(other)) for other in others]
        of_chosen.append(torch.stack([first[:n].sum() for n in common]))
        of_rejected.append(torch.stack([other[:n].sum() for other, n in zip(others, common, strict=True)]))
        start += size
    return GroupLogps(chosen, rejected, rows(of_chosen), rows(of_rejected))


def micro_batches(groups: Sequence[TokenGroup], budget: int | None) -> list[list[TokenGroup]]:
    """Return the groups in parts of at most ``budget`` tokens, padding counted, groups of like length together.

    A group that is larger than the budget is a part of its own.
    """
    if budget is None:
        return [list(groups)]
    parts: list[list[TokenGroup]] = []
    for group in sorted(groups, key=_padded_size):  # the sort is stable: the cut depends on the batch alone
        if parts and _n_padded([*parts[-1], group]) <= budget:
            parts[-1].append(group)
        else:
            parts.append([group])
    return parts


def split_responses(group: TokenGroup, budget: int) -> list[list[int]]:
    """Return the indices of a group's responses in parts of at most ``budget`` tokens, at least one in each."""
    parts: list[list[int]] = []
    for i in range(len(group.responses)):
        longest = max(group.lengths[j] for j in [*(parts[-1] if parts else []), i])
        if parts and len(group.prompt_ids) + (len(parts[-1]) + 1) * longest <= budget:
            parts[-1].append(i)
        else:
            parts.append([i])
    return parts


def _padded_size(group: TokenGroup) -> tuple[int, int]:
    return max(group.lengths), len(group.prompt_ids)


def _n_padded(groups: Sequence[TokenGroup]) -> int:
    """Return the tokens of groups that run together: all prompts and all responses padded to the longest."""
    prompt = max(len(g.prompt_ids) for g in groups)
    response = max(max(g.lengths) for g in groups)
    return prompt * len(groups) + response * sum(len(g.responses) for g in groups)
