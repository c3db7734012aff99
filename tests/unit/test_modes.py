"""Every file that a step or a command writes may be read by whom the umask lets read: weights too."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from selfcontrast import artifacts, cli
from selfcontrast.chunks import Chunks
from selfcontrast.exporting.folder import Export, write_export
from selfcontrast.judging.exchange import Request
from selfcontrast.judging.replies import Replies
from selfcontrast.records import Message
from selfcontrast.steps import pretrain, sft
from selfcontrast.training.engine import Engine
from selfcontrast.training.state import Checkpoints

pytestmark = pytest.mark.usefixtures("one_thread")

PRETRAINING = {
    **{"seed": 0, "max_length": 64, "n_layers": 1, "width": 16, "n_heads": 2, "prompts": 4, "answers": 1},
    **{"share_good": 0.5, "training": {"lr": 1e-3, "batch": 4, "epochs": 1, "warmup": 0.0, "shape": "constant"}},
}


@pytest.fixture(params=[0o022, 0o027, 0o077, 0o002], ids=lambda mask: f"{mask:03o}")
def umask(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(cli, "_end_with_parent", lambda: None)
    monkeypatch.setattr(cli, "_limit_threads", lambda threads: None)
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def wrong_modes(root: Path, umask: int) -> dict[str, str]:
    """Return what has other permissions than the umask leaves of 0666, a folder's of 0777; the root itself is not asked."""
    found = {}
    for place in sorted(root.rglob("*")):
        mode = stat.S_IMODE(place.stat().st_mode)
        if mode != (0o777 if place.is_dir() else 0o666) & ~umask:
            found[place.relative_to(root).as_posix()] = f"{mode:04o}"
    return found


def run(step: Any, folder: Path, spec: dict[str, Any], *flags: str) -> None:
    artifacts.write_json(folder / "spec.json", spec)
    assert step.main(["--spec", str(folder / "spec.json"), *flags, "--out", str(folder / "manifest.json")]) == 0


def test_steps_write_what_the_umask_allows(umask: int, tmp_path: Path) -> None:
    """A model from scratch, and one that is taken over as it is."""
    training = {**PRETRAINING["training"], "clip": 1.0}  # type: ignore[dict-item]
    run(pretrain, tmp_path / "base", {**PRETRAINING, "training": training})
    artifacts.write_json(tmp_path / "prompts" / "manifest.json", {"outputs": {}, "report": {}})
    spec = {"training": None, "dtype": "float32", "trust_remote_code": False, "template": "tokenizer"}
    prompts = str(tmp_path / "prompts" / "manifest.json")
    run(sft, tmp_path / "sft", spec, "--base", str(tmp_path / "base" / "model"), "--prompts", prompts)
    assert (tmp_path / "sft" / "model" / "model.safetensors").is_file()
    assert wrong_modes(tmp_path, umask) == {}


def test_so_do_a_stored_training_chunks_exports_and_replies(umask: int, tmp_path: Path, llama: Any) -> None:
    model = llama()
    Checkpoints(tmp_path / "run" / ".state", "key").save(Engine(model), None, [{"step": 0.0, "loss": 1.0}])
    Chunks.open(tmp_path / ".chunks", spec={}).store("batch-1", {"ids": [[1]], "finish": ["stop"]})

    def fill(folder: Path) -> None:
        (folder / "inner").mkdir()
        model.to(torch.float32).save_pretrained(folder / "inner")

    write_export(tmp_path / "export", Export({"kind": "model"}), fill)
    replies = Replies(tmp_path / "replies.jsonl")
    asyncio.run(replies.add(Request("m", "", (Message("user", "?"),), {}, ""), {}, usd=0.0, sent=None))
    replies.close()
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2
    assert wrong_modes(tmp_path, umask) == {}


def test_a_file_of_the_hub_s_cache_keeps_its_own(tmp_path: Path) -> None:
    """Data that were fetched are linked from there, where they may belong to another user."""
    (tmp_path / "cached").touch(mode=0o640)
    (tmp_path / "cached").chmod(0o640)
    with artifacts.atomic(tmp_path / "files") as partial:
        partial.mkdir()
        os.link(tmp_path / "cached", partial / "data")
    assert stat.S_IMODE((tmp_path / "cached").stat().st_mode) == 0o640


def test_a_folder_of_a_group_keeps_handing_its_group_on(tmp_path: Path) -> None:
    """A folder with the setgid bit gives it to the folders in it, and what is written there can be read by the group."""
    tmp_path.chmod(0o2770)
    with artifacts.atomic(tmp_path / "model") as partial:
        partial.mkdir()
        (partial / "weights").touch(mode=0o600)
    assert stat.S_IMODE((tmp_path / "model").stat().st_mode) & stat.S_ISGID
    assert stat.S_IMODE((tmp_path / "model" / "weights").stat().st_mode) & stat.S_IRGRP
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]
