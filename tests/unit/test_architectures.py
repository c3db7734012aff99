"""Models that cannot be served end a run before its first job, with their name; rows that rotary scaling forbids do too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import LlamaConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM

from selfcontrast import __main__
from selfcontrast.architectures import check_architectures, longest_row
from selfcontrast.attention import check_length
from selfcontrast.config import STUDY_FOLDER, parse_study
from selfcontrast.errors import InputError
from selfcontrast.generation import sample_batch
from selfcontrast.logprobs import token_logps
from selfcontrast.sampling import Sampling
from selfcontrast.schema import Study

LONGROPE = {"type": "longrope", "long_factor": [4.0] * 4, "short_factor": [1.0] * 4}


def raw_study(path: str) -> dict[str, Any]:
    """Return the study `hh` with its checkpoint at ``path``; it trains no reward model."""
    raw = yaml.safe_load((STUDY_FOLDER / "hh.yaml").read_text(encoding="utf-8"))
    (model,) = raw["models"].values()
    model |= {"path": path, "max_length": 256}
    return {"name": "own", **raw}


def study_with(folder: Path, config: dict[str, Any]) -> Study:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return parse_study(raw_study(str(folder)), where="own.yaml")


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"model_type": "bert"}, "more than one matrix"),
        ({"model_type": "xlnet"}, "sees what comes after it"),
        ({"model_type": "bert-generation"}, "sees what comes after it"),
        ({"model_type": "t5", "is_encoder_decoder": True}, "encoder with a decoder"),
        ({"model_type": "vit"}, "neither"),
        ({"model_type": "of-next-year"}, "neither"),
    ],
)
def test_model_that_cannot_be_served_is_refused_from_its_configuration(
    tmp_path: Path, config: dict[str, Any], found: str
) -> None:
    with pytest.raises(InputError, match=rf"architecture `{config['model_type']}` cannot be served[\s\S]*{found}"):
        check_architectures(study_with(tmp_path / "own", config))


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "mistral", "sliding_window": 32},
        {"model_type": "mamba"},
        {"model_type": "llama4_text"},
        {"model_type": "bert-generation", "is_decoder": True},
        {"model_type": "of-next-year", "auto_map": {"AutoModelForCausalLM": "own.Model"}},
        {"model_type": "phi3", "rope_scaling": LONGROPE, "original_max_position_embeddings": 256},
    ],
)
def test_model_that_can_be_served_passes(tmp_path: Path, config: dict[str, Any]) -> None:
    check_architectures(study_with(tmp_path / "own", config))


def test_model_that_no_folder_and_no_cache_has_is_left_to_its_job() -> None:
    check_architectures(parse_study(raw_study("nobody/nothing"), where="own.yaml"))


def test_check_ends_with_the_name_of_a_model_that_cannot_be_served(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    study_with(tmp_path / "own", {"model_type": "roberta"})
    raw = raw_study(str(tmp_path / "own"))
    for data in raw["datasets"].values():
        data["path"] = str(tmp_path / "records.jsonl")
        data.pop("hub", None)
    (tmp_path / "records.jsonl").write_text("{}\n")
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({k: v for k, v in raw.items() if k != "name"}))
    monkeypatch.setattr(__main__, "check_checkpoints", lambda _: None)  # the folder has no weights
    assert __main__.main(["check", str(tmp_path / "own.yaml")]) == 2
    assert "architecture `roberta` cannot be served" in capsys.readouterr().err


def test_config_that_is_no_json_is_told(tmp_path: Path) -> None:
    study = study_with(tmp_path / "own", {"model_type": "llama"})
    (tmp_path / "own" / "config.json").write_text("{")
    with pytest.raises(InputError, match="of a checkpoint is not valid JSON"):
        check_architectures(study)


# Rotary scaling that depends on the longest row


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        (
            {
                "rope_scaling": {"type": "longrope"},
                "original_max_position_embeddings": 4096,
                "max_position_embeddings": 9,
            },
            4096,
        ),
        ({"rope_scaling": {"type": "su", "original_max_position_embeddings": 5}}, 5),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}, "max_position_embeddings": 2048}, 2048),
        ({"text_config": {"rope_parameters": {"rope_type": "dynamic"}, "max_position_embeddings": 7}}, 7),
        ({"rope_parameters": {"full_attention": {"rope_type": "dynamic"}}, "max_position_embeddings": 8}, 8),
        ({"rope_parameters": {"rope_type": "llama3", "original_max_position_embeddings": 8}}, None),
        ({"rope_parameters": {"rope_type": "yarn", "original_max_position_embeddings": 8}}, None),
        ({"rope_scaling": None, "max_position_embeddings": 8}, None),
        ({"model_type": "llama", "max_position_embeddings": 8}, None),
        ({"model_type": "gpt2", "n_positions": 1024, "n_ctx": 1024}, 1024),
        ({"model_type": "opt", "max_position_embeddings": 2048}, 2048),
        ({"model_type": "gpt_neox", "max_position_embeddings": 2048}, None),
        ({"model_type": "gpt2"}, None),
        ({}, None),
    ],
)
def test_longest_row_by_hand(config: dict[str, Any], limit: int | None) -> None:
    assert longest_row(config) == limit


def test_context_beyond_the_scaling_is_refused_before_the_first_job(tmp_path: Path) -> None:
    config = {"model_type": "phi3", "rope_scaling": LONGROPE, "original_max_position_embeddings": 255}
    with pytest.raises(InputError, match=r"at most 255 tokens[\s\S]*256 tokens[\s\S]*models\.\w+\.max_length"):
        check_architectures(study_with(tmp_path / "own", config))


def test_context_beyond_a_table_of_positions_is_refused_before_the_first_job(tmp_path: Path) -> None:
    check_architectures(study_with(tmp_path / "own", {"model_type": "gpt2", "n_positions": 256}))
    with pytest.raises(InputError, match=r"no positions[\s\S]*at most 255 tokens[\s\S]*256 tokens[\s\S]*max_length"):
        check_architectures(study_with(tmp_path / "own", {"model_type": "gpt2", "n_positions": 255}))


SIZES: dict[str, Any] = {
    **{"vocab_size": 23, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4},
    **{"max_position_embeddings": 64, "pad_token_id": 0, "initializer_range": 0.4},
}


@pytest.fixture(params=["longrope", "dynamic"])
def scaled(request: pytest.FixtureRequest) -> Any:
    """Return a model whose positions change when a row of the batch has more than 8 tokens."""
    torch.manual_seed(0)
    if request.param == "longrope":
        rope = {"rope_type": "longrope", "rope_theta": 10000.0, "long_factor": [4.0] * 4, "short_factor": [1.0] * 4}
        config = Phi3Config(**SIZES, original_max_position_embeddings=8, rope_parameters=rope)
        return Phi3ForCausalLM(config).eval()
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
    return LlamaForCausalLM(LlamaConfig(**SIZES | {"max_position_embeddings": 8}, rope_parameters=rope)).eval()


@torch.no_grad()
def test_row_beyond_the_scaling_would_change_its_company(scaled: Any) -> None:
    """Why it is refused: the first 6 tokens of a row have other logits in a row of 12."""
    row = torch.arange(3, 15)[None]
    short, long = scaled(row[:, :6]).logits, scaled(row).logits[:, :6]
    assert (short - long).abs().max() > 1e-3


@torch.no_grad()
def test_rows_up_to_the_limit_are_served_and_longer_ones_refused(scaled: Any) -> None:
    check_length(scaled, 8)
    token_logps(scaled, [[3] * 5], [[[4, 5, 6]]], sharing="chosen")
    with pytest.raises(InputError, match="rotary scaling"):
        token_logps(scaled, [[3] * 5], [[[4, 5, 6, 7]]], sharing="chosen")
    sample_batch(scaled, [[3] * 5], [[0]], Sampling(3, temperature=0), eos_ids=frozenset())
    with pytest.raises(InputError, match="rotary scaling"):
        sample_batch(scaled, [[3] * 5], [[0]], Sampling(4, temperature=0), eos_ids=frozenset())
