"""Every token id that a step puts before a model has a row in its embedding; what has none is named before anything trains."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from test_templates_in_steps import TOKENIZER, Chain
from tiny_tokenizers import byte_tokenizer
from tokenizers import AddedToken

from selfcontrast import artifacts, cli
from selfcontrast.__main__ import main
from selfcontrast.checkpoints import (
    embedding_rows,
    fit_to_tokenizer,
    load_model,
    load_tokenizer,
    save_checkpoint,
    stated_ends,
)
from selfcontrast.errors import InputError
from selfcontrast.linting.tokenizers import check_tokenizers
from selfcontrast.records import Answer, PromptPool
from selfcontrast.rendering import Renderer, renderer_of_base
from selfcontrast.schema import Model
from selfcontrast.scorers import reward
from selfcontrast.steps import gather_pool
from selfcontrast.token_rows import Rows
from selfcontrast.training.job import fit_to_template
from selfcontrast.world.checkpoint import CHAT_TEMPLATE, build_model, build_tokenizer

ROWS = 150
"""Tokens of the pocket world, and rows of its models."""


def with_tokens(folder: str | Path, *added: AddedToken, **special: str) -> Any:
    """Give the tokenizer of a checkpoint more tokens than the model has rows for, from id 150 on."""
    tokenizer = load_tokenizer(folder)
    tokenizer.add_tokens(list(added))
    for role, token in special.items():
        setattr(tokenizer, role, token)
    tokenizer.save_pretrained(folder)
    return tokenizer


def told(chain: Chain, capsys: pytest.CaptureFixture[str], **change: Any) -> str:
    capsys.readouterr()
    with pytest.raises(StopIteration, match="2"):
        chain.encode(**change)
    return capsys.readouterr().err


def test_a_token_of_the_data_without_a_row_is_named_with_its_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Prompts end with their number; the tokenizer knows 3 as a token of its own, the model does not."""
    chain = Chain(tmp_path, "tokenizer")
    with_tokens(chain.base, AddedToken("3", special=False), AddedToken("<image>", special=True))
    error = told(
        chain, capsys, bad_records="drop", long_prompts="drop"
    )  # an error all the same: other texts may follow
    assert "makes a token that the model has no embedding for" in error
    assert "expected: ids below 150" in error
    assert "found: 3 (id 150)" in error
    assert "where: row 4 of chat.jsonl" in error
    assert "resize_token_embeddings" in error


