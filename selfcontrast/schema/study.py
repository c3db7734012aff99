"""The keys of a study file: the study itself, its methods, comparison, evaluation and figures."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from selfcontrast.schema.benchmarks import Benchmark
from selfcontrast.schema.data import Dataset
from selfcontrast.schema.judges import Judge, Questions
from selfcontrast.schema.keys import Count, Fraction, Id, Name, Plugin, Strict
from selfcontrast.schema.models import Model, Optimisation
from selfcontrast.schema.rewards import RewardModel


class Sweep(Strict):
    """Selections times numbers of negatives of one method."""

    selections: Annotated[tuple[Id, ...], Field(min_length=1)] = Field(description="ids under `selections`")
    n: Annotated[tuple[Count, ...], Field(min_length=1)] = Field(description="numbers of negatives")
    training: Optimisation | None = Field(None, description="instead of the method's `training`")


class Method(Strict):
    """A method is a point in the space pool x selection x n x objective: configuration, not code."""

    train: bool = Field(True, description="false: the SFT model itself, as the baseline")
    sweeps: tuple[Sweep, ...] = Field((), description="which selections, with how many negatives")
    objective: Plugin = Field(Plugin(kind="dpo"), description="loss of a group: plug-in of selfcontrast/objectives")
    sft_weight: float = Field(
        0.0,
        ge=0,
        description="factor of an SFT term beside any objective: mean -log p of a token of the chosen response",
    )
    training: Optimisation | None = Field(None, description="instead of the study's `training`")

    @model_validator(mode="after")
    def _sweeps_if_trained(self) -> Method:
        if self.train != bool(self.sweeps):
            raise ValueError("a method that trains needs `sweeps`; one with `train: false` has none")
        return self


class Comparison(Strict):
    """The hidden variables of the scaling claim, made explicit."""

    prompt_set: Literal["common", "per_n"] = Field(
        description="common: every n trains on the prompts that have enough candidates for `common_n`; "
        "per_n: on all that have enough for n, so that the set shrinks as n grows (the reference code)"
    )
    common_n: Count = Field(1, description="n that a prompt must be able to serve under `common`; larger n need more")
    negatives: Literal["nested", "independent"] = Field(
        description="nested: the negatives for n are the first n of one random order; independent: drawn anew for each n"
    )
    budget: Literal["equal_steps", "equal_pairs", "equal_flops"] = Field(
        description="what is kept equal over n: optimiser steps of the same number of prompts (so that pairs grow with n), "
        "chosen-rejected pairs, or the floating-point operations of a training step (n + 1 responses a prompt)"
    )
    budget_n: Count = Field(1, description="n whose pairs or FLOPs every other n is given")


class Evaluation(Strict):
    """How policies are evaluated: sampled answers to held-out prompts, scored by `judge`."""

    split: Literal["validation", "test"] = Field("test", description="held-out split that is reported")
    samples: Count = Field(1, description="answers of each policy to each prompt, for each seed")
    judge: Id = Field(description="id under `scorers` that decides what is better")
    scorers: tuple[Id, ...] = Field(
        (),
        description="ids under `scorers` that score every answer beside `judge`, as proxies that are compared with it",
    )
    target_wins: bool = Field(
        True, description="report the win rate against the SFT target; false where the judge scores likeness to it"
    )
    temperature: float = Field(1.0, ge=0)
    top_p: Fraction = 1.0
    max_new_tokens: Count | None = Field(description="longest answer, in tokens; null: what the model's context leaves")
    batch_responses: Count = Field(256, description="responses that are sampled together")
    bootstrap: Annotated[int, Field(ge=100)] = Field(5000, description="resamples behind each interval")
    compare_to: tuple[str, ...] = Field((), description="arms with which every other arm is compared, prompt by prompt")
    questions: dict[Id, Questions] = Field({}, description="benchmarks that every arm answers beside the split")
    judges: dict[Id, Judge] = Field({}, description="language models that judge answers, beside the scorer `judge`")
    benchmarks: dict[Id, Benchmark] = Field({}, description="tasks of lm-evaluation-harness that every arm is run on")


class SimilarityFigure(Strict):
    """Which scores of which pool are plotted against the judge's."""

    pool: Id = Field(description="id under `pools`")
    scorer: Id = Field(description="id under `scorers`")


class GradientFigure(Strict):
    """Of which pairs the variance of the gradient is measured, at the SFT model: a backward pass for each response."""

    pool: Id = Field(description="id under `pools`")
    prompts: int = Field(32, ge=2, description="prompts, drawn at random from those with enough responses")
    negatives: int = Field(16, ge=4, multiple_of=2, description="responses to each; n goes up to half of them")


class Figures(Strict):
    """What the figures show."""

    scaling: str = Field(description="`method-selection` whose arms form the curve over n")
    lines: tuple[str, ...] = Field((), description="arms shown as horizontal lines beside the curve")
    ablation_n: Count = Field(description="n at which the selections are compared")
    similarity: SimilarityFigure | None = Field(None, description="plot a scorer against the judge over a pool")
    gradient: GradientFigure | None = Field(None, description="measure the variance of the gradient over n")
    truth: Id | None = Field(None, description="scorer that tells false negatives; else one of kind `grade`, if any")


class Study(Strict):
    """A whole study."""

    name: Name = Field(description="name of the folder under results/; the file's name without .yaml")
    description: str = Field(description="one sentence for the report")
    seed: int = Field(description="root of every random stream")
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = Field(
        description="training seeds: each repeats selection, training, evaluation"
    )
    keep_policies: bool = Field(False, description="keep the weights of the arms after their evaluation")
    datasets: Annotated[dict[Id, Dataset], Field(min_length=1)]
    models: Annotated[dict[Id, Model], Field(min_length=1)]
    pools: dict[Id, Plugin] = Field(description="which responses there are to choose from")
    scorers: dict[Id, Plugin] = Field({}, description="one number for each response of a pool")
    reward_models: dict[Id, RewardModel] = Field({}, description="reward models that the study trains, for scorers")
    selections: dict[Id, Plugin] = Field(description="which responses become chosen and rejected")
    methods: Annotated[dict[Id, Method], Field(min_length=1)]
    training: Optimisation = Field(description="preference training of every method, unless it has its own")
    comparison: Comparison
    evaluation: Evaluation
    figures: Figures

    @model_validator(mode="after")
    def _seeds_differ(self) -> Study:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("`seeds` has a seed twice")
        return self
