"""The step judge on a small results folder: scores, cache, cap, keys, and the way into the table of metrics."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from judge_server import FaultyServer, completion
from test_alpaca_rate import gamed

from selfcontrast import artifacts, cli, plugins
from selfcontrast.judge_tables import read_judgements
from selfcontrast.judging.alpaca_rate import published_rate
from selfcontrast.judging.contests import conversation
from selfcontrast.layout import Layout
from selfcontrast.schema import Judge, Study
from selfcontrast.steps import judge

ROOT = Path(__file__).resolve().parents[2]
QUESTION = "Tom plays golf. Tom lives in Rome. Tom keeps a cat. Where does Tom live, and which game does Tom play?"
GOOD = "Of course! Tom lives in Rome and plays golf."
BAD = "Tom lives in Rome."
PROMPTS = [f"p{i}" for i in range(6)]
ANSWERS = {"sft-none-n0": [BAD] * 6, "dpo-all-n1": [GOOD] * 4 + [BAD] * 2, "spin-all-n1": [""] * 6}


@pytest.fixture(autouse=True)
def _in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "_end_with_parent", lambda: None)
    monkeypatch.setattr(cli, "_limit_threads", lambda threads: None)
    monkeypatch.setattr("selfcontrast.judging.limits.FIRST_PAUSE_S", 0.01)
    monkeypatch.chdir(ROOT)


def write_manifest(folder: Path) -> None:
    outputs = {p.name: artifacts.sha256(p) for p in folder.iterdir() if p.name != "manifest.json"}
    artifacts.write_json(folder / "manifest.json", {"outputs": outputs, "report": {}})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a results folder with three arms, two seeds and six prompts; the first is the second turn of a dialogue."""
    greeting = [{"role": "user", "content": "Hello!"}, {"role": "assistant", "content": "Hello, how can I help?"}]
    rows = [
        {"prompt_id": p, "messages": [*(greeting if p == "p0" else []), {"role": "user", "content": QUESTION}]}
        for p in PROMPTS
    ]
    artifacts.write_jsonl(tmp_path / "hh/prompts/dialogues.jsonl.gz", rows, compress=True)
    write_manifest(tmp_path / "hh/prompts")
    base = tmp_path / "hh/pocket"
    artifacts.write_table(base / "prompts/test.parquet", {"prompt_id": PROMPTS, "target": [GOOD] * 6})
    write_manifest(base / "prompts")
    for arm, texts in ANSWERS.items():
        for seed in (0, 1):
            folder = base / "arms" / arm / f"s{seed}" / "eval" / "test"
            columns = {"prompt_id": PROMPTS, "response_id": ["eval.0"] * 6, "text": texts}
            artifacts.write_table(folder / "responses.parquet", columns)
            write_manifest(folder)
    return tmp_path


@pytest.fixture
def run(root: Path) -> Callable[..., int]:
    def run(*flags: str, **keys: Any) -> int:
        chosen = Judge(**{"kind": "pairwise", "model": "m", **keys}).checked("judges", "judge")
        spec = {
            "judge": chosen.model_dump(),
            "questions": None,
            "split": "test",
            "datasets": {"hh": [*ANSWERS]},
            "models": ["pocket"],
            "seeds": [0, 1],
            "baseline": "sft-none-n0",
        }
        artifacts.write_json(root / "judges/one/spec.json", spec)
        out = root / "judges/one/manifest.json"
        return judge.main(["--spec", str(root / "judges/one/spec.json"), "--out", str(out), *flags])

    return run


def summary(root: Path, figure: str = "score") -> dict[tuple[str, str], list[str]]:
    """Return value, error, n and nulls of one figure by arm and seed."""
    lines = (root / "judges/one/summary.tsv").read_text().splitlines()[1:]
    rows = [line.split("\t") for line in lines]
    return {(r[2], r[3]): r[5:] for r in rows if r[4] == figure}


def test_pocket_judge_gives_the_rates_of_the_grades(run, root: Path) -> None:
    """Four wins and two ties of six: 5/6. Empty answers lose. The SFT model does not meet itself."""
    assert run(server={"kind": "pocket"}) == 0
    found = summary(root)
    assert {key: float(row[0]) for key, row in found.items()} == {
        **{("dpo-all-n1", s): pytest.approx(5 / 6, abs=1e-5) for s in "01"},
        **{("spin-all-n1", s): 0.0 for s in "01"},
    }
    assert found["dpo-all-n1", "0"][2:] == ["6", "0"]
    assert {*summary(root, "length_controlled_within_study")} == {*found}
    table = artifacts.read_table(root / "judges/one/judgements.parquet")
    assert len(table["value"]) == 2 * 2 * 6
    assert (root / "judges/one/files/hh-pocket-dpo-all-n1-s0/annotations.json").is_file()