@pytest.mark.parametrize("field", ["target", "rejected"])
def test_answers_are_looked_at_too(field: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chain = Chain(tmp_path, "tokenizer")
    with_tokens(chain.base, AddedToken("Oslo" if field == "target" else "No", special=False))
    assert "(id 150)" in told(chain, capsys)


@pytest.mark.parametrize("role", ["bos_token", "pad_token", "unk_token", "eos_token"])
def test_special_tokens_without_a_row_are_named(role: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chain = Chain(tmp_path, "dialogue")
    with_tokens(chain.base, AddedToken("[X]", special=True), **{role: "[X]"})
    assert f"[X] ({role}, id 150)" in told(chain, capsys)


def test_a_token_of_the_checkpoint_s_own_template_without_a_row_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In both steps: the tokenizer may change between them."""
    chain = Chain(tmp_path, "tokenizer")
    chain.encode()
    tokenizer = with_tokens(chain.base, AddedToken("<go>", special=True))
    tokenizer.chat_template = CHAT_TEMPLATE + "{{ '<go>' }}"
    tokenizer.save_pretrained(chain.base)
    for step in (chain.sft, chain.adopt, chain.encode):
        with pytest.raises(StopIteration, match="2"):
            step()
        assert "found: <go> (id 150)" in capsys.readouterr().err


def test_tokens_that_nothing_uses_need_no_row(tmp_path: Path) -> None:
    """Gemma 3's tokenizer has one for images behind the rows of its text model."""
    chain = Chain(tmp_path, "tokenizer")
    with_tokens(chain.base, AddedToken("<image>", special=True))
    assert chain.encode()["report"]["new_tokens"] == 0
    chain.sft()
    assert load_model(tmp_path / "sft" / "model", dtype="float32").config.vocab_size == ROWS


def test_tokens_of_a_named_template_get_rows_though_the_tokenizer_has_them(tmp_path: Path) -> None:
    """<image> 150 has no row and is unused, <|im_start|> 151 is in the tokenizer, <|im_end|> 152 is new."""
    chain = Chain(tmp_path, "chatml")
    with_tokens(chain.base, AddedToken("<image>", special=True), AddedToken("<|im_start|>", special=True))
    assert chain.encode()["report"]["new_tokens"] == 2
    chain.adopt()
    model = load_model(tmp_path / "sft" / "model", dtype="float32")
    assert model.config.vocab_size == 153
    weight, base = (m.get_input_embeddings().weight for m in (model, load_model(chain.base, dtype="float32")))
    assert torch.equal(weight[:150], base)
    assert torch.equal(weight[150:], base.mean(0).expand(3, -1))  # the row between too: no random numbers


def test_rows_between_are_the_same_in_every_process() -> None:
    models = [build_model(n_layers=1, width=16, n_heads=2, max_length=64, seed=0) for _ in range(2)]
    for i, model in enumerate(models):
        torch.manual_seed(i)
        fit_to_tokenizer(model, build_tokenizer(max_length=64), [155])
    assert all(torch.equal(v, models[1].state_dict()[k]) for k, v in models[0].state_dict().items())


def test_rows_are_those_of_the_configuration(tmp_path: Path) -> None:
    chain = Chain(tmp_path, "tokenizer")
    assert embedding_rows(chain.base) == ROWS
    assert embedding_rows(tmp_path) is None
    assert Rows(None).lacking([10**9]) == []
    assert Rows(10, frozenset([11])).lacking([9, 10, 11, 12, 10]) == [10, 12]


def test_a_model_is_compared_by_its_real_rows(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(max_length=64)
    tokenizer.add_tokens([AddedToken("<go>", special=True)])
    tokenizer.chat_template = CHAT_TEMPLATE + "{{ '<go>' }}"
    model = build_model(n_layers=1, width=16, n_heads=2, max_length=64, seed=0)
    step = cli.Step({"template": "tokenizer"}, tmp_path / "manifest.json")
    with pytest.raises(InputError, match="no embedding"):
        fit_to_template(model, tokenizer, step, where="here")


def test_a_reward_model_is_asked_about_no_token_without_a_row(tmp_path: Path) -> None:
    from transformers import LlamaForSequenceClassification

    config = build_model(n_layers=1, width=16, n_heads=2, max_length=64, seed=0).config
    config.num_labels = 1
    LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer = build_tokenizer(max_length=64)
    tokenizer.add_tokens([AddedToken("Oslo", special=False)])
    tokenizer.save_pretrained(tmp_path)
    pools = [PromptPool("p", "Rome.", (Answer("own.0", "Rome."), Answer("own.1", "Oslo.")))]
    with pytest.raises(InputError, match=r"found: Oslo \(id 150\)") as error:
        reward.score(pools, ["Hello!"], reward.Params(model=str(tmp_path)), Counter())
    assert "where: prompt p, read by" in str(error.value)


def test_questions_of_a_benchmark_are_compared_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chain = Chain(tmp_path, "tokenizer")
    with_tokens(chain.base, AddedToken("Hello", special=False))
    model = load_model(chain.base, dtype="float32")
    save_checkpoint(tmp_path / "sft" / "model", model, load_tokenizer(chain.base))
    artifacts.write_json(tmp_path / "sft" / "spec.json", {"dtype": "float32", "trust_remote_code": False})
    outputs = {"model": artifacts.sha256(tmp_path / "sft" / "model")}
    artifacts.write_json(tmp_path / "sft" / "manifest.json", {"outputs": outputs, "report": {}})
    chain.arm = "sft"
    with pytest.raises(StopIteration, match="2"):
        chain.answer()
    error = capsys.readouterr().err
    assert "found: Hello (id 150)" in error
    assert "where: question 1 of" in error


# Before a run


def records(folder: Path) -> str:
    rows = [{"prompt": "Where does Mira live?", "response": f"Mira lives in Oslo {i}."} for i in range(3)]
    artifacts.write_jsonl(folder / "rows.jsonl", rows)
    return str(folder / "rows.jsonl")


def test_lint_of_a_file_compares_with_the_rows_of_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = Chain(tmp_path, "tokenizer").base
    flags = ["lint", records(tmp_path), "--adaptor", "jsonl"]
    main([*flags, "--model", base])
    assert "no embedding" not in capsys.readouterr().out
    with_tokens(base, AddedToken("2", special=False), AddedToken("[PAD]", special=True), pad_token="[PAD]")
    assert main([*flags, "--model", base]) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if "no embedding" in line]
    assert len(lines) == 2
    assert "special tokens" in lines[0]
    assert "[PAD] (pad_token, id 151)" in lines[0]
    assert "row 3: id 150; the model has 150 rows" in lines[1]
    main([*flags, "--tokenizer", base])
    assert "rows of the model's embedding are not known" in capsys.readouterr().out


def test_check_looks_at_checkpoints_in_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import yaml

    base = Chain(tmp_path, "tokenizer").base
    smoke = yaml.safe_load((Path(__file__).resolve().parents[2] / "config" / "smoke.yaml").read_text(encoding="utf-8"))
    smoke["models"]["pocket"].pop("scratch")
    smoke["models"]["pocket"]["path"] = base
    study = tmp_path / "own.yaml"
    study.write_text(json.dumps(smoke), encoding="utf-8")
    assert main(["check", str(study)]) == 0
    with_tokens(base, AddedToken("[PAD]", special=True), pad_token="[PAD]")
    assert main(["check", str(study)]) == 2
    assert "[PAD] (pad_token, id 150)" in capsys.readouterr().err


def test_check_asks_no_hub() -> None:
    model = Model.model_validate({"path": "owner/name", "max_length": 8, "sft": None})
    check_tokenizers(type("Study", (), {"models": {"hub": model}})())  # type: ignore[arg-type]


# Rows without a token


def test_sampled_ids_that_are_no_token_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    """Embeddings are often padded; a model that has not been trained on the spare rows may sample them."""
    tokenizer = byte_tokenizer()
    renderer = Renderer(tokenizer, "dialogue")
    assert renderer.response_text([*b"ok", 257]) == "ok"
    assert renderer.unreadable() == {}
    assert renderer.response_text([111, 300, 107, 258]) == "ok"
    assert renderer.unreadable() == {"ids_without_token": 2}
    assert "2 sampled ids are no tokens of the tokenizer" in caplog.text


def test_the_steps_report_them(tmp_path: Path) -> None:
    """A model with 400 rows and random weights samples spare ones; the manifest of the pool says how often."""
    from transformers import LlamaForCausalLM

    chain = Chain(tmp_path, "tokenizer")
    torch.manual_seed(0)
    config = build_model(n_layers=1, width=16, n_heads=2, max_length=512, seed=0).config
    config.vocab_size = 400
    save_checkpoint(Path(chain.base), LlamaForCausalLM(config), TOKENIZER)
    chain.encode()
    chain.adopt()
    pool = chain.pool(max_new_tokens=8)
    ids = [i for row in chain.table("pool", "responses.parquet")["response_ids"] for i in row]
    spare = sum(i >= ROWS for i in ids)
    assert spare > 0
    assert pool["report"]["ids_without_token"] == spare
    assert stated_ends(tmp_path / "sft" / "model") == [2]
    chain.arm = "sft"
    assert chain.respond(max_new_tokens=8)["report"]["ids_without_token"] > 0
    assert gather_pool.UNREADABLE == "ids_without_token"


def test_a_renderer_that_knows_no_rows_refuses_nothing() -> None:
    renderer_of_base(byte_tokenizer(), "chatml").check_rows()
