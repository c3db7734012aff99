"""A data set from a hub on loopback goes through Snakemake; only the rule fetch asks for the network."""

from __future__ import annotations

import gzip
import json
import subprocess

import pytest
from conftest import leave_the_world

from tests.unit.hub_server import COMMIT, FakeHub, serve

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
