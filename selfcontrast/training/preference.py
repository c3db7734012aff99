"""Preference training on groups: one chosen and k rejected responses to a prompt, computed together.

The chosen response runs once for its k negatives, the prompt once for all responses, and the reference not at all: its
log-probabilities are computed once for the whole pool and looked up by key. A batch runs in parts that fit into memory; the
gradient is that of the whole batch.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from selfcontrast.finite import NotFiniteError, require_finite
from selfcontrast.logprobs import Sharing, TokenLogps, Tokens
from selfcontrast.records import GroupBatch
from selfcontrast.training.engine import Engine
from selfcontrast.training.groups import TokenGroup, as_batch, micro_batches, split_responses
from selfcontrast.training.loop import name_batch, optimise, seeded_batches
from selfcontrast.training.monitor import Monitor
from selfcontrast.training.sft import make_schedule
from selfcontrast.training.state import Checkpoints

log = logging.getLogger(__name__)

FIGURES = {
    "margin": True,
    "accuracy": True,
    "kl": True,
    "chosen_logp": False,
    "rejected_logp": True,
    "chosen_length": False,
    "rejected_length": True,
}
"""Figures of a batch, and whether they are means over negatives (else over groups). ``kl`` is log reference - log policy of
the negatives, in nats: where the reference sampled them, an estimate of its divergence from the policy."""


@dataclass(frozen=True)
class Objective:
    """The loss of a group: a plug-in with its parameters, and an optional SFT term beside it.

    Attributes:
        sft_weight: factor of the mean negative log-likelihood of a token of the chosen response.
    """

    module: ModuleType
    params: Any
    sft_weight: float = 0.0

    def needs(self, what: str) -> bool:
        """Return whether the plug-in reads ``drift``, ``score`` or ``shared``."""
        return what in self.module.NEEDS

    def loss(self, batch: GroupBatch) -> Tensor:
        """Return the loss of each group, ``(batch,)``."""
        loss: Tensor = self.module.loss(batch, self.params)
        if self.sft_weight:
            loss = loss - self.sft_weight * batch.policy.chosen / batch.chosen_length
        return loss


@dataclass
class Execution:
    """How a batch runs: what changes speed and memory, and the numbers by rounding alone.

    Attributes:
        sharing: what the responses of a prompt share.
        tokens: tokens that run together, padding counted; None runs a batch at once. It is halved when memory runs out.
    """

    sharing: Sharing = "prefix"
    tokens: int | None = None

    def halve(self, groups: Sequence[TokenGroup]) -> None:
        """Take half of the tokens that just did not fit."""
        needed = sum(g.n_tokens for g in groups)
        self.tokens = max(1, (needed if self.tokens is None else min(self.tokens, needed)) // 2)


def train_preference(
    engine: Engine,
    groups: Sequence[TokenGroup],
    objective: Objective,
    training: dict[str, Any],
    *,
    n_steps: int,
    seed: int,
    execution: Execution | None = None,
    store: Checkpoints | None = None,
    monitor: Monitor | None = None,
) -> list[dict[str, float]]:
    """Train the engine's model in place and return the history of its steps.

    Args:
        training: the keys of ``config.Optimisation``.
        store: see ``loop.optimise``; so for ``monitor``.
    """
    schedule = make_schedule(training, n_steps)
    batches = seeded_batches(len(groups), batch=schedule.batch, n_steps=n_steps, seed=seed)
    how = execution or Execution()
    return optimise(
        engine,
        schedule,
        batches,
        lambda items: accumulate(engine, [groups[i] for i in items], objective, how),
        name_of=lambda i: groups[i].prompt_id,
        ema=training.get("ema"),
        store=store,
        monitor=monitor,
    )


def accumulate(
    engine: Engine, groups: Sequence[TokenGroup], objective: Objective, execution: Execution
) -> dict[str, float]:
    """Add the gradient of the mean loss over a batch, and return that loss and figures of the batch.

    The groups are those of the whole batch; every process takes its share of them. Where memory runs out, the batch starts
    again in smaller parts; where a single group does not fit, its gradient is formed in two passes.
    """
    while True:
        try:
            return _accumulate(engine, groups, objective, execution)
        except torch.OutOfMemoryError:
            # Several processes cannot start again on their own: the others wait in a collective operation.
            if engine.world > 1 or (execution.tokens is not None and execution.tokens <= 2):
                raise
            engine.clear()
            execution.halve(groups)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        log.warning("out of memory; going on with %d tokens at a time", execution.tokens)


def _accumulate(
    engine: Engine, groups: Sequence[TokenGroup], objective: Objective, execution: Execution
) -> dict[str, float]:
    mine = list(groups[engine.rank :: engine.world])
    # A process without a group takes part in the collective operations with one that weighs nothing.
    mine = mine or [replace(groups[0], weight=0.0)]
    drift = _drift(engine, mine, len(groups), execution) if objective.needs("drift") else None
    parts = micro_batches(mine, execution.tokens)
    n_parts = engine.largest(len(parts))
    parts += [[replace(parts[0][0], weight=0.0)]] * (n_parts - len(parts))
    figures = dict.fromkeys(("loss", *FIGURES), 0.0)
    for i, part in enumerate(parts):
        found = _backward(engine, part, objective, execution, drift, n_total=len(groups), last=i + 1 == n_parts)
        for name, value in found.items():
            figures[name] += value
    summed = dict(zip(figures, engine.total(figures.values()), strict=True))
    n_negatives = sum(len(g.responses) - 1 for g in groups)
    return {k: v if k == "loss" else v / (n_negatives if FIGURES[k] else len(groups)) for k, v in summed.items()}


def _backward(
    engine: Engine,
    groups: list[TokenGroup],
    objective: Objective,
    execution: Execution,
    drift: Tensor | None,
    *,
    n_total: int,
    last: bool,
) -> dict[str, float]:
    """Add the gradient of these groups' share of the mean over ``n_total`` groups; return sums of loss and figures.

    A group that does not fit gets its exact gradient in two passes. The loss is a function of the tokens' log-probabilities:
    a first pass without gradients gives their values, the loss a factor for each, and a second pass adds the gradient of
    factor times log-probability for a few responses at a time.
    """
    pieces = _pieces(groups, execution)
    # Every process runs and adds up as often as the others, or they wait for each other for ever.
    n_pieces = engine.largest(len(pieces))
    sharing = execution.sharing if n_pieces == 1 or execution.sharing != "none" else "chosen"

    def run(piece: _Piece) -> TokenLogps:
        return engine.token_logps(*piece, sharing=sharing)

    if n_pieces == 1:
        with engine.adding_up(last):
            loss, figures = _loss(groups, run(pieces[0]), objective, drift, n_total=n_total)
            engine.backward(loss)
        return figures
    idle = [pieces[0]] * (n_pieces - len(pieces))
    with torch.no_grad():
        leaf = torch.cat([run(piece).values for piece in [*pieces, *idle]][: len(pieces)]).requires_grad_()
    tokens = TokenLogps(leaf, [n for g in groups for n in g.lengths])
    loss, figures = _loss(groups, tokens, objective, drift, n_total=n_total)
    (factors,) = torch.autograd.grad(loss, leaf)
    sizes = [sum(len(r) for rs in responses for r in rs) for _, responses in pieces]
    weighted = [*factors.split(sizes), *([torch.zeros_like(factors[: sizes[0]])] * len(idle))]
    for i, (piece, factor) in enumerate(zip([*pieces, *idle], weighted, strict=True)):
        with engine.adding_up(last and i + 1 == n_pieces):
            engine.backward((run(piece).values * factor).sum())
    return figures


_Piece = tuple[list[Tokens], list[list[Tokens]]]
"""Prompts, and the responses to each that run together."""


def _pieces(groups: Sequence[TokenGroup], execution: Execution) -> list[_Piece]:
    """Return the groups in one piece, or the responses of a single group that is too large in several."""
    if execution.tokens is not None and len(groups) == 1 and groups[0].n_tokens > execution.tokens:
        prompt, responses = groups[0].prompt_ids, groups[0].responses
        return [([prompt], [[responses[i] for i in part]]) for part in split_responses(groups[0], execution.tokens)]
    return [([g.prompt_ids for g in groups], [list(g.responses) for g in groups])]


def _loss(
    groups: Sequence[TokenGroup], tokens: TokenLogps, objective: Objective, drift: Tensor | None, *, n_total: int
) -> tuple[Tensor, dict[str, float]]:
    batch = as_batch(groups, tokens, drift=drift, shared=objective.needs("shared"))
    weights = torch.tensor([g.weight for g in groups], dtype=tokens.values.dtype, device=tokens.values.device)
    loss = (weights * objective.loss(batch)).sum() / n_total
    if not (torch.isfinite(loss) & torch.isfinite(tokens.values).all()):
        names = [
            f"{'rejected' if j else 'chosen'} response to prompt {g.prompt_id}"
            for g in groups
            for j in range(len(g.responses))
        ]
        require_finite(tokens.sums().tolist(), "the policy's log-probability of a response", names.__getitem__)
        of = name_batch([g.prompt_id for g in groups])
        raise NotFiniteError("the loss", loss.item(), of=of, remedy="check the parameters of the objective")
    with torch.no_grad():
        counted = batch.valid & (weights > 0)[:, None]
        figures = {k: v.item() for k, v in _figures(batch, counted, weights > 0).items()}
    return loss, {"loss": loss.item(), **figures}


def _figures(batch: GroupBatch, valid: Tensor, real: Tensor) -> dict[str, Tensor]:
    ratio = (batch.policy.rejected - batch.reference.rejected)[valid]
    margin = (batch.chosen_ratio[:, None] - batch.policy.rejected + batch.reference.rejected)[valid]
    return {
        "margin": margin.sum(),
        "accuracy": (margin > 0).sum(),
        "kl": -ratio.sum(),
        "chosen_logp": batch.policy.chosen[real].sum(),
        "rejected_logp": batch.policy.rejected[valid].sum(),
        "chosen_length": batch.chosen_length[real].sum(),
        "rejected_length": batch.rejected_length[valid].sum(),
    }


@torch.no_grad()
def _drift(engine: Engine, groups: Sequence[TokenGroup], n_total: int, execution: Execution) -> Tensor:
    """Return the mean log-ratio of the answers to other prompts, over the groups of the batch."""
    total = 0.0
    parts = micro_batches(groups, execution.tokens)
    parts += [[replace(parts[0][0], weight=0.0)]] * (engine.largest(len(parts)) - len(parts))
    for part in parts:
        elsewhere = [g.elsewhere for g in part if g.elsewhere is not None]
        assert len(elsewhere) == len(part), "the step joins an answer to another prompt to every group"
        found = engine.token_logps([g.prompt_ids for g in part], [[e.ids] for e in elsewhere], sharing="chosen").sums()
        reference = torch.tensor([e.reference for e in elsewhere], dtype=found.dtype, device=found.device)
        real = torch.tensor([g.weight > 0 for g in part], device=found.device)
        drifts = (found - reference)[real]
        whose = [f"prompt {g.prompt_id}" for g in part if g.weight > 0]
        require_finite(drifts.tolist(), "the log-ratio of an answer to another prompt", whose.__getitem__)
        total += float(drifts.sum())
    return torch.tensor(engine.total([total])[0] / n_total, device=engine.model.device)
