"""Trainings by TRL: SFTTrainer and DPOTrainer as an independent check of this project's own, RewardTrainer for reward models.

TRL gets token ids, so that templates play no part, in the order in which this project's batches take them. It computes the
reference's log-probabilities by itself.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from selfcontrast.errors import InputError
from selfcontrast.finite import NotFiniteError, name_of_model, require_finite
from selfcontrast.training.groups import TokenGroup
from selfcontrast.training.loop import Schedule, at_step, name_batch, seeded_batches
from selfcontrast.training.sft import Example, make_schedule

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

History = list[dict[str, float]]


def train_dpo_with_trl(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    groups: Sequence[TokenGroup],
    training: dict[str, Any],
    *,
    beta: float,
    n_steps: int,
    seed: int,
    tokens: int | None = None,
) -> History:
    """Train ``model`` in place by TRL's DPOTrainer and return loss, gradient norm and learning rate of each step.

    A group of k negatives becomes k pairs, all in the same batch, so that the loss is the mean over negatives.

    Args:
        tokens: tokens that a device runs together; the rest of a batch is accumulated. None runs a batch at once.

    Raises:
        InputError: groups differ in their number of negatives; a batch of pairs would weigh them differently.
    """
    from trl import DPOConfig, DPOTrainer

    sizes = {len(g.responses) - 1 for g in groups}
    if len(sizes) > 1:
        raise InputError(
            "TRL's DPOTrainer needs the same number of negatives in every group",
            found=f"{min(sizes)} to {max(sizes)}",
            remedy="set `trainer: groups`",
        )
    k = sizes.pop()
    schedule = make_schedule(training, n_steps)
    rows = [
        {"prompt_ids": list(g.prompt_ids), "chosen_ids": list(g.responses[0]), "rejected_ids": list(rejected)}
        for g in _in_order(groups, schedule, seed)
        for rejected in g.responses[1:]
    ]

    longest = max(len(g.prompt_ids) + max(g.lengths) for g in groups)

    class TokenDPOTrainer(DPOTrainer):  # type: ignore[misc]  # TRL has no types
        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

    with tempfile.TemporaryDirectory() as folder:
        config = DPOConfig(
            **_arguments(folder, schedule, training, seed=seed),
            **_division(schedule.batch * k, longest=2 * longest, tokens=tokens),
            beta=beta,
            max_length=None,
            precompute_ref_log_probs=True,
        )
        return _run(TokenDPOTrainer, config, model, tokenizer, rows, schedule, _names(groups, schedule, seed))


def train_sft_with_trl(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    training: dict[str, Any],
    *,
    n_steps: int,
    seed: int,
    tokens: int | None = None,
) -> History:
    """Train ``model`` in place by TRL's SFTTrainer on the responses alone; returns as ``train_dpo_with_trl``."""
    from trl import SFTConfig, SFTTrainer

    schedule = make_schedule(training, n_steps)
    rows = [
        {
            "input_ids": [*e.prompt_ids, *response],
            "completion_mask": [0] * len(e.prompt_ids) + [1] * len(response),
        }
        for e in _in_order(examples, schedule, seed)
        for response in e.responses
    ]
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            **_arguments(folder, schedule, training, seed=seed),
            **_division(schedule.batch, longest=max(len(r["input_ids"]) for r in rows), tokens=tokens),
            max_length=None,
            completion_only_loss=True,
        )
        return _run(SFTTrainer, config, model, tokenizer, rows, schedule, _names(examples, schedule, seed))


def train_reward_with_trl(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[tuple[list[int], list[int]]],
    training: dict[str, Any],
    *,
    n_steps: int,
    seed: int,
    tokens: int | None = None,
) -> History:
    """Train a classifier with one label in place by TRL's RewardTrainer; returns as ``train_dpo_with_trl``.

    The loss of a pair is -log sigmoid(reward of the chosen - reward of the rejected answer), a batch's that of its pairs.

    Args:
        pairs: token ids of prompt and chosen, and of prompt and rejected answer.
        training: with the keys of ``RewardTraining``, and ``precision``.
    """
    from trl import RewardConfig, RewardTrainer

    whole = {"shape": "cosine", "lora": None, "ema": None, **training}
    schedule = make_schedule(whole, n_steps)
    rows = [{"chosen_ids": chosen, "rejected_ids": rejected} for chosen, rejected in _in_order(pairs, schedule, seed)]
    longest = max(len(row) for pair in pairs for row in pair)
    with tempfile.TemporaryDirectory() as folder:
        config = RewardConfig(
            **_arguments(folder, schedule, whole, seed=seed),
            **_division(schedule.batch, longest=2 * longest, tokens=tokens),
            max_length=None,
        )
        return _run(RewardTrainer, config, model, tokenizer, rows, schedule)


