"""Trained reward models: they learn what can be learned, no more, the same bytes twice, and scorers read them as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from selfcontrast import artifacts, cli
from selfcontrast.config import load_study, parse_study
from selfcontrast.errors import ConfigError
from selfcontrast.records import TARGET
from selfcontrast.seeds import derive_seed
from selfcontrast.steps import score, score_arms, train_reward
from selfcontrast.world.checkpoint import build_model, build_tokenizer

N_PROMPTS, N_ANSWERS = 40, 6
SPEC = {
    "dtype": "float32",
    "trust_remote_code": False,
    "max_length": 64,
    "pairs": 6,
    "held_out": 0.25,
    "training": {"lr": 3e-3, "batch": 16, "epochs": 3.0, "warmup": 0.1, "clip": 1.0, "precision": "weights"},
    "seed": 5,
}
GOOD, BAD = ("Tom lives in Rome.", "Sure! Rome it is."), ("Tom plays golf.", "golf golf golf", "No idea.", "Tom")


@pytest.fixture(autouse=True)
def _in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "_end_with_parent", lambda: None)
    monkeypatch.setattr(cli, "_limit_threads", lambda threads: None)


def write_step(folder: Path, tables: dict[str, dict[str, list[Any]]], **extra: Any) -> Path:
    outputs = {}
    for name, columns in tables.items():
        artifacts.write_table(folder / name, columns)
        outputs[name] = artifacts.sha256(folder / name)
    artifacts.write_json(folder / "manifest.json", {"outputs": outputs, "report": {}, **extra})
    return folder / "manifest.json"


def world(root: Path, *, shuffled: bool = False) -> dict[str, Path]:
    """Write prompts, a pool, its labels and a model; labels follow the text, or a number of its prompt's own."""
    ids = [f"p{i}" for i in range(N_PROMPTS)]
    texts = [*GOOD, *BAD]
    split = {"prompt_id": ids, "prompt": [f"Tom lives in Rome. Where does Tom live {i}?" for i in range(N_PROMPTS)]}
    held_out = {"prompt_id": ["v0"], "prompt": [split["prompt"][0]]}
    prompts = {"pool.parquet": {**split, "target": ["Rome."] * N_PROMPTS}}
    prompts |= {f"{name}.parquet": {**held_out, "target": ["Rome."]} for name in ("validation", "test")}
    rows = [(p, f"sft.{k}", texts[k]) for p in ids for k in range(N_ANSWERS)]
    good = [derive_seed(0, p, r) / 2**63 if shuffled else float(text in GOOD) for p, r, text in rows]
    keys = {"prompt_id": [r[0] for r in rows], "response_id": [r[1] for r in rows]}
    model = root / "sft" / "model"
    build_model(n_layers=2, width=32, n_heads=2, max_length=64, seed=0).save_pretrained(model)
    build_tokenizer(max_length=64).save_pretrained(model)
    artifacts.write_json(root / "sft" / "manifest.json", {"outputs": {"model": artifacts.sha256(model)}})
    return {
        "prompts": write_step(root / "prompts", prompts),
        "pool": write_step(root / "pool", {"responses.parquet": {**keys, "text": [r[2] for r in rows]}}),
        "labels": write_step(root / "labels", {"scores.parquet": {**keys, "score": good}}),
        "policy": root / "sft" / "manifest.json",
    }


def train(inputs: dict[str, Path], out: Path, **changes: Any) -> dict[str, Any]:
    artifacts.write_json(out / "spec.json", {**SPEC, **changes})
    flags = [x for key, path in inputs.items() for x in (f"--{key}", str(path))]
    assert train_reward.main(["--spec", str(out / "spec.json"), *flags, "--out", str(out / "manifest.json")]) == 0
    return dict(json.loads((out / "manifest.json").read_text())["report"])


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Path], Path]:
    root = tmp_path_factory.mktemp("reward")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "_end_with_parent", lambda: None)
        patch.setattr(cli, "_limit_threads", lambda threads: None)
        inputs = world(root)
        train(inputs, root / "rm")
    return inputs, root / "rm"


def test_it_learns_what_can_be_learned(learned: tuple[dict[str, Path], Path]) -> None:
    manifest = json.loads((learned[1] / "manifest.json").read_text())
    report = manifest["report"]
    assert report["held_out_accuracy"] > 0.95
    assert report["last_loss"] < 0.3 < report["first_loss"]
    assert (report["prompts_of_evaluation"], report["held_out_pairs"], report["pairs"]) == (1, 60, 174)
    assert set(manifest["outputs"]) == {"model", "history.jsonl"}


