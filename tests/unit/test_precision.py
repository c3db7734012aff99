"""Steps of a small learning rate reach weights that are stored in bfloat16, and the reference is the policy at step 0."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from selfcontrast import checkpoints, cli
from selfcontrast.checkpoints import load_model, training_dtype
from selfcontrast.config import parse_study
from selfcontrast.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import LlamaForCausalLM

ROOT = Path(__file__).resolve().parents[2]
STEPS = 200
LR = 2e-6
TRAINING = {"lr": LR, "batch": 2, "clip": 1.0, "shape": "constant", "warmup": 0.0, "ema": None, "lora": None}


def spec_of(precision: str, **training: Any) -> dict[str, Any]:
    return {
        "dtype": "bfloat16",
        "trust_remote_code": False,
        "n_steps": STEPS,
        "training": {**TRAINING, "precision": precision, **training},
    }


def share_of_weights_moved(folder: Path, model: LlamaForCausalLM, precision: str) -> float:
    """Train with this precision for STEPS steps of LR and return the share of the stored weights that differ."""
    import torch
    from transformers import PreTrainedTokenizerFast

    from selfcontrast.training.job import Job
    from selfcontrast.training.sft import Example, train_sft
    from selfcontrast.world.checkpoint import build_tokenizer

    tokenizer = build_tokenizer(max_length=64)
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    model.to(torch.bfloat16).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    spec = spec_of(precision)
    args = argparse.Namespace(threads=1, gradient_checkpointing=0, sharing="prefix", save_every=600.0, track="none")
    step = cli.Step(spec, folder / "manifest.json")
    job = Job.start(folder / "base", args, step)
    examples = [Example([1, 5, 6], [[7, 8, 2]]), Example([1, 9], [[10, 2]])]
    job.finish(train_sft(job.engine, examples, spec["training"], n_steps=STEPS, seed=0, tokens=None))
    before = load_model(folder / "base", dtype="bfloat16").state_dict()
    after = load_model(folder / "model", dtype="bfloat16").state_dict()
    large = {k: v.abs() > 0.01 for k, v in before.items()}  # those near 0 have a fine grid of their own
    moved = sum(int((before[k] != after[k])[large[k]].sum()) for k in before)
    return moved / sum(int(v.sum()) for v in large.values())


@pytest.mark.usefixtures("fresh_accelerate")
def test_float32_weights_under_bf16_take_small_steps(tmp_path: Path, llama: Callable[..., LlamaForCausalLM]) -> None:
    assert share_of_weights_moved(tmp_path, llama(spread=0.02), "bf16") > 0.1


@pytest.mark.usefixtures("fresh_accelerate")
def test_bfloat16_weights_round_small_steps_away(tmp_path: Path, llama: Callable[..., LlamaForCausalLM]) -> None:
    assert share_of_weights_moved(tmp_path, llama(spread=0.02), "weights") < 0.005


def test_frozen_weights_under_adapters_keep_their_type() -> None:
    assert training_dtype(spec_of("bf16", lora={"r": 4})) == "bfloat16"
    assert training_dtype(spec_of("bf16")) == "float32"
    assert training_dtype(spec_of("weights")) == "bfloat16"


@pytest.mark.parametrize("quantise", ["none", "nf4"])
def test_the_reference_is_quantised_as_the_policy_is(monkeypatch: pytest.MonkeyPatch, quantise: str) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(checkpoints, "load_model", lambda _, **options: asked.append(options))
    for lora in (None, {"r": 4, "quantise": quantise}):
        checkpoints.load_for_training("folder", spec_of("weights", lora=lora))
    assert [options["quantise"] for options in asked] == ["none", quantise]


def study(**changes: Any) -> dict[str, Any]:
    raw: dict[str, Any] = yaml.safe_load((ROOT / "config" / "smoke.yaml").read_text(encoding="utf-8"))
    raw["name"] = "smoke"
    raw["models"]["pocket"] |= changes.pop("model", {})
    raw["models"]["pocket"]["sft"] |= changes.pop("sft", {})
    raw["training"] |= changes.pop("training", {})
    assert not changes
    return raw


def test_training_that_rounds_its_steps_away_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"models\.pocket\.sft would train weights of bfloat16.*precision: bf16"):
        parse_study(study(model={"dtype": "bfloat16"}), where="here")
    both = {"precision": "bf16"}
    parse_study(study(model={"dtype": "bfloat16"}, sft=both, training=both), where="here")


def test_policy_and_reference_run_alike() -> None:
    for changes in ({"precision": "bf16"}, {"lora": {}}, {"lora": {"quantise": "nf4"}}):
        raw = study(training={"lora": {}} if changes.get("lora") else {})
        raw["methods"]["dpo"]["training"] = {**raw["training"], "lora": None, **changes}
        with pytest.raises(ConfigError, match=r"methods\.dpo\.training differs from `training` in `precision`"):
            parse_study(raw, where="here")
    parse_study(study(training={"lora": {"quantise": "nf4"}}), where="here")
