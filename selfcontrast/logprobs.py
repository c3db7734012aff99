"""Log-probabilities of responses under a model: the only place that pads, masks and shifts tokens.

The responses of one prompt are computed together. How much they share is a choice that changes the cost, not the value:

==========  =====================================================================  ==========================
sharing     what runs                                                              tokens, k+1 responses
==========  =====================================================================  ==========================
``prefix``  the prompt once; its keys and values are handed to every response,     P + (k + 1) R
            and gradients flow back through them
``packed``  the same in one row, ``[prompt, response 0, ..., response k]``, under  P + (k + 1) R, but dense
            a mask that keeps the responses apart, with positions that restart     attention over all of them
``chosen``  one row for each response                                              (k + 1) (P + R)
``none``    one pair of rows for each negative, as trainers for pairs do           2 k (P + R)
==========  =====================================================================  ==========================
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from selfcontrast.attention import check_length, shortest_window, why_no_shared_prompt
from selfcontrast.lm_head import backbone, label_logps

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel

log = logging.getLogger(__name__)

Sharing = Literal["prefix", "packed", "chosen", "none"]
Tokens = Sequence[int]


@dataclass(frozen=True)
class TokenLogps:
    """Log-probabilities of the tokens of a list of responses, response by response.

    Attributes:
        values: ``(tokens,)``, in nats, float32 at least.
        lengths: tokens of each response.
    """

    values: Tensor
    lengths: list[int]

    def sums(self) -> Tensor:
        """Return the log-probability of each response, ``(responses,)``; 0 for an empty one."""
        owner = torch.repeat_interleave(torch.tensor(self.lengths)).to(self.values.device)
        return self.values.new_zeros(len(self.lengths)).index_add(0, owner, self.values)

    def split(self) -> list[Tensor]:
        """Return the values of each response."""
        return list(self.values.split(self.lengths))


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
    """Run the prompts through the model, padded on the left, and keep what their responses attend to.

    A model with a window would make a cache of the window alone, whose padding and offsets fit no mask of the whole row. This
    one keeps every key, and the model's own mask applies the window.
    """
    from transformers import DynamicCache

    device = model.device
    longest = max(len(p) for p in prompts)
    ids = torch.zeros((len(prompts), longest), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, prompt in enumerate(prompts):
        ids[i, longest - len(prompt) :] = torch.as_tensor(prompt)
        mask[i, longest - len(prompt) :] = 1
    mask = mask.to(device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    out = backbone(model)(
        input_ids=ids.to(device),
        attention_mask=mask,
        position_ids=positions,
        past_key_values=DynamicCache(),
        use_cache=True,
    )
    return PromptPass(out.past_key_values, mask, mask.sum(1), out.last_hidden_state[:, -1])


def response_logps(
    model: PreTrainedModel,
    prompts: Sequence[Tokens],
    responses: Sequence[Sequence[Tokens]],
    *,
    sharing: Sharing = "prefix",
) -> Tensor:
    """Return the log-probability of every response given its prompt, in nats, shape ``(responses,)``, prompt by prompt.

    Summed over the response tokens; arguments as in ``token_logps``.
    """
    return token_logps(model, prompts, responses, sharing=sharing).sums()


def token_logps(
    model: PreTrainedModel,
    prompts: Sequence[Tokens],
    responses: Sequence[Sequence[Tokens]],
    *,
    sharing: Sharing = "prefix",
) -> TokenLogps:
    """Return the log-probability of every response token given what comes before it, prompt by prompt.

    Args:
        prompts: token ids, at least one for each prompt.
        responses: ``responses[i]`` are the responses to ``prompts[i]``: token ids, with EOS where the answer ended by
            itself. Lengths may differ; a response may be empty.
        sharing: see the table of the module. Values and gradients are the same for all four; ``none`` takes the first
            response of a prompt as the chosen one, runs it for every other, and returns the mean of these equal values.
    """
    flat = [r for rs in responses for r in rs]
    lengths = [len(r) for r in flat]
    check_length(model, max((len(p) + len(r) for p, rs in zip(prompts, responses, strict=True) for r in rs), default=0))
    labels = torch.tensor([t for r in flat for t in r], dtype=torch.long, device=model.device)
    if sharing == "none":
        return _pairs(model, prompts, responses)
    if sharing == "chosen":
        owner = [i for i, rs in enumerate(responses) for _ in rs]
        hidden = _hidden_of_rows(model, [prompts[i] for i in owner], flat)
    elif sharing == "packed":
        hidden = _hidden_of_packed(model, prompts, responses)
    else:
        hidden = _hidden_after_prompts(model, prompts, responses)
    return TokenLogps(label_logps(model, hidden, labels), lengths)


def supported_sharing(model: PreTrainedModel, wanted: Sharing, *, longest_row: int) -> Sharing:
    """Return ``wanted``, or ``chosen`` with one line in the log if the model's attention forbids to share a prompt.

    Args:
        longest_row: tokens of the longest prompt with its longest response.
    """
    if wanted not in ("prefix", "packed"):
        return wanted
    window = shortest_window(model)
    reason = why_no_shared_prompt(model)
    if reason is None and window is not None and window < longest_row:
        reason = f"a sliding window of {window} tokens, shorter than a row of {longest_row}"
    if reason is None:
        return wanted
    log.warning("sharing: chosen instead of %s, since the model has %s", wanted, reason)
    return "chosen"


# Ways to run prompts and responses. Each returns the hidden states that predict the response tokens, ``(tokens, width)``,
# response by response.


def _hidden_after_prompts(
    model: PreTrainedModel, prompts: Sequence[Tokens], responses: Sequence[Sequence[Tokens]]
) -> Tensor:
    rows = torch.tensor([i for i, rs in enumerate(responses) for _ in rs], device=model.device)
    prompt = run_prompts(model, prompts).expand(rows)
    labels, mask = pad_right([r for rs in responses for r in rs], model.device)
    hidden = [prompt.last_hidden[:, None]]
    if labels.shape[1] > 1:
        positions = prompt.lengths[:, None] + torch.arange(labels.shape[1] - 1, device=model.device)
        out = backbone(model)(
            input_ids=labels[:, :-1],
            attention_mask=torch.cat([prompt.mask, mask[:, :-1]], dim=1),
            position_ids=positions,
            past_key_values=prompt.cache,
            use_cache=True,
        )
        hidden.append(out.last_hidden_state)
    return torch.cat(hidden, dim=1)[mask.bool()]


def _hidden_of_rows(model: PreTrainedModel, prompts: Sequence[Tokens], responses: Sequence[Tokens]) -> Tensor:
    ids, mask = pad_right([[*p, *r] for p, r in zip(prompts, responses, strict=True)], model.device)
    out = backbone(model)(input_ids=ids, attention_mask=mask, use_cache=False)
    is_response = mask.bool()
    for i, prompt in enumerate(prompts):
        is_response[i, : len(prompt)] = False
    return out.last_hidden_state[:, :-1][is_response[:, 1:]]


def _hidden_of_packed(
    model: PreTrainedModel, prompts: Sequence[Tokens], responses: Sequence[Sequence[Tokens]]
) -> Tensor:
    """Run each prompt and its responses as one row.

    A token sees what is before it in the prompt or in its own response. The last token of a response predicts nothing and
    is left out.
    """
    packed = []
    for prompt, rs in zip(prompts, responses, strict=True):
        # Block 0 is the prompt. The first token of every response is predicted by the last of the prompt.
        row, block, position = list(prompt), [0] * len(prompt), list(range(len(prompt)))
        sources: list[int] = []
        for j, response in enumerate(rs, start=1):
            seen = response[:-1]
            start = len(row)
            row += seen
            block += [j] * len(seen)
            position += range(len(prompt), len(prompt) + len(seen))
            sources += [len(prompt) - 1, *range(start, start + len(seen))][: len(response)]
        packed.append((row, block, position, sources))
    ids, real = pad_right([p[0] for p in packed], model.device)
    # Padding is a block of its own; it sees itself and the prompt, so that no row of the mask is empty.
    blocks = pad_right([p[1] for p in packed], model.device)[0].masked_fill(real == 0, -1)
    positions = pad_right([p[2] for p in packed], model.device)[0]
    same = (blocks[:, :, None] == blocks[:, None, :]) | (blocks[:, None, :] == 0)
    mask = same.tril()[:, None]
    if model.config._attn_implementation == "eager":  # adds its mask to the scores
        lowest = torch.finfo(model.dtype).min
        mask = torch.zeros(mask.shape, dtype=model.dtype, device=mask.device).masked_fill(~mask, lowest)
    out = backbone(model)(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)
    width = ids.shape[1]
    flat = [i * width + s for i, p in enumerate(packed) for s in p[3]]
    wanted = torch.tensor(flat, dtype=torch.long, device=model.device)
    return out.last_hidden_state.flatten(0, 1).index_select(0, wanted)


def _pairs(model: PreTrainedModel, prompts: Sequence[Tokens], responses: Sequence[Sequence[Tokens]]) -> TokenLogps:
    """Run the first response of a prompt once for each of the others; the copies are averaged."""
    rows: list[Tokens] = []
    owners: list[int] = []
    for i, rs in enumerate(responses):
        expanded = [r for other in rs[1:] for r in (rs[0], other)] or list(rs)
        rows += expanded
        owners += [i] * len(expanded)
    hidden = _hidden_of_rows(model, [prompts[i] for i in owners], rows)
    labels = torch.tensor([t for r in rows for t in r], dtype=torch.long, device=model.device)
    found = iter(TokenLogps(label_logps(model, hidden, labels), [len(r) for r in rows]).split())
    values = []
    for rs in filter(None, responses):
        mine = [next(found) for _ in range(max(1, 2 * (len(rs) - 1)))]
        values += [torch.stack(mine[0::2]).mean(0), *mine[1::2]]
    return TokenLogps(torch.cat(values), [len(r) for rs in responses for r in rs])


def pad_right(rows: Sequence[Tokens], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return token ids and mask, both ``(rows, longest row)``, at least one column wide."""
    longest = max(1, *(len(r) for r in rows))
    ids = torch.zeros((len(rows), longest), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.as_tensor(row, dtype=torch.long)
        mask[i, : len(row)] = 1
    return ids.to(device), mask.to(device)
