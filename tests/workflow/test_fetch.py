"""Data sets and checkpoints from a hub on loopback go through Snakemake; only the rule fetch asks for the network."""

from __future__ import annotations

import gzip
import json
import subprocess

import pytest
from conftest import leave_the_world

from tests.unit.hub_server import COMMIT, OLDER, FakeHub, serve

pytestmark = pytest.mark.workflow

TARGET = "results/smoke/hh/prompts/manifest.json"


def transcripts(*questions):
    rows = [
        {"chosen": f"\n\nHuman: {q}\n\nAssistant: yes", "rejected": f"\n\nHuman: {q}\n\nAssistant: no"}
        for q in questions
    ]
    return gzip.compress("".join(f"{json.dumps(row)}\n" for row in rows).encode())


@pytest.fixture
def hub():
    files = {
        "harmless-base/train.jsonl.gz": transcripts("a", "b"),
        "helpful-base/train.jsonl.gz": transcripts("c", "b"),
        "red-team-attempts/red_team_attempts.jsonl.gz": b"another layout",
    }
    with serve(FakeHub({"Anthropic/hh-rlhf": {COMMIT: files}})) as served:
        yield served


def run(project, *args, **environment):
    return subprocess.run(
        project.command(*args, "--config", "study=smoke"),
        cwd=project.folder,
        env={**project.env, "HF_HOME": str(project.folder / ".hf"), **environment},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )


def test_data_set_is_fetched_checked_and_read(project, hub):
    """Two subsets, four records, one prompt in both; the second run needs neither the hub nor a job."""
    project.edit(
        "config/smoke.yaml",
        "world: {dialogues: 120}",
        f"hub: {{revision: {COMMIT}, subsets: [helpful-base, harmless-base]}}",
    )
    leave_the_world(project)
    online = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_secret"}
    done = run(project, TARGET, **online)
    assert done.returncode == 0, done.stdout[-5000:]
    assert not any("red-team" in asked for asked in hub.asked)
    root = project.folder / "results/smoke/hh"
    fetched = json.loads((root / "fetch/manifest.json").read_text())["report"]
    assert fetched["commit"] == COMMIT
    assert list(fetched["files"]) == ["harmless-base/train.jsonl.gz", "helpful-base/train.jsonl.gz"]
    read = json.loads((root / "prompts/manifest.json").read_text())
    assert read["inputs"]["records"] == fetched["sha256"]
    assert read["report"]["dropped"] == {"the prompt occurs in an earlier record": 1}
    with gzip.open(root / "prompts/dialogues.jsonl.gz", "rt") as stream:
        found = [(d["file"], d["row"], d["messages"][-1]["content"]) for d in map(json.loads, stream)]
    assert found == [
        ("harmless-base/train.jsonl.gz", 1, "a"),
        ("harmless-base/train.jsonl.gz", 2, "b"),
        ("helpful-base/train.jsonl.gz", 1, "c"),
    ]
    assert "hf_secret" not in "".join(
        p.read_text(errors="replace") for p in project.folder.rglob("*") if p.is_file() and "results" in p.parts
    )
    again = run(project, TARGET)
    assert "Nothing to be done" in again.stdout

    project.edit("config/smoke.yaml", "hub: {", f"sha256: {'a' * 64}\n    hub: {{")
    pinned = run(project, TARGET)
    assert pinned.returncode == 1
    assert "the records are not those that the study pins" in pinned.stdout
    assert f"found: SHA-256 {fetched['sha256']}" in pinned.stdout


ALPACA = f"""bootstrap: 200
  questions:
    alpaca:
      layout: alpaca_eval
      path: data/alpaca.json
      baseline: data/base.json
      length_control: {{revision: {COMMIT}}}
      max_new_tokens: 8
  judges:
    likes: {{kind: alpaca_eval, prompt: own, model: m, questions: alpaca, endpoint: {{url: "http://127.0.0.1:1/v1"}}}}
    rates: {{kind: mt_bench, model: m, questions: alpaca, endpoint: {{url: "http://127.0.0.1:1/v1"}}}}
"""
OWN_JUDGE = "  judges:\n    truth: {kind: pairwise, model: pocket, server: {kind: pocket}, prompts: 8}\n"


