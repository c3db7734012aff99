"""Sample responses with the Hugging Face back-end: each prompt is run once for all of its responses, where the model can.

Every response draws from a random stream of its own, so what is sampled does not depend on shards. Finished responses
leave the batch.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from selfcontrast.attention import check_length, check_model, why_no_shared_prompt
from selfcontrast.finite import NotFiniteError, name_of_model
from selfcontrast.lm_head import backbone, logits_of
from selfcontrast.logprobs import Tokens, pad_right, run_prompts
from selfcontrast.sampling import Sampled, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

COMPACT_BELOW = 0.75
"""Finished responses are removed once fewer than this share of the rows are still running: each removal copies the cache."""


class HuggingFaceSampler:
    """A policy on the Hugging Face back-end: the ``sampling.Sampler`` of a loaded model.

    Raises:
        InputError: the model cannot be served (``attention.check_model``).
    """

    def __init__(self, model: PreTrainedModel) -> None:
        check_model(model)
        self.model = model
        self.settings: dict[str, Any] = {"backend": "hf"}

    def sample(
        self,
        prompts: Sequence[Tokens],
        seeds: Sequence[Sequence[int]],
        sampling: Sampling,
        *,
        eos_ids: frozenset[int],
    ) -> list[list[Sampled]]:
        """Return the responses; see ``sample_batch``."""
        try:
            return sample_batch(self.model, prompts, seeds, sampling, eos_ids=eos_ids)
        except NotFiniteError as error:
            raise error.but(model=name_of_model(self.model)) from None

    def close(self) -> None:
        """Do nothing: the model runs in this process."""


@torch.no_grad()
def sample_batch(
    model: PreTrainedModel,
    prompts: Sequence[Tokens],
    seeds: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    eos_ids: frozenset[int],
) -> list[list[Sampled]]:
    """Return ``len(seeds[i])`` responses to each ``prompts[i]``; response ``(i, j)`` draws from the stream ``seeds[i][j]``.

    A response ends with the first token of ``eos_ids``, which is kept, or where its room ends.

    Raises:
        NotFiniteError: the model gives no likeliest token; its ``row`` is the prompt.
    """
    owners = [i for i, s in enumerate(seeds) for _ in s]
    rooms = [sampling.room(prompts[i]) for i in owners]
    uniforms = _streams([s for row in seeds for s in row], max(rooms))
    reason = why_no_shared_prompt(model)
    if reason is None:
        rows: _Rows = _SharedRows(model, prompts, owners)
    else:
        _warn_once(f"sampling runs the whole row anew for every token, since the model has {reason}")
        rows = _WholeRows(model, [prompts[i] for i in owners])
    tokens = _decode(model, rows, uniforms, rooms, sampling, eos_ids, owners=owners)
    check_length(model, max(len(prompts[i]) + len(ids) for i, ids in zip(owners, tokens, strict=True)))
    flat = iter([Sampled(ids, "stop" if ids[-1] in eos_ids else "length") for ids in tokens])
    return [[next(flat) for _ in row] for row in seeds]


@cache
def _warn_once(message: str) -> None:
    log.warning(message)


def _streams(seeds: Sequence[int], n_tokens: int) -> Tensor:
    """Return one row of uniform numbers in [0, 1) for each seed, from a counter-based generator."""
    draws = [np.random.Generator(np.random.Philox(key=s)).random(n_tokens) for s in seeds]
    return torch.from_numpy(np.stack(draws))


class _Rows(Protocol):
    """Rows of prompts with the tokens drawn so far; ``hidden`` is the last hidden state of each, ``(rows, width)``."""

    hidden: Tensor

    def append(self, drawn: Tensor) -> None:
        """Run the model over one more token of each row."""

    def keep(self, rows: list[int]) -> None:
        """Drop all other rows."""


class _SharedRows:
    """Rows whose prompts ran once for all of their responses: a step runs one token of each row."""

    def __init__(self, model: PreTrainedModel, prompts: Sequence[Tokens], owners: Sequence[int]) -> None:
        passed = run_prompts(model, prompts).expand(torch.tensor(owners, device=model.device))
        self._model, self._cache, self._mask = model, passed.cache, passed.mask
        self._lengths, self.hidden = passed.lengths, passed.last_hidden

    def append(self, drawn: Tensor) -> None:
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(self._mask), 1)], dim=1)
        out = backbone(self._model)(
            input_ids=drawn[:, None],
            attention_mask=self._mask,
            position_ids=self._lengths[:, None],
            past_key_values=self._cache,
            use_cache=True,
        )
        self._lengths = self._lengths + 1
        self.hidden = out.last_hidden_state[:, -1]

    def keep(self, rows: list[int]) -> None:
        kept = torch.tensor(rows, device=self._mask.device)
        self._cache.batch_select_indices(kept)
        self._mask, self._lengths = self._mask[kept], self._lengths[kept]


class _WholeRows:
    """Rows that run whole at every step, padded on the right: for models whose state cannot be handed on."""

    def __init__(self, model: PreTrainedModel, rows: Sequence[Tokens]) -> None:
        self._model, self._rows = model, [list(row) for row in rows]
        self._run()

    def append(self, drawn: Tensor) -> None:
        for row, token in zip(self._rows, drawn.tolist(), strict=True):
            row.append(token)
        self._run()

    def keep(self, rows: list[int]) -> None:
        self._rows = [self._rows[i] for i in rows]

    def _run(self) -> None:
        ids, mask = pad_right(self._rows, self._model.device)
        out = backbone(self._model)(input_ids=ids, attention_mask=mask, use_cache=False)
        self.hidden = out.last_hidden_state[torch.arange(len(ids), device=ids.device), mask.sum(1) - 1]


def _decode(
    model: PreTrainedModel,
    rows: _Rows,
    uniforms: Tensor,
    rooms: Sequence[int],
    sampling: Sampling,
    eos_ids: frozenset[int],
    *,
    owners: Sequence[int],
) -> list[list[int]]:
    n_rows, n_steps = uniforms.shape
    tokens: list[list[int]] = [[] for _ in range(n_rows)]
    alive = list(range(n_rows))  # row of the batch -> response
    running = torch.ones(n_rows, dtype=torch.bool)
    for step in range(n_steps):
        logits = logits_of(model, rows.hidden)
        _check_logits(logits, running, [owners[i] for i in alive], step)
        drawn = _draw(logits, uniforms[alive, step].to(logits.device), sampling)
        for row, token in enumerate(drawn.tolist()):
            if running[row]:
                tokens[alive[row]].append(token)
                running[row] = token not in eos_ids and step + 1 < rooms[alive[row]]
        if not running.any():
            break
        if running.float().mean() < COMPACT_BELOW:
            kept = running.nonzero()[:, 0].tolist()
            rows.keep(kept)
            drawn = drawn[kept]
            alive = [alive[i] for i in kept]
            running = torch.ones(len(alive), dtype=torch.bool)
        rows.append(drawn)
    return tokens


def _check_logits(logits: Tensor, running: Tensor, owners: Sequence[int], step: int) -> None:
    """Raise NotFiniteError if a response that still runs has no likeliest token.

    Single logits of minus infinity are as good as any: tokens that the model never writes.
    """
    largest = logits.amax(-1)  # NaN if one of them is
    if bad := (~largest.isfinite().cpu() & running).nonzero()[:, 0].tolist():
        raise NotFiniteError(
            f"the largest logit of token {step + 1} of an answer", largest[bad[0]].item(), row=owners[bad[0]]
        )


def _draw(logits: Tensor, uniforms: Tensor, sampling: Sampling) -> Tensor:
    """Return one token for each row by inverting the cumulative distribution at the row's uniform number."""
    if sampling.temperature == 0:
        return logits.argmax(-1)
    probs = (logits.double() / sampling.temperature).softmax(-1)
    if sampling.top_p < 1:
        ordered, order = probs.sort(descending=True, stable=True)
        outside = ordered.cumsum(-1) - ordered >= sampling.top_p
        probs = probs.scatter(-1, order, ordered.masked_fill(outside, 0.0))
    cumulative = probs.cumsum(-1)
    threshold = uniforms[:, None] * cumulative[:, -1:]
    return (cumulative <= threshold).sum(-1).clamp(max=logits.shape[-1] - 1)