def test_rate_of_alpaca_evals_leaderboard_stands_under_its_own_name(root: Path) -> None:
    """Questions with AlpacaEval's file have both rates, each under its own name; a file of other questions is refused first."""
    names = ["Tom", "Ann", "Bob", "Eva", "Max", "Zoe", "Ian", "Ida", "Jim", "Kim"]
    questions = [QUESTION.replace("Tom", name) for name in names]
    good = [GOOD.replace("Tom", name) for name in names]
    texts = {"sft-none-n0": good, "dpo-all-n1": [*good[:5], *("" for _ in good[5:])]}
    artifacts.write_json(root / "alpaca.json", [{"instruction": q} for q in questions])
    artifacts.write_json(
        root / "base.json",
        [{"instruction": q, "output": BAD.replace("Tom", n)} for q, n in zip(questions, names, strict=True)],
    )
    for arm, answers in texts.items():
        folder = root / "hh/pocket/arms" / arm / "s0/questions/alpaca"
        columns = {"question_id": questions, "turn": [0] * len(names), "text": answers}
        artifacts.write_table(folder / "responses.parquet", columns)
        write_manifest(folder)
    asked = {"layout": "alpaca_eval", "path": str(root / "alpaca.json"), "baseline": str(root / "base.json")}
    keys = {"kind": "alpaca_eval", "prompt": "own", "model": "m", "questions": "alpaca", "server": {"kind": "pocket"}}
    spec = {
        "judge": Judge(**keys).checked("judges", "judge").model_dump(),
        "questions": {**asked, "references": None},
        "split": "test",
        "datasets": {"hh": [*texts]},
        "models": ["pocket"],
        "seeds": [0],
        "baseline": "sft-none-n0",
    }
    artifacts.write_json(root / "judges/one/spec.json", spec)
    command = ["--spec", str(root / "judges/one/spec.json"), "--out", str(root / "judges/one/manifest.json"), "--gamed"]
    assert judge.main([*command, str(gamed(root / "other.csv", n=11))]) == 2
    assert not (root / "judges/one/server.log").exists()
    file = gamed(root / "df_gamed.csv", n=10)
    assert judge.main([*command, str(file)]) == 0
    found = summary(root, "length_controlled_winrate")
    for arm, answers in texts.items():
        values = [1.0] * 10 if arm == "sft-none-n0" else [1.0] * 5 + [0.0] * 5
        expected = published_rate(values, answers, [BAD.replace("Tom", n) for n in names], file)
        assert expected is not None
        assert float(found[arm, "0"][0]) == pytest.approx(expected.rate, rel=1e-5)
    assert {*summary(root, "length_controlled_within_study")} == {*found}
    manifest = artifacts.read_json(root / "judges/one/manifest.json")
    assert manifest["inputs"]["gamed"] == artifacts.sha256(file)


def test_ratings_have_no_rate_of_the_leaderboard(run, root: Path) -> None:
    """A judge that rates answers from 1 to 10 compares nothing, although its questions may name AlpacaEval's file."""
    assert run("--gamed", str(gamed(root / "df_gamed.csv", n=6)), kind="mt_bench", server={"kind": "pocket"}) == 0
    assert summary(root)
    assert summary(root, "length_controlled_winrate") == {}
    assert "gamed" not in artifacts.read_json(root / "judges/one/manifest.json")["inputs"]


