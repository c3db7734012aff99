"""What the training steps share: from a checkpoint to an engine, and from a trained engine to a checkpoint."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import shutil
import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from selfcontrast import artifacts, cli
from selfcontrast.attention import check_model
from selfcontrast.checkpoints import fit_to_tokenizer, load_for_training, load_tokenizer, save_checkpoint
from selfcontrast.logprobs import Sharing, supported_sharing
from selfcontrast.rendering import renderer_of_base, settings_of
from selfcontrast.threads import use_threads
from selfcontrast.training.adapters import add_adapters, merge_adapters
from selfcontrast.training.deepspeed import DeepSpeedEngine
from selfcontrast.training.engine import Engine
from selfcontrast.training.monitor import Monitor
from selfcontrast.training.state import Checkpoints

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)


def fit_to_template(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, step: cli.Step, *, where: str
) -> list[int]:
    """Give a base model and its tokenizer, in place, what the chat template needs, and return the ids of new tokens.

    Args:
        step: its spec has ``template`` and what the study says of it; it joins the template.

    Raises:
        InputError: a token of the template has no embedding and is not new, or what ``prepare_tokenizer`` raises.
    """
    before = tokenizer.eos_token_id
    rows = model.get_input_embeddings().weight.shape[0]
    renderer = renderer_of_base(tokenizer, step.spec["template"], rows=rows, **settings_of(step.spec))
    renderer.check_rows()
    step.join_template(renderer.digest, where=where)
    new_tokens = sorted(renderer.rows.added)
    fit_to_tokenizer(model, tokenizer, new_tokens, stops=[] if before is None else [before], among=renderer.stop_ids)
    return new_tokens


@dataclass
class Job:
    """One training of one checkpoint.

    Attributes:
        model: the language model, with adapters in it where the training asks for them.
    """

    step: cli.Step
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    args: argparse.Namespace
    adapted: PeftModel | None = None
    started: float = field(default_factory=time.monotonic)

    @classmethod
    def start(
        cls, checkpoint: str | Path, args: argparse.Namespace, step: cli.Step, *, template: str | None = None
    ) -> Job:
        """Load the checkpoint that a step trains.

        Args:
            args: with the flags of ``cli.add_execution_flags``.
            step: its spec has ``dtype``, ``trust_remote_code`` and ``training``.
            template: chat template for which a base model is prepared; None for a model that is.
        """
        use_threads(args.threads)
        code, lora = step.spec["trust_remote_code"], step.spec["training"]["lora"]
        model = load_for_training(checkpoint, step.spec)
        check_model(model)
        tokenizer = load_tokenizer(checkpoint, trust_remote_code=code)
        new_tokens = []
        if template is not None:
            new_tokens = fit_to_template(model, tokenizer, step, where=str(checkpoint))
        adapted = add_adapters(model, lora, new_tokens=new_tokens) if lora else None
        return cls(step, model, tokenizer, args, adapted)

    @cached_property
    def engine(self) -> Engine:
        """Return the engine of this project's trainer; TRL brings its own."""
        training = self.step.spec["training"]
        kind = DeepSpeedEngine if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true" else Engine
        return kind(
            self.model,
            precision=training["precision"],
            clip=training["clip"],
            gradient_checkpointing=bool(self.args.gradient_checkpointing),
        )

    @property
    def store(self) -> Checkpoints | None:
        """Return where a killed training goes on from; None under DeepSpeed."""
        if not self.engine.has_tensors:
            log.info("DeepSpeed holds the weights: a training that is killed starts from its beginning")
            return None
        identity = [self.step.spec, self.step.inputs, getattr(self.args, "seed", None)]
        key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        return Checkpoints(self._state_folder, key, every_s=self.args.save_every)

    def monitor(self) -> Monitor:
        """Return what takes note of every step."""
        n_steps, track = self.step.spec["n_steps"], self.args.track
        return Monitor(self.engine, self.step.folder, n_steps=n_steps, track=track)

    @property
    def _state_folder(self) -> Path:
        return self.step.folder / ".state"

    def sharing(self, longest_row: int) -> Sharing:
        """Return how the responses of a prompt run, given the longest prompt with its response."""
        return supported_sharing(self.model, self.args.sharing, longest_row=longest_row)

    def finish(self, history: list[dict[str, float]]) -> None:
        """Write model/ in the model's type and history.jsonl, note what the training cost, and drop the stored state."""
        import torch

        dtype = getattr(torch, self.step.spec["dtype"])

        self.step.cost |= {"training_s": round(time.monotonic() - self.started, 2)}
        if torch.cuda.is_available():
            self.step.cost |= {"peak_gpu_mb": torch.cuda.max_memory_allocated() // 2**20}
        divided = "engine" in vars(self) and not self.engine.is_whole
        state = self.engine.save_weights() if divided else None
        model = merge_adapters(self.adapted) if self.adapted is not None else self.model
        if cli.is_first_process():
            artifacts.write_jsonl(self.step.folder / "history.jsonl", history)
            self.step.add_output("history.jsonl")
            state = {k: v.to(dtype) for k, v in state.items()} if state else None
            save_checkpoint(self.step.folder / "model", model.to(dtype), self.tokenizer, state=state)
            self.step.add_output("model")
            shutil.rmtree(self._state_folder, ignore_errors=True)
