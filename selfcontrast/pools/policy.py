"""The policy answers every prompt as it stands, ``n_responses`` times: Self-Contrast's pool of 32, SPIN's opponent.

Source: arXiv 2404.00604, section 3 (temperature 1, top_p 1, 32 responses).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from selfcontrast.pools._context import PoolContext, PoolPrompt, PoolResponse
from selfcontrast.schema import Count, Fraction, Strict

NEEDS_POLICY = True


class Params(Strict):
    """Parameters of the pool."""

    policy: Literal["sft"] = Field("sft", description="which policy answers")
    n_responses: Count = Field(description="responses to each prompt")
    temperature: float = Field(1.0, ge=0, description="0 is greedy")
    top_p: Fraction = Field(1.0, description="1 samples from the whole distribution")
    max_new_tokens: Count = Field(description="longest response; longer ones are cut and marked")
    shards: Count = Field(1, description="jobs that the pool is split into; the pool is the same for any number")
    batch_responses: Count = Field(512, description="responses that are sampled together")


def respond(
    prompts: Sequence[PoolPrompt], context: PoolContext, params: Params, *, shard: int, shards: int
) -> dict[str, list[PoolResponse]]:
    """Return the responses to the prompts of one shard (counted from 1), by prompt id, in sampling order."""
    from selfcontrast.generation import Sampling, plan_batches, sample_batch

    sampling = Sampling(params.max_new_tokens, params.temperature, params.top_p)
    per_batch = max(1, params.batch_responses // params.n_responses)
    batches = plan_batches([len(p.prompt_ids) for p in prompts], prompts_per_batch=per_batch)
    mine = batches[(shard - 1) * len(batches) // shards : shard * len(batches) // shards]
    eos = frozenset([int(context.renderer.tokenizer.eos_token_id)])
    responses = {}
    for batch in mine:
        chosen = [prompts[i] for i in batch]
        seeds = [[context.seed_of(p.prompt_id, j) for j in range(params.n_responses)] for p in chosen]
        sampled = sample_batch(context.policy(), [p.prompt_ids for p in chosen], seeds, sampling, eos_ids=eos)
        for prompt, answers in zip(chosen, sampled, strict=True):
            responses[prompt.prompt_id] = [
                PoolResponse(context.renderer.response_text(a.ids), a.ids, a.finish) for a in answers
            ]
    return responses