def test_file_of_gamed_baselines_is_fetched_for_the_judge_that_compares(project):
    """The rule fetch gets it alone, for the judge with preferences; too few questions end the run before that."""
    data, root = project.folder / "data", project.folder / "results/smoke"
    data.mkdir()
    project.edit("config/smoke.yaml", OWN_JUDGE, "")
    project.edit("config/smoke.yaml", "bootstrap: 200\n", ALPACA)

    def ask(n):
        rows = [{"instruction": f"question {i}", "output": "an answer"} for i in range(n)]
        for name in ("alpaca", "base"):
            (data / f"{name}.json").write_text(json.dumps(rows))

    likes, rates = (f"results/smoke/judges/{name}/manifest.json" for name in ("likes", "rates"))
    file = "results/smoke/questions/alpaca/fetch/files/df_gamed.csv"
    hub = FakeHub({"tatsu-lab/alpaca_eval": {COMMIT: {"df_gamed.csv": b"index\n0\n", "leaderboard.csv": b"x"}}})
    with serve(hub):
        online = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.url}
        ask(10)
        done = run(project, likes, "--until", "fetch", **online)
        assert done.returncode == 2, done.stdout[-5000:]
        assert "answer other instructions than the study asks" in done.stdout
        assert "evaluation.questions.alpaca.length_control" in done.stdout
        ask(805)
        done = run(project, likes, "--until", "fetch", **online)
    assert done.returncode == 0, done.stdout[-5000:]
    assert (project.folder / file).read_bytes() == b"index\n0\n"
    assert [p.relative_to(root).as_posix() for p in root.rglob("manifest.json")] == [
        "questions/alpaca/fetch/manifest.json"
    ]
    assert not any("leaderboard" in asked for asked in hub.asked)
    shown = run(project, likes, "-n", "-p", **OFFLINE).stdout
    assert f"--gamed {file}" in shown
    assert "rule fetch:" not in shown
    shown = run(project, rates, "-n", "-p", **OFFLINE).stdout
    assert "selfcontrast.steps.judge" in shown
    assert "--gamed" not in shown


OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HOME": "/nonexistent", "HF_ENDPOINT": "http://127.0.0.1:1"}
"""As on a node of a cluster: no network, and no cache of the hub either."""


@pytest.fixture
def models(tmp_path):
    """Serve a base model and a reward model, whose branch `main` is at the older commit."""
    from transformers import AutoModelForSequenceClassification

    from selfcontrast.world.checkpoint import build_model, build_tokenizer

    base, reward = tmp_path / "base", tmp_path / "reward"
    build_model(n_layers=2, width=64, n_heads=2, max_length=128, seed=0).save_pretrained(base)
    AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, pad_token_id=0).save_pretrained(reward)
    repos = {}
    for folder in (base, reward):
        build_tokenizer(max_length=128).save_pretrained(folder)
        files = {p.name: p.read_bytes() for p in folder.iterdir()} | {"pytorch_model.bin": b"pickled"}
        repos[f"someone/{folder.name}"] = {OLDER: files, COMMIT: {**files, "README.md": b"changed"}}
    with serve(FakeHub(repos, branches={"main": OLDER})) as served:
        yield served


def test_checkpoints_are_fetched_and_then_need_no_network(project, models):
    """`--until fetch` fetches both and nothing else runs; then encode, sft and a scorer read the files without hub or cache."""
    text = (project.folder / "config/smoke.yaml").read_text()
    scratch = text[text.index("    scratch:") : text.index("    max_length:")]
    project.edit("config/smoke.yaml", scratch, "    path: someone/base\n")
    project.edit("config/smoke.yaml", "scorers:\n", "scorers:\n  rm: {kind: reward, model: someone/reward@main}\n")
    root = project.folder / "results/smoke"
    scores = root / "hh/pocket/pools/annotated/scores/rm/manifest.json"
    targets = [str(p.relative_to(project.folder)) for p in (root / "hh/pocket/sft/manifest.json", scores)]

    online = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": models.url}
    done = run(project, *targets, "--until", "fetch", **online)
    assert done.returncode == 0, done.stdout[-5000:]
    assert sorted(p.relative_to(root).as_posix() for p in root.rglob("manifest.json")) == [
        "models/someone--base/fetch/manifest.json",
        "models/someone--reward/fetch/manifest.json",
    ]
    assert not any("pytorch_model" in asked for asked in models.asked)

    models.branches["main"] = COMMIT  # it moves between the two runs: what was fetched stays
    done = run(project, *targets, **OFFLINE)
    assert done.returncode == 0, done.stdout[-5000:]
    for path in ("hh/pocket/prompts", "hh/pocket/sft", "hh/pocket/pools/annotated/scores/rm"):
        manifest = json.loads((root / path / "manifest.json").read_text())
        assert manifest["report"]["base_commit"] == OLDER, path
        assert any(name.endswith("/fetch") for name in manifest["inputs"]), path
    assert "Nothing to be done" in run(project, *targets, **OFFLINE).stdout
