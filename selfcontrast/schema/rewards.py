"""The keys of a study file about reward models that the study trains."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from selfcontrast.schema.keys import Count, Id, Strict


class RewardTraining(Strict):
    """How a reward model is trained. Batches are counted in pairs."""

    lr: float = Field(gt=0, description="peak learning rate of AdamW")
    batch: Count = Field(16, description="pairs for each optimiser step")
    epochs: float = Field(1.0, gt=0, description="passes over the pairs (may be a fraction)")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps over which the learning rate rises")
    clip: float = Field(1.0, gt=0, description="largest norm of the gradient")


class RewardModel(Strict):
    """A reward model that the study trains from each SFT model, on pairs of pool answers that a scorer has graded."""

    pool: Id = Field(description="id under `pools`: whose answers it learns from, so never those to held-out prompts")
    labels: Id = Field(description="id under `scorers`: of two answers the one with the higher score is chosen")
    pairs: Count = Field(8, description="pairs of different texts with different labels, for each prompt, at most")
    held_out: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.125, description="share of the pool's prompts that it does not learn from, and on whose pairs it is checked"
    )
    training: RewardTraining
