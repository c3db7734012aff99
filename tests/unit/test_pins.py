"""Checkpoints of the hub by commit: from the cache alone, with the real client, in a process without a network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from selfcontrast.checkpoints import load_tokenizer
from selfcontrast.errors import InputError
from selfcontrast.pins import split_revision
from selfcontrast.planning.shapes import named_shape
from selfcontrast.world.checkpoint import build_tokenizer

OLD, NEW = "a" * 40, "b" * 40
PROGRAM = """
import sys
from selfcontrast.checkpoints import load_tokenizer
for name in sys.argv[1:]:
    print(load_tokenizer(name).eos_token)
"""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("owner/name", ("owner/name", None)),
        (f"owner/name@{OLD}", ("owner/name", OLD)),
        ("./folder@2", ("./folder@2", None)),
        ("/folder@2", ("/folder@2", None)),
    ],
)
def test_a_revision_stands_behind_the_at_of_a_hub_id(name: str, expected: tuple[str, str | None]) -> None:
    assert split_revision(name) == expected


def test_a_folder_with_an_at_in_its_name_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model@2").mkdir()
    monkeypatch.chdir(tmp_path)
    assert split_revision("model@2") == ("model@2", None)


def test_a_commit_chooses_the_checkpoint(tmp_path: Path) -> None:
    """Two commits with tokenizers that end with other tokens; `main` is the newer one."""
    repo = tmp_path / "hub" / "models--owner--name"
    tokenizer = build_tokenizer(max_length=64)
    for commit, end in ((OLD, "<old>"), (NEW, "<new>")):
        tokenizer.add_special_tokens({"eos_token": end})
        tokenizer.save_pretrained(repo / "snapshots" / commit)
        (repo / "snapshots" / commit / "config.json").write_text('{"model_type": "llama"}')
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(NEW)
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    environment.pop("HF_HUB_CACHE", None)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "owner/name", f"owner/name@{OLD}", f"owner/name@{NEW}"],
        env=environment,
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["<new>", "<old>", "<new>"], done.stderr


def test_a_pinned_model_has_the_size_of_its_repository() -> None:
    assert named_shape(f"Qwen/Qwen2.5-0.5B@{OLD}") == named_shape("Qwen/Qwen2.5-0.5B")


def test_a_checkpoint_that_is_not_there_says_how_to_fetch_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoTokenizer

    def offline(*args: object, **kwargs: object) -> None:
        raise OSError("We couldn't connect to 'https://huggingface.co' to load the files")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", offline)
    with pytest.raises(InputError, match=rf"`hf download owner/name --revision {OLD}`"):
        load_tokenizer(f"owner/name@{OLD}")
    with pytest.raises(InputError, match="`hf download owner/name`"):
        load_tokenizer("owner/name")
