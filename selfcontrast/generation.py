"""Sample responses with the Hugging Face back-end: each prompt is run once for all of its responses.

Every response draws from a random stream of its own, so what is sampled does not depend on shards. Finished responses
leave the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from selfcontrast.finite import NotFiniteError, name_of_model
from selfcontrast.lm_head import logits_of
from selfcontrast.logprobs import PromptPass, Tokens, run_prompts
from selfcontrast.sampling import Sampled, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel

COMPACT_BELOW = 0.75
"""Finished responses are removed once fewer than this share of the rows are still running: each removal copies the cache."""


class HuggingFaceSampler:
    """A policy on the Hugging Face back-end: the ``sampling.Sampler`` of a loaded model."""

    def __init__(self, model: PreTrainedModel) -> None:
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
    rows = torch.tensor([i for i, s in enumerate(seeds) for _ in s], device=model.device)
    rooms = [sampling.room(p) for p, row in zip(prompts, seeds, strict=True) for _ in row]
    uniforms = _streams([s for row in seeds for s in row], max(rooms))
    prompt = run_prompts(model, prompts).expand(rows)
    tokens = _decode(model, prompt, uniforms, rooms, sampling, eos_ids, owners=rows.tolist())
    flat = iter([Sampled(ids, "stop" if ids[-1] in eos_ids else "length") for ids in tokens])
    return [[next(flat) for _ in row] for row in seeds]


def _streams(seeds: Sequence[int], n_tokens: int) -> Tensor:
    """Return one row of uniform numbers in [0, 1) for each seed, from a counter-based generator."""
    draws = [np.random.Generator(np.random.Philox(key=s)).random(n_tokens) for s in seeds]
    return torch.from_numpy(np.stack(draws))


def _decode(
    model: PreTrainedModel,
    prompt: PromptPass,
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
    hidden, mask, lengths = prompt.last_hidden, prompt.mask, prompt.lengths
    cache = prompt.cache
    for step in range(n_steps):
        logits = logits_of(model, hidden)
        _check_logits(logits, running, [owners[i] for i in alive], step)
        drawn = _draw(logits, uniforms[alive, step].to(logits.device), sampling)
        for row, token in enumerate(drawn.tolist()):
            if running[row]:
                tokens[alive[row]].append(token)
                running[row] = token not in eos_ids and step + 1 < rooms[alive[row]]
        if not running.any():
            break
        if running.float().mean() < COMPACT_BELOW:
            kept = running.nonzero()[:, 0].to(logits.device)
            cache.batch_select_indices(kept)
            mask, lengths, drawn = mask[kept], lengths[kept], drawn[kept]
            alive = [alive[i] for i in kept.tolist()]
            running = torch.ones(len(alive), dtype=torch.bool)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        out = model.base_model(
            input_ids=drawn[:, None],
            attention_mask=mask,
            position_ids=(lengths + step)[:, None],
            past_key_values=cache,
            use_cache=True,
        )
        hidden = out.last_hidden_state[:, -1]
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
