"""The step fetch against a hub on loopback, with the real client: files, commits, hashes, and a message for each failure."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_server import COMMIT, OLDER, FakeHub, serve

ROOT = Path(__file__).resolve().parents[2]
REPO = "someone/some-data"
TRAIN = b'{"prompt": "a", "response": "b"}\n' * 200
FILES = {"README.md": b"card\n", "x/train.jsonl": TRAIN, "x/test.jsonl": b'{"prompt": "c", "response": "d"}\n'}


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    older = {**FILES, "x/train.jsonl": b'{"prompt": "old", "response": "b"}\n'}
    with serve(FakeHub({REPO: {COMMIT: dict(FILES), OLDER: older}})) as served:
        yield served


def fetch(
    hub: FakeHub,
    folder: Path,
    *,
    repo: str = REPO,
    revision: str = COMMIT,
    files: tuple[str, ...] = ("x/*.jsonl",),
    home: str = "hf",
    **environment: str,
) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """Run the step with an empty cache below ``folder``; return what it printed and its manifest, {} if there is none."""
    out = folder / "out" / "manifest.json"
    out.parent.mkdir(exist_ok=True)
    (folder / "spec.json").write_text(json.dumps({"repo": repo, "revision": revision, "files": list(files)}))
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    done = subprocess.run(
        [sys.executable, "-m", "selfcontrast.steps.fetch", "--spec", str(folder / "spec.json"), "--out", str(out)],
        cwd=ROOT,
        env={**clean, "HF_ENDPOINT": hub.url, "HF_HOME": str(folder / home), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done, json.loads(out.read_text()) if out.exists() else {}


def problem(done: subprocess.CompletedProcess[str], folder: Path) -> str:
    """Return the one message of a step that failed, after checking that it left nothing."""
    assert done.returncode == 2, done.stderr
    assert [p.name for p in (folder / "out").iterdir()] == []
    (_, message) = done.stderr.split("Error: ", 1)
    return message


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_files_of_a_commit_lie_under_their_paths_with_their_hashes(hub: FakeHub, tmp_path: Path) -> None:
    done, manifest = fetch(hub, tmp_path)
    assert done.returncode == 0, done.stderr
    records = tmp_path / "out" / "files"
    written = {p.relative_to(records).as_posix(): p.read_bytes() for p in records.rglob("*") if p.is_file()}
    assert written == {name: content for name, content in FILES.items() if name != "README.md"}
    report = manifest["report"]
    assert (report["repo"], report["revision"], report["commit"]) == (REPO, COMMIT, COMMIT)
    assert report["files"] == {name: sha(FILES[name]) for name in ("x/test.jsonl", "x/train.jsonl")}
    hashes = "".join(f"{sha(FILES[name])}\n" for name in ("x/test.jsonl", "x/train.jsonl"))
    assert report["sha256"] == sha(hashes.encode())
    assert not any("README" in asked for asked in hub.asked)
    assert "not pinned" not in done.stderr


def test_branch_is_resolved_to_a_commit_and_said_not_to_be_pinned(hub: FakeHub, tmp_path: Path) -> None:
    done, manifest = fetch(hub, tmp_path, revision="main")
    assert manifest["report"]["revision"] == "main"
    assert manifest["report"]["commit"] == COMMIT
    assert f"`main` of {REPO} is not pinned" in done.stderr
    assert COMMIT in done.stderr


def test_messages_about_alpaca_eval_s_file_name_the_key_of_the_questions(hub: FakeHub, tmp_path: Path) -> None:
    """It is fetched like the files of a data set, but no key under `datasets` names it."""
    hub.repos["tatsu-lab/alpaca_eval"] = {COMMIT: {"df_gamed.csv": b"x"}, OLDER: {"README.md": b"x"}}
    asked = {"repo": "tatsu-lab/alpaca_eval", "files": ("df_gamed.csv",)}
    done, _ = fetch(hub, tmp_path, revision="main", **asked)
    assert "set evaluation.questions.<id>.length_control.revision" in done.stderr
    (tmp_path / "other").mkdir()
    for revision in (OLDER, "nowhere"):
        message = problem(fetch(hub, tmp_path / "other", revision=revision, **asked)[0], tmp_path / "other")
        assert "evaluation.questions.<id>.length_control.revision" in message
        assert "datasets.<id>" not in message


def test_another_commit_has_other_files(hub: FakeHub, tmp_path: Path) -> None:
    _, manifest = fetch(hub, tmp_path, revision=OLDER, files=("x/train.jsonl",))
    assert manifest["report"]["commit"] == OLDER
    assert (tmp_path / "out/files/x/train.jsonl").read_bytes() == hub.repos[REPO][OLDER]["x/train.jsonl"]


def test_cached_files_are_fetched_again_without_a_network(hub: FakeHub, tmp_path: Path) -> None:
    """With the same manifest, whether the hub is gone or the offline mode is set; other files of the cache are left out."""
    _, everything = fetch(hub, tmp_path)
    _, first = fetch(hub, tmp_path, files=("x/train.jsonl",))
    asked = len(hub.asked)
    _, offline = fetch(hub, tmp_path, files=("x/train.jsonl",), HF_HUB_OFFLINE="1")
    _, gone = fetch(hub, tmp_path, files=("x/train.jsonl",), HF_ENDPOINT="http://127.0.0.1:1")
    assert len(hub.asked) == asked
    assert first == offline == gone != everything
    assert [p.name for p in (tmp_path / "out/files").rglob("*.jsonl")] == ["train.jsonl"]


def test_records_outlive_the_cache(hub: FakeHub, tmp_path: Path) -> None:
    fetch(hub, tmp_path)
    for path in (tmp_path / "hf").rglob("*"):
        if path.is_file():
            path.unlink()
    assert (tmp_path / "out/files/x/train.jsonl").read_bytes() == TRAIN
    assert not (tmp_path / "out/files/x/train.jsonl").is_symlink()


def test_download_that_breaks_off_is_resumed(hub: FakeHub, tmp_path: Path) -> None:
    hub.break_off["x/train.jsonl"] = 1
    done, manifest = fetch(hub, tmp_path)
    assert done.returncode == 0, done.stderr
    assert manifest["report"]["files"]["x/train.jsonl"] == sha(TRAIN)


def test_token_goes_to_the_hub_and_nowhere_else(hub: FakeHub, tmp_path: Path) -> None:
    hub.gated.add(REPO)
    done, manifest = fetch(hub, tmp_path, HF_TOKEN=hub.token)
    assert done.returncode == 0, done.stderr
    assert f"Bearer {hub.token}" in hub.tokens
    assert hub.token not in done.stdout + done.stderr + json.dumps(manifest)
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and hub.token.encode() in p.read_bytes()]


def test_gated_data_set_without_a_token(hub: FakeHub, tmp_path: Path) -> None:
    hub.gated.add(REPO)
    message = problem(fetch(hub, tmp_path)[0], tmp_path)
    assert message.startswith("the data set is gated")
    assert f"datasets/{REPO} at {COMMIT}" in message
    assert "set the environment variable HF_TOKEN" in message


@pytest.mark.parametrize("revision", ["no-such-branch", "0" * 40])
def test_revision_that_is_not_there(hub: FakeHub, tmp_path: Path, revision: str) -> None:
    message = problem(fetch(hub, tmp_path, revision=revision)[0], tmp_path)
    assert message.startswith("the hub has no such revision")
    assert f"{REPO} at {revision}" in message
    assert "datasets.<id>.hub.revision" in message


def test_repository_that_is_not_there(hub: FakeHub, tmp_path: Path) -> None:
    message = problem(fetch(hub, tmp_path, repo="someone/other")[0], tmp_path)
    assert message.startswith("the hub knows no such data set")
    assert "correct datasets.<id>.hub.repo" in message


@pytest.mark.parametrize("files", [("x/none.jsonl",), ("x/train.jsonl", "y/*.parquet")])
def test_file_that_the_repository_does_not_have(hub: FakeHub, tmp_path: Path, files: tuple[str, ...]) -> None:
    """Each name must match, not only one of them: a missing part would make another data set."""
    message = problem(fetch(hub, tmp_path, files=files)[0], tmp_path)
    assert message.startswith("the repository has no such file")
    assert f"found: {files[-1]}" in message
    assert "correct datasets.<id>.hub.files" in message


@pytest.mark.parametrize(
    "environment",
    [
        pytest.param(
            {"HF_ENDPOINT": "http://127.0.0.1:1"}, marks=pytest.mark.slow, id="no hub: the client tries for 20 s"
        ),
        pytest.param({"HF_HUB_OFFLINE": "1"}, id="offline"),
    ],
)
def test_no_network_and_nothing_in_the_cache(hub: FakeHub, tmp_path: Path, environment: dict[str, str]) -> None:
    message = problem(fetch(hub, tmp_path, **environment)[0], tmp_path)
    assert message.startswith("the hub cannot be reached, and the cache does not have the files")
    assert "run `snakemake --until fetch` where there is a network" in message
    assert hub.asked == []


def test_name_that_is_no_repository(hub: FakeHub, tmp_path: Path) -> None:
    message = problem(fetch(hub, tmp_path, repo="a/b/c")[0], tmp_path)
    assert message.startswith("the hub refused the request")
    assert "check datasets.<id>.hub" in message


def test_failed_fetch_takes_the_old_manifest_away(hub: FakeHub, tmp_path: Path) -> None:
    fetch(hub, tmp_path)
    done, manifest = fetch(hub, tmp_path, revision="no-such-branch")
    assert (done.returncode, manifest) == (2, {})
