"""The keys of a study file: the only definition of their names, types, units and defaults.

Everything that changes a number is a key here; what belongs to the machine (cores, GPUs, partitions) is in profiles, and
secrets are environment variables.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from selfcontrast import plugins
from selfcontrast.judge_schema import Judge, Questions
from selfcontrast.keys import Count as Count
from selfcontrast.keys import Fraction as Fraction
from selfcontrast.keys import Id as Id
from selfcontrast.keys import Name as Name
from selfcontrast.keys import Plugin as Plugin
from selfcontrast.keys import Strict as Strict

WORLD_LAYOUTS = ("hh_rlhf", "ultrachat", "nectar")
"""Adaptors whose record layout the pocket world can write."""


class World(Strict):
    """How many dialogues of the pocket world a data set is drawn from; nothing is downloaded."""

    dialogues: Count = Field(description="dialogues to write, in the record layout of the adaptor")


class Splits(Strict):
    """How many prompts each split takes. A prompt is in one split only; `pool` is a part of `sft`."""

    sft: Count = Field(description="prompts whose targets the SFT model is trained on")
    pool: Count = Field(description="prompts that are answered for preference training: the first ones of `sft`")
    validation: Annotated[int, Field(ge=0)] = Field(description="held-out prompts on which settings may be chosen")
    test: Count = Field(description="held-out prompts that are reported")

    @model_validator(mode="after")
    def _pool_is_part_of_sft(self) -> Splits:
        if self.pool > self.sft:
            raise ValueError(f"`pool` ({self.pool}) is a part of `sft` ({self.sft}) and cannot be larger")
        return self


class ExpectedLengths(Strict):
    """Mean tokens of a data set as one expects them: for the plan alone, until they are measured."""

    prompt: float = Field(gt=0, description="tokens of a prompt")
    response: float = Field(gt=0, description="tokens of a response")


class Hub(Strict):
    """Files of a data set on the Hugging Face hub. A token for it is the environment variable HF_TOKEN, never a key."""

    repo: str | None = Field(None, description="owner/name; None: the repository whose layout the adaptor reads")
    revision: str = Field(
        min_length=1, description="commit of 40 hexadecimal digits; or a branch or tag, which may come to mean another"
    )
    subsets: tuple[str, ...] = Field((), description="parts of the data set by the adaptor's names; none: its default")
    files: tuple[str, ...] = Field((), description="instead of `subsets`: paths or patterns in the repository")

    @model_validator(mode="after")
    def _files_or_subsets(self) -> Hub:
        if self.files and self.subsets:
            raise ValueError("give `subsets` or `files`, not both")
        return self


class Dataset(Strict):
    """A data set: an adaptor and where its records come from."""

    adaptor: str = Field(description="plug-in of selfcontrast/datasets that reads the record layout")
    path: str | Annotated[tuple[str, ...], Field(min_length=1)] | None = Field(
        None, description="file of records, list of files, or folder; relative to where snakemake is started"
    )
    hub: Hub | None = Field(None, description="fetch the records from the Hugging Face hub")
    world: World | None = Field(None, description="draw the records from the pocket world instead of reading a file")
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = Field(
        None, description="hash that the contents of the files must have; for `path` and `hub`"
    )
    splits: Splits
    bad_records: Literal["error", "drop"] = Field(
        "error",
        description="what to do with a record that cannot be used (empty answer, prompts that differ, ...): stop with a "
        "message that names it, or leave it out and count it under its reason",
    )
    long_prompts: Literal["error", "drop"] = Field(
        "error",
        description="the same for a prompt that, with one of its answers, does not fit into the model's context",
    )
    lint: Literal["stop", "report"] = Field(
        "stop",
        description="what an error among the findings of the rule `lint` does: stop the run before training, or stand in the "
        "table alone",
    )

    models: tuple[Id, ...] | None = Field(
        None, description="ids under `models` that it is run with; all of them where it says nothing"
    )
    lengths: ExpectedLengths | None = Field(
        None, description="expected mean lengths, with which the plan reckons until the data set has been encoded"
    )

    @property
    def paths(self) -> tuple[str, ...]:
        """Return the files and folders of `path`; none where the records come from elsewhere."""
        if self.path is None:
            return ()
        return (self.path,) if isinstance(self.path, str) else self.path

    @model_validator(mode="after")
    def _one_source(self) -> Dataset:
        if sum(source is not None for source in (self.path, self.hub, self.world)) != 1:
            raise ValueError("give one of `path`, `hub` and `world`")
        if self.world is not None and self.sha256 is not None:
            raise ValueError("`sha256` is for `path` and `hub`; the pocket world is written anew")
        return self


class Lora(Strict):
    """Low-rank adapters (arXiv 2106.09685): they are trained instead of the weights, and merged into them at the end."""

    r: Count = Field(16, description="rank")
    alpha: float = Field(32.0, gt=0, description="scale of the adapters, divided by the rank")
    targets: str | tuple[str, ...] = Field("all-linear", description="names of the layers that get one")
    quantise: Literal["none", "nf4"] = Field(
        "none", description="nf4: the frozen weights in 4 bits (QLoRA, arXiv 2305.14314); needs bitsandbytes"
    )


class Optimisation(Strict):
    """How one training runs. Batches are counted in prompts."""

    lr: float = Field(gt=0, description="peak learning rate of AdamW")
    batch: Count = Field(description="prompts for each optimiser step, whatever the number of devices")
    epochs: float = Field(gt=0, description="passes over the prompts (may be a fraction)")
    shape: Literal["constant", "linear", "cosine"] = Field("cosine", description="learning rate after the warm-up")
    warmup: float = Field(0.0, ge=0, lt=1, description="share of the steps over which the learning rate rises")
    clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
    ema: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="end with the moving average of the weights with this decay"
    )
    precision: Literal["weights", "bf16"] = Field(
        "weights",
        description="train in the type of the model (`dtype`), or compute in bfloat16 and hold float32 weights, which end "
        "in that type",
    )
    lora: Lora | None = Field(None, description="train adapters instead of all weights")
    trainer: Literal["groups", "trl"] = Field(
        "groups",
        description="this project's trainer, or TRL's: SFTTrainer for SFT; DPOTrainer for the objective dpo, n = 1",
    )


class Scratch(Strict):
    """A small Llama that is trained from scratch on the pocket world, as the base model of the embedded study."""

    n_layers: Count = 3
    width: Count = 128
    n_heads: Count = 4
    max_length: Count = Field(128, description="context, in tokens")
    prompts: Count = Field(description="prompts it is trained on")
    answers: Count = Field(4, description="answers to each of them")
    share_good: Fraction = Field(
        0.25, description="share of the answers that are good; the others have one to three defects"
    )
    training: Optimisation


class Execution(Strict):
    """How training fits a machine: speed and memory, but for rounding not the numbers. A change reruns nothing."""

    sharing: Literal["prefix", "packed", "chosen", "none"] = Field(
        "prefix", description="what the responses of a prompt share while they run; see docs/performance.md"
    )
    tokens: Count | None = Field(
        None,
        description="tokens that a device runs together, padding counted; halved when memory runs out. None: a whole batch",
    )
    gradient_checkpointing: bool = Field(False, description="less memory for one more forward pass; not with `prefix`")
    save_every: Count = Field(600, description="seconds between two states from which a killed training goes on")
    track: Literal["none", "tensorboard", "trackio", "wandb"] = Field(
        "none",
        description="where every step of a training is sent, beside its own files; needs the package of that name",
    )
    strategy: Literal["ddp", "fsdp", "zero2", "zero3"] = Field(
        "ddp", description="how several GPUs divide the work: envs/accelerate/<strategy>.yaml"
    )

    @model_validator(mode="after")
    def _no_cache_under_checkpointing(self) -> Execution:
        if self.gradient_checkpointing and self.sharing == "prefix":
            raise ValueError("`gradient_checkpointing` drops the keys and values that `prefix` shares; use `packed`")
        return self


class Model(Strict):
    """A base model: a folder or hub id in the Hugging Face layout, or one trained from scratch."""

    path: str | None = Field(None, description="folder or hub id of the checkpoint")
    scratch: Scratch | None = Field(None, description="train the base model from scratch on the pocket world")
    template: str = Field(
        "tokenizer", description="plug-in of selfcontrast/templates; `tokenizer` is the checkpoint's own chat template"
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="type in which weights are stored, sampled and evaluated"
    )
    max_length: Count = Field(description="longest prompt plus response, in tokens")
    trust_remote_code: bool = Field(False, description="allow the checkpoint to bring code of its own")
    gpus: Annotated[int, Field(ge=0)] = Field(
        1, description="GPUs that a training asks for; 0 for models that a CPU core can run"
    )
    inference_gpus: Count = Field(
        1, description="GPUs that a job asks for that samples or scores with this model; none where `gpus` is 0"
    )
    backend: Literal["hf", "vllm"] = Field(
        "hf", description="software that samples pools and answers: transformers, or vLLM in an environment of its own"
    )
    execution: Execution = Field(Execution.model_validate({}), description="how training fits the machine")
    sft: Optimisation | None = Field(
        description="supervised fine-tuning on the targets of the split `sft`; null for a checkpoint that has had it"
    )

    @model_validator(mode="after")
    def _one_source(self) -> Model:
        if (self.path is None) == (self.scratch is None):
            raise ValueError("give either `path` or `scratch`")
        if self.template not in (known := plugins.names("templates")):
            raise ValueError(f"unknown template `{self.template}`; available: {', '.join(known)}")
        return self


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