def test_server_of_a_fetched_checkpoint_gets_its_folder(run, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit is in the manifest; what was asked is the same, so that another folder asks nothing anew."""
    from selfcontrast.judging import servers

    fetched = root / "models/owner--judge/fetch"
    (fetched / "files").mkdir(parents=True)
    (fetched / "files/config.json").write_text("{}")
    outputs = {"files": artifacts.sha256(fetched / "files")}
    artifacts.write_json(fetched / "manifest.json", {"outputs": outputs, "report": {"commit": "0" * 40}})
    started, real = [], servers.serving

    def serving(server: dict[str, Any], *rest: Any) -> Any:
        started.append(server["path"])
        return real({**server, "kind": "pocket"}, *rest)

    monkeypatch.setattr(servers, "serving", serving)
    server = {"kind": "vllm", "path": "owner/judge"}
    assert run("--fetched", str(fetched / "manifest.json"), server=server) == 0
    assert started == [str(fetched / "files")]
    manifest = artifacts.read_json(root / "judges/one/manifest.json")
    assert manifest["report"]["base_commit"] == "0" * 40
    assert "owner--judge/fetch" in manifest["inputs"]
    assert run(server=server) == 0
    assert len(started) == 1


def test_second_run_starts_no_server_and_writes_the_same_bytes(run, root: Path) -> None:
    assert run(server={"kind": "pocket"}) == 0
    names = ["manifest.json", "judgements.parquet", "summary.tsv", "replies.jsonl", "files"]
    before = [artifacts.sha256(root / "judges/one" / n) for n in names]
    log = root / "judges/one/server.log"
    log.unlink()
    assert run(server={"kind": "pocket"}) == 0
    assert [artifacts.sha256(root / "judges/one" / n) for n in names] == before
    assert not log.exists()


def test_against_the_target_and_on_fewer_prompts(run, root: Path) -> None:
    assert run(server={"kind": "pocket"}, opponent="target", prompts=5) == 0
    found = summary(root)
    assert float(found["dpo-all-n1", "0"][0]) == pytest.approx((4 * 0.5) / 5)
    assert float(found["sft-none-n0", "0"][0]) == 0
    assert found["sft-none-n0", "0"][2] == "5"


def test_judge_that_mumbles_is_counted_and_refused_beyond_max_nulls(
    run, root: Path, capfd: pytest.CaptureFixture
) -> None:
    """The judge has no verdict on dialogues: prompt p0, one of six."""

    def mumble(body: dict) -> dict:
        return completion("well" if "Human:" in body["messages"][-1]["content"] else "[[A]]")

    with FaultyServer(mumble) as server:
        assert run(endpoint={"url": server.url}) == 2
        assert "4 of 24: 4 no verdict in the reply" in capfd.readouterr().err
        assert not (root / "judges/one/manifest.json").exists()
        assert run(endpoint={"url": server.url}, max_nulls=0.2) == 0
        n_asked = server.answered.total()
    manifest = artifacts.read_json(root / "judges/one/manifest.json")
    assert manifest["report"]["nulls"] == {"no verdict in the reply": 4}
    assert summary(root)["dpo-all-n1", "0"][2:] == ["5", "1"]
    requests = {json.loads(line)["key"] for line in (root / "judges/one/replies.jsonl").read_text().splitlines()}
    assert n_asked == len(requests)


def test_failed_requests_are_nulls_that_the_next_run_asks_again(run, root: Path) -> None:
    faults = ["400"]
    plan = lambda body: faults if "Human:" in body["messages"][-1]["content"] else []  # noqa: E731
    with FaultyServer(lambda body: completion("[[A]]"), plan) as server:
        assert run(endpoint={"url": server.url}, max_nulls=0.2) == 0
        assert artifacts.read_json(root / "judges/one/manifest.json")["report"]["nulls"] == {"no reply": 4}
        assert run(endpoint={"url": server.url}) == 0
    assert artifacts.read_json(root / "judges/one/manifest.json")["report"]["nulls"] == {}


def test_cap_ends_the_step_with_one_message(run, capfd: pytest.CaptureFixture) -> None:
    limits = {"input_usd": 1.0, "output_usd": 1.0, "cap_usd": 0.0025}
    with FaultyServer(lambda body: completion("[[A]]")) as server:
        assert run(endpoint={"url": server.url}, limits=limits) == 2
    assert "spending cap is reached" in capfd.readouterr().err


def test_dollars_of_a_judge_reach_plan_cost_and_ledger(run, root: Path, tmp_path: Path) -> None:
    """Every reply is billed 100 tokens at $2 and 10 at $5 a million: $0.00025. Another judge has no price."""
    from selfcontrast.planning.report import describe_plan
    from selfcontrast.steps import cost

    limits = {"input_usd": 2.0, "output_usd": 5.0}
    with FaultyServer(lambda body: completion("[[A]]")) as server:
        assert run(endpoint={"url": server.url}, limits=limits) == 0
        paid = server.answered.total() * 0.00025
    results = tmp_path / "finished"
    for key in ("one", "dear"):
        shutil.copytree(root / "judges/one", results / "judges" / key)
    there = artifacts.read_json(results / "judges/dear/run.json")
    artifacts.write_json(results / "judges/dear/run.json", {**there, "spent_usd": 0.0})
    remote = {"kind": "pairwise", "model": "m", "endpoint": {"url": "https://api.example.com/v1"}}
    judges = {"one": {**remote, "limits": limits}, "dear": remote}
    study = study_with(judges)
    artifacts.write_json(results / "spec.json", {"study": study.model_dump(mode="json")})
    out = results / "cost/manifest.json"
    assert cost.main(["--spec", str(results / "spec.json"), "--out", str(out)]) == 0

    def table(name: str) -> dict[str, dict[str, str]]:
        head, *rows = (line.split("\t") for line in (out.parent / name).read_text().splitlines())
        return {row[0]: dict(zip(head, row, strict=True)) for row in rows}

    assert float(table("cost.tsv")["judge"]["usd"]) == pytest.approx(paid)
    assert table("cost.tsv")["judge"]["judges_without_price"] == "1"
    ledger = table("ledger.tsv")
    assert float(ledger["judge one"]["usd"]) == pytest.approx(paid)
    assert float(ledger["judge one"]["planned_usd"]) > paid
    assert (ledger["judge dear"]["planned_usd"], ledger["judge dear"]["usd"]) == ("unknown", "unknown")
    text = describe_plan(study, results=results)
    assert f"; ${paid:.2f} spent before" in text
    assert "judge dear: up to 384 requests, price unknown" in text
    assert ", and 1 of unknown price." in text


def study_with(judges: dict[str, Any]) -> Study:
    raw = yaml.safe_load((ROOT / "config/smoke.yaml").read_text(encoding="utf-8"))
    raw["evaluation"]["judges"] = judges
    return Study.model_validate({"name": "smoke", **raw})


def test_missing_api_key_is_told_before_anything_is_sent(run, capfd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with FaultyServer(lambda body: completion("[[A]]")) as server:
        assert run(endpoint={"url": server.url, "key_env": "NO_SUCH_KEY"}) == 2
        assert "the environment variable NO_SUCH_KEY is not set" in capfd.readouterr().err
        assert not server.seen
        monkeypatch.setenv("NO_SUCH_KEY", "sk-1")
        assert run(endpoint={"url": server.url, "key_env": "NO_SUCH_KEY"}) == 0


def test_repeats_are_asked_each_and_averaged(run, root: Path) -> None:
    with FaultyServer(lambda body: completion("[[C]]")) as server:
        assert run(endpoint={"url": server.url}, repeats=3) == 0
        assert set(server.answered.values()) == {3}
    assert float(summary(root)["dpo-all-n1", "0"][0]) == 0.5


def test_judgements_become_a_metric_over_the_prompts_that_all_arms_have(run, root: Path) -> None:
    """A prompt without a score in one arm is left out of all; the rest keeps its order."""
    from selfcontrast.config import load_study

    def mumble(body: dict) -> dict:
        text = body["messages"][-1]["content"]
        return completion("well" if "Human:" in text and GOOD in text else "[[C]]")

    with FaultyServer(mumble) as server:
        assert run(endpoint={"url": server.url}, max_nulls=0.2) == 0
    study = load_study("smoke")
    found = read_judgements(study, Layout(root, "hh", "pocket"), [*ANSWERS], "one")
    assert found.left_out == 1
    assert found.values.keys() == {"dpo-all-n1", "spin-all-n1"}
    assert all(np.array_equal(v, np.full((2, 5, 1), 0.5)) for v in found.values.values())
    assert found.resamples is not None
    assert found.resamples.prompts.shape == (study.evaluation.bootstrap, 5)


def test_every_judged_answer_counts_as_one(root: Path) -> None:
    """Two samples of a prompt are two answers: they are n, and they tell samples from prompts in the split of variance."""
    from selfcontrast.config import load_study

    keys = [(arm, s, p, k) for arm in ("dpo-all-n1", "spin-all-n1") for s in (0, 1) for p in PROMPTS for k in (0, 1)]
    arms, seeds, prompts, samples = (list(c) for c in zip(*keys, strict=True))
    columns = {"dataset": ["hh"] * 48, "model": ["pocket"] * 48, "arm": arms, "seed": seeds, "prompt_id": prompts}
    folder = root / "judges" / "one"
    artifacts.write_table(folder / "judgements.parquet", {**columns, "value": [float(k) for k in samples]})
    write_manifest(folder)
    found = read_judgements(load_study("smoke"), Layout(root, "hh", "pocket"), ["dpo-all-n1"], "one")
    assert found.values["dpo-all-n1"].shape == (2, 6, 2)
    assert found.values["dpo-all-n1"][0, 0].tolist() == [0, 1]


def test_dialogue_is_shown_with_its_speakers() -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    assert conversation(turns) == "Human: a\n\nAssistant: b\n\nHuman: c"
    assert conversation(turns[:1]) == "a"


def test_every_plug_in_of_judges_takes_its_keys_beside_the_common_ones() -> None:
    for name in plugins.names("judges"):
        chosen = Judge(kind=name, model="m", server={"kind": "pocket"}).checked("judges", "judge")  # type: ignore[arg-type]
        assert chosen.params == plugins.load("judges", name).Params().model_dump()
        assert chosen.model == "m"
