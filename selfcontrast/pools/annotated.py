"""The data set's own rejected answers, for standard DPO on annotated pairs."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from selfcontrast.pools._context import PoolContext, PoolPrompt, PoolResponse
from selfcontrast.schema import Count, Strict

NEEDS_POLICY = False


class Params(Strict):
    """Parameters of the pool."""

    n_responses: Count = Field(
        1, description="rejected answers that are taken of a record, at most; best first where they are ranked"
    )
    shards: Count = 1


def respond(
    prompts: Sequence[PoolPrompt], context: PoolContext, params: Params, *, shard: int, shards: int
) -> dict[str, list[PoolResponse]]:
    """Return the annotated answers to the prompts of one shard (counted from 1), by prompt id."""
    mine = prompts[(shard - 1) * len(prompts) // shards : shard * len(prompts) // shards]
    ids = context.renderer.response_ids
    return {p.prompt_id: [PoolResponse(t, ids(t), "stop") for t in p.rejected[: params.n_responses]] for p in mine}
