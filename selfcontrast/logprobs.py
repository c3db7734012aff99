"""Log-probabilities of responses under a model: the only place that pads, masks and shifts tokens.

The responses of one prompt are computed together, and by default the prompt is run once for all of them
(``sharing="prefix"``): its keys and values are handed to every response, and gradients flow back through them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel

Sharing = Literal["prefix", "rows"]
Tokens = Sequence[int]


@dataclass(frozen=True)
class PromptPass:
    """The prompts of a batch, run once.

    Attributes:
        cache: keys and values, ``(prompts, heads, longest prompt, head width)`` for each layer.
        mask: 1 on prompt tokens, 0 on the padding to their left, ``(prompts, longest prompt)``.
        lengths: number of tokens of each prompt, ``(prompts,)``.
        last_hidden: hidden state of the last token of each prompt, ``(prompts, width)``.
    """

    cache: DynamicCache
    mask: Tensor
    lengths: Tensor
    last_hidden: Tensor

    def expand(self, rows: Tensor) -> PromptPass:
        """Return the pass with row ``i`` taken from prompt ``rows[i]``; differentiable."""
        from transformers import DynamicCache

        cache = DynamicCache()
        for i, layer in enumerate(self.cache.layers):
            cache.update(layer.keys.index_select(0, rows), layer.values.index_select(0, rows), i)
        return PromptPass(
            cache,
            self.mask.index_select(0, rows),
            self.lengths.index_select(0, rows),
            self.last_hidden.index_select(0, rows),
        )


def run_prompts(model: PreTrainedModel, prompts: Sequence[Tokens]) -> PromptPass:
    """Run the prompts through the model, padded on the left, and keep what their responses attend to."""
    device = model.device
    longest = max(len(p) for p in prompts)
    ids = torch.zeros((len(prompts), longest), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, prompt in enumerate(prompts):
        ids[i, longest - len(prompt) :] = torch.as_tensor(prompt)
        mask[i, longest - len(prompt) :] = 1
    mask = mask.to(device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    out = model.base_model(input_ids=ids.to(device), attention_mask=mask, position_ids=positions, use_cache=True)
    return PromptPass(out.past_key_values, mask, mask.sum(1), out.last_hidden_state[:, -1])


def response_logps(
    model: PreTrainedModel,
    prompts: Sequence[Tokens],
    responses: Sequence[Sequence[Tokens]],
    *,
    sharing: Sharing = "prefix",
) -> Tensor:
    """Return the log-probability of every response given its prompt, in nats, shape ``(responses,)``, prompt by prompt.

    Summed over the response tokens in float32 at least. ``responses[i]`` are the responses to ``prompts[i]``: lists of
    token ids, with EOS where the answer ended by itself; lengths may differ, empty responses have log-probability 0.

    Args:
        sharing: ``prefix`` runs each prompt once for its responses; ``rows`` runs prompt and response as one row for
            each response. Both give the same values and gradients; ``prefix`` costs less.
    """
    rows = torch.tensor([i for i, rs in enumerate(responses) for _ in rs], device=model.device)
    flat = [r for rs in responses for r in rs]
    if sharing == "rows":
        return _logps_of_rows(model, [prompts[i] for i in rows.tolist()], flat)
    prompt = run_prompts(model, prompts).expand(rows)
    labels, mask = _pad_right(flat, model.device)
    hidden = [prompt.last_hidden[:, None]]
    if labels.shape[1] > 1:
        positions = prompt.lengths[:, None] + torch.arange(labels.shape[1] - 1, device=model.device)
        out = model.base_model(
            input_ids=labels[:, :-1],
            attention_mask=torch.cat([prompt.mask, mask[:, :-1]], dim=1),
            position_ids=positions,
            past_key_values=prompt.cache,
            use_cache=True,
        )
        hidden.append(out.last_hidden_state)
    return _sum_logps(model, torch.cat(hidden, dim=1), labels, mask)


def _logps_of_rows(model: PreTrainedModel, prompts: Sequence[Tokens], responses: Sequence[Tokens]) -> Tensor:
    ids, mask = _pad_right([[*p, *r] for p, r in zip(prompts, responses, strict=True)], model.device)
    out = model.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
    is_response = mask.clone()
    for i, prompt in enumerate(prompts):
        is_response[i, : len(prompt)] = 0
    return _sum_logps(model, out.last_hidden_state[:, :-1], ids[:, 1:], is_response[:, 1:])


def _pad_right(rows: Sequence[Tokens], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return token ids and mask, both ``(rows, longest row)``, at least one column wide."""
    longest = max(1, *(len(r) for r in rows))
    ids = torch.zeros((len(rows), longest), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.as_tensor(row, dtype=torch.long)
        mask[i, : len(row)] = 1
    return ids.to(device), mask.to(device)


def _sum_logps(model: PreTrainedModel, hidden: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """Sum the log-probabilities of ``labels`` where ``mask`` is 1; only those positions reach the LM head."""
    chosen = mask.bool()
    logits = model.get_output_embeddings()(hidden[chosen])
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    logps = logits.log_softmax(-1).gather(-1, labels[chosen][:, None])[:, 0]
    total = torch.zeros(len(labels), dtype=logps.dtype, device=logps.device)
    return total.index_add(0, chosen.nonzero()[:, 0], logps)
