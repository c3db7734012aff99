"""The keys of a study file about base models, how they are trained and how that fits a machine."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from selfcontrast import plugins
from selfcontrast.chat_heads import DEFAULT_DATE
from selfcontrast.schema.keys import Count, Fraction, Strict


def _iso_date(day: object) -> object:
    """Return a day in ISO form, for which YAML makes a date; raise ValueError for a text that is no day."""
    if isinstance(day, date) and not isinstance(day, datetime):
        return day.isoformat()
    if isinstance(day, str):
        date.fromisoformat(day)
    return day


Date = Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$"), BeforeValidator(_iso_date)]


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

    path: str | None = Field(
        None, description="folder or hub id of the checkpoint; `@` and a commit behind an id pin it"
    )
    scratch: Scratch | None = Field(None, description="train the base model from scratch on the pocket world")
    template: str = Field(
        "tokenizer", description="plug-in of selfcontrast/templates; `tokenizer` is the checkpoint's own chat template"
    )
    end_of_turn: Annotated[str, Field(min_length=1)] | None = Field(
        None,
        description="token that ends an answer under the checkpoint's own template, if it cannot be read from there",
    )
    template_date: Date = Field(
        DEFAULT_DATE, description="day on which prompts are rendered by a template that asks for the date (ISO)"
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
        if self.end_of_turn is not None and self.template != "tokenizer":
            raise ValueError(f"`end_of_turn` is for the checkpoint's own template; `{self.template}` has its own")
        return self
