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
    max_new_tokens: Count | None = Field(
        description="longest response; longer ones are cut and marked. null: what the model's context leaves"
    )
    shards: Count = Field(1, description="jobs that the pool is split into; the pool is the same for any number")
    batch_responses: Count = Field(
        512, description="responses that are sampled together; an interruption costs no more"
    )


def respond(
    prompts: Sequence[PoolPrompt], context: PoolContext, params: Params, *, shard: int, shards: int
) -> dict[str, list[PoolResponse]]:
    """Return the responses to the prompts of one shard (counted from 1), by prompt id, in sampling order."""
    from selfcontrast.sampling import Request, Sampling, sample_shard, text_ids

    request = Request(
        n=params.n_responses,
        seed_of=lambda i, j: context.seed_of(prompts[i].prompt_id, j),
        sampling=Sampling.within(params.max_new_tokens, params.temperature, params.top_p, context.max_length),
        eos_ids=context.stop_ids or context.renderer.stop_ids(),
        prompts_per_batch=max(1, params.batch_responses // params.n_responses),
        name_of=lambda i: f"prompt {prompts[i].prompt_id}",
    )
    ids = [p.prompt_ids for p in prompts]
    sampled = sample_shard(ids, request, context.sampler, shard=shard, shards=shards, chunks=context.chunks)
    text = context.renderer.response_text
    return {
        prompts[i].prompt_id: [PoolResponse(text(text_ids(a)), a.ids, a.finish) for a in answers]
        for i, answers in sampled.items()
    }