def test_it_learns_nothing_from_labels_without_a_meaning(tmp_path: Path) -> None:
    """Labels of a text differ from prompt to prompt: nothing about a held-out prompt follows from the others."""
    report = train(world(tmp_path, shuffled=True), tmp_path / "rm")
    assert 0.2 < report["held_out_accuracy"] < 0.8


def test_the_same_bytes_twice(learned: tuple[dict[str, Path], Path], tmp_path: Path) -> None:
    inputs, first = learned
    short = {"training": {**SPEC["training"], "epochs": 0.3}}  # type: ignore[dict-item]
    for name in ("a", "b"):
        train(inputs, tmp_path / name, **short)
    files = [artifacts.sha256(tmp_path / name / "manifest.json") for name in ("a", "b")]
    assert files[0] == files[1]
    assert files[0] != artifacts.sha256(first / "manifest.json")


def test_a_reward_that_is_not_finite_is_no_wrong_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """NaN is above nothing: it would count as a pair that is ordered the wrong way round."""
    inputs = world(tmp_path)
    monkeypatch.setattr(
        "selfcontrast.reward_models.score_rows", lambda read, rows, **_: [0.0] * (len(rows) - 1) + [float("nan")]
    )
    artifacts.write_json(tmp_path / "spec.json", {**SPEC, "training": {**SPEC["training"], "epochs": 0.1}})  # type: ignore[dict-item]
    flags = [x for key, path in inputs.items() for x in (f"--{key}", str(path))]
    out = ["--spec", str(tmp_path / "spec.json"), "--out", str(tmp_path / "rm" / "manifest.json")]
    assert train_reward.main([*out, *flags]) == 2
    told = capfd.readouterr().err
    assert "the reward of an answer is nan, rejected answer to the prompt 'Tom lives in Rome." in told
    assert not (tmp_path / "rm" / "manifest.json").exists()


def test_too_few_pairs_are_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    inputs = world(tmp_path)
    table = artifacts.read_table(inputs["labels"].parent / "scores.parquet")
    tied = {"scores.parquet": {**table, "score": [0.5] * len(table["score"])}}
    inputs["labels"] = write_step(tmp_path / "tied", tied)
    artifacts.write_json(tmp_path / "spec.json", SPEC)
    flags = [x for key, path in inputs.items() for x in (f"--{key}", str(path))]
    out = ["--spec", str(tmp_path / "spec.json"), "--out", str(tmp_path / "rm" / "manifest.json")]
    assert train_reward.main([*out, *flags]) == 2
    assert "too few pairs to train a reward model" in capfd.readouterr().err


def scorer_spec(path: Path, **extra: Any) -> str:
    params = {"trained": "proxy", "tokens": 256}
    artifacts.write_json(path, {"kind": "reward", "params": params, **extra})
    return str(path)


def by_itself(folder: Path, rows: list[tuple[str, str]]) -> list[float]:
    """Return the rewards as transformers alone computes them, one text at a time, from the tokenizer's chat template."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = []
    for prompt, text in rows:
        turns = [{"role": "user", "content": prompt}]
        start = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
        ids = [*start, *tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]
        with torch.no_grad():
            found.append(float(model(input_ids=torch.tensor([ids])).logits[0, 0]))
    return found


def test_scorer_equals_transformers_by_itself(learned: tuple[dict[str, Path], Path], tmp_path: Path) -> None:
    inputs, rm = learned
    out = ["--spec", scorer_spec(tmp_path / "spec.json"), "--out", str(tmp_path / "scores" / "manifest.json")]
    given = ["--prompts", str(inputs["prompts"]), "--split", "pool", "--responses", str(inputs["pool"])]
    assert score.main([*out, *given, "--reward", str(rm / "manifest.json")]) == 0
    scores = artifacts.read_table(tmp_path / "scores" / "scores.parquet")
    split = artifacts.read_table(inputs["prompts"].parent / "pool.parquet")
    prompt = dict(zip(split["prompt_id"], split["prompt"], strict=True))
    texts = dict(enumerate([*GOOD, *BAD]))
    rows = [
        (prompt[p], "Rome." if r == TARGET else texts[int(r.split(".")[1])])
        for p, r in zip(scores["prompt_id"], scores["response_id"], strict=True)
    ][:14]
    assert scores["score"][:14] == pytest.approx(by_itself(rm / "model", rows), abs=1e-5)
    manifest = json.loads((tmp_path / "scores" / "manifest.json").read_text())
    assert artifacts.sha256(rm / "manifest.json") in manifest["inputs"].values()


def test_scores_of_all_arms_are_those_of_each_arm(learned: tuple[dict[str, Path], Path], tmp_path: Path) -> None:
    """The same text of two arms has the same score, and an arm's table is that of the step `score` on its answers alone."""
    inputs, rm = learned
    table = artifacts.read_table(inputs["pool"].parent / "responses.parquet")
    turned = {**table, "text": [t[::-1] if i % 3 else t for i, t in enumerate(table["text"])]}
    other = write_step(tmp_path / "other", {"responses.parquet": turned})
    spec = scorer_spec(tmp_path / "all.json", arms=["one", "two"], seeds=[3])
    common = ["--prompts", str(inputs["prompts"]), "--split", "pool", "--reward", str(rm / "manifest.json")]
    out = str(tmp_path / "all" / "manifest.json")
    assert score_arms.main(["--spec", spec, *common, "--answers", str(inputs["pool"]), str(other), "--out", out]) == 0
    for arm, answers in (("one", inputs["pool"]), ("two", other)):
        flags = ["--spec", scorer_spec(tmp_path / "one.json"), *common, "--responses", str(answers)]
        assert score.main([*flags, "--out", str(tmp_path / arm / "manifest.json")]) == 0
        alone = artifacts.read_table(tmp_path / arm / "scores.parquet")
        found = artifacts.read_table(tmp_path / "all" / "scores" / f"{arm}-s3.parquet")
        assert [found[c] for c in ("prompt_id", "response_id")] == [alone[c] for c in ("prompt_id", "response_id")]
        assert found["score"] == pytest.approx(alone["score"], abs=1e-5)
    assert score_arms.main(["--spec", spec, *common, "--answers", str(other), "--out", out]) == 2