def _run(
    trainer_class: Any,
    config: Any,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[dict[str, Any]],
    schedule: Schedule,
    names: Sequence[Sequence[str]] = (),
) -> History:
    """Train and return the history.

    Args:
        names: of the prompts of each step, for messages.
    """
    from datasets import Dataset

    class Checked(trainer_class):  # type: ignore[misc]
        def log(self, logs: dict[str, Any], *args: Any, **kwargs: Any) -> None:
            step = self.state.global_step - 1
            try:
                whose = name_batch(names[step]) if step < len(names) else ""
                for name in ("loss", "grad_norm"):
                    require_finite([float(logs.get(name, 0.0))], f"`{name}` of TRL", whose)
            except NotFiniteError as error:
                losses = [record["loss"] for record in _history(self.state.log_history)]
                raise at_step(error, step, losses).but(model=name_of_model(model)) from None
            super().log(logs, *args, **kwargs)

    trainer = Checked(
        model,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        optimizers=_optimisers(model, schedule),
    )
    trainer.train()
    return _history(trainer.state.log_history)


def _batches(items: Sequence[Any], schedule: Schedule, seed: int) -> Iterator[list[int]]:
    return seeded_batches(len(items), batch=schedule.batch, n_steps=schedule.n_steps, seed=seed)


def _in_order(items: Sequence[Any], schedule: Schedule, seed: int) -> Iterator[Any]:
    for batch in _batches(items, schedule, seed):
        yield from (items[i] for i in batch)


def _names(items: Sequence[TokenGroup] | Sequence[Example], schedule: Schedule, seed: int) -> list[list[str]]:
    return [[items[i].prompt_id for i in batch] for batch in _batches(items, schedule, seed)]


def _arguments(folder: str, schedule: Schedule, training: dict[str, Any], *, seed: int) -> dict[str, Any]:
    """Return what both of TRL's configurations are given."""
    if training["lora"] or training["ema"]:
        raise InputError("`trainer: trl` knows neither `lora` nor `ema` here", remedy="set `trainer: groups`")
    return {
        "output_dir": folder,
        "max_steps": schedule.n_steps,
        "max_grad_norm": training["clip"],
        "train_sampling_strategy": "sequential",
        "bf16": training["precision"] == "bf16",
        "gradient_checkpointing": False,
        "use_cpu": not torch.cuda.is_available(),
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": seed % 2**32,
    }


def _division(batch: int, *, longest: int, tokens: int | None) -> dict[str, int]:
    """Return rows for each device and how often they are accumulated, for a batch of ``batch`` rows over all devices.

    Raises:
        InputError: the devices do not divide the batch.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if batch % world:
        raise InputError(
            "the batch cannot be divided over the processes",
            expected=f"a multiple of {world} rows",
            found=f"{batch} rows",
            remedy="change `batch` of the training, or `gpus` of the model",
        )
    mine = batch // world
    rows = next(d for d in range(mine, 0, -1) if mine % d == 0 and (tokens is None or d * longest <= tokens or d == 1))
    return {"per_device_train_batch_size": rows, "gradient_accumulation_steps": mine // rows}


def _optimisers(
    model: PreTrainedModel, schedule: Schedule
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    optimiser = torch.optim.AdamW(model.parameters(), lr=schedule.lr, weight_decay=0.0)
    rates = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: schedule.lr_at(step) / schedule.lr)
    return optimiser, rates


def _history(log_history: Sequence[dict[str, float]]) -> History:
    """Return the records of the steps, under the names of this project's own history."""
    steps = [r for r in log_history if "loss" in r and "learning_rate" in r]
    return [
        {"step": i, "loss": r["loss"], "grad_norm": float(r["grad_norm"]), "lr": r["learning_rate"]}
        for i, r in enumerate(steps)
    ]