# What a study says


def raw(**changes: Any) -> dict[str, Any]:
    import yaml

    path = Path(__file__).resolve().parents[2] / "config" / "smoke.yaml"
    found: dict[str, Any] = {"name": "smoke", **yaml.safe_load(path.read_text(encoding="utf-8"))}
    for key, value in changes.items():
        *folders, name = key.split("__")
        place = found
        for folder in folders:
            place = place.setdefault(folder, {})
        place[name] = value
    return found


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward_models__proxy__pool": "no"}, "reward_models.proxy.pool names `no`"),
        ({"reward_models__proxy__pool": "annotated"}, "one response to a prompt"),
        ({"reward_models__proxy__labels": "no"}, "reward_models.proxy.labels names `no`"),
        ({"reward_models__proxy__labels": "proxy"}, "cannot learn from its own rewards: proxy <- proxy"),
        ({"reward_models__proxy__held_out": 1.0}, "reward_models.proxy.held_out"),
        ({"reward_models__proxy__training__lora": {}}, "unknown key `reward_models.proxy.training.lora`"),
        (
            {"scorers__proxy__trained": "no"},
            "scorers.proxy.trained names `no`, which is not under `reward_models`: proxy",
        ),
        ({"scorers__proxy__model": "./rm"}, "either `model` or `trained`"),
        ({"scorers__proxy": {"kind": "reward"}}, "either `model` or `trained`"),
        ({"scorers__proxy__template": "starling"}, "a `trained` reward model has those of its study"),
        ({"evaluation__scorers": ["no"]}, "evaluation.scorers names `no`"),
        ({"evaluation__scorers": ["grade"]}, "which is `evaluation.judge` already"),
        ({"evaluation__scorers": ["proxy", "proxy"]}, "names a scorer twice"),
        (
            {
                "reward_models__proxy__labels": "grade",
                "datasets__chat": {"adaptor": "jsonl", "path": "x.jsonl", "splits": raw()["datasets"]["hh"]["splits"]},
            },
            "`grade` grades the pocket world alone, and datasets.chat is none",
        ),
    ],
)
def test_mistakes_are_told(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_study(raw(**changes), where="here")
    assert message in str(caught.value)


def test_a_circle_of_two_is_told() -> None:
    changed = raw(
        reward_models__other={"pool": "sft", "labels": "proxy", "training": {"lr": 1e-3}},
        scorers__second={"kind": "reward", "trained": "other"},
    )
    assert len(parse_study(changed, where="here").reward_models) == 2  # one may teach another
    changed["reward_models"]["proxy"]["labels"] = "second"
    with pytest.raises(ConfigError, match="proxy <- other <- proxy"):
        parse_study(changed, where="here")


def test_a_reward_model_costs_what_it_reads() -> None:
    """smoke: 16 prompts x 2 pairs, of which an eighth is held out; 28 pairs have 56 answers."""
    from selfcontrast.planning.machines import MACHINES
    from selfcontrast.planning.stages import plan_study

    found = {s.rule: s for s in plan_study(load_study("smoke"), MACHINES["cpu"], results=Path("nowhere"))}
    assert (found["train_reward"].jobs, found["train_reward"].answers) == (1, 56)
    assert found["score_arms"].answers == 8 * 24 * 2
    assert found["score_arms"].seconds > MACHINES["cpu"].start_s
