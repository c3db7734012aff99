"""The plan of a pool: every request has a seed of its own, shards and interruptions change nothing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfcontrast.chunks import Chunks
from selfcontrast.sampling import Request, Sampled, Sampling, Tokens, sample_shard
from selfcontrast.seeds import derive_seed

REQUEST = Request(
    n=3,
    seed_of=lambda i, j: derive_seed(0, i, j),
    sampling=Sampling(4),
    eos_ids=frozenset([2]),
    prompts_per_batch=2,
)
PROMPTS = [[1] * (1 + i % 4) for i in range(13)]
BATCHES = 7


@dataclass
class Recorder:
    """A back-end that answers with the digits of the seed, and remembers what it was asked."""

    fail_at: int = -1
    seeds: list[int] = field(default_factory=list)
    calls: int = 0
    settings: dict[str, Any] = field(default_factory=dict)

    def sample(
        self, prompts: Sequence[Tokens], seeds: Sequence[Sequence[int]], sampling: Sampling, *, eos_ids: frozenset[int]
    ) -> list[list[Sampled]]:
        if self.calls == self.fail_at:
            raise KeyboardInterrupt
        self.calls += 1
        self.seeds += [s for row in seeds for s in row]
        return [[self.answer(p, s) for s in row] for p, row in zip(prompts, seeds, strict=True)]

    def close(self) -> None:
        pass

    @staticmethod
    def answer(prompt: Tokens, seed: int) -> Sampled:
        ids = [len(prompt), *(int(d) for d in str(seed)[:4])]
        return Sampled(ids, "stop" if seed % 2 else "length")


def expected(request: Request = REQUEST) -> dict[int, list[Sampled]]:
    return {i: [Recorder.answer(p, request.seed_of(i, j)) for j in range(request.n)] for i, p in enumerate(PROMPTS)}


# Seeds


def test_every_response_is_asked_for_with_a_seed_of_its_own() -> None:
    recorder = Recorder()
    assert sample_shard(PROMPTS, REQUEST, lambda: recorder) == expected()
    assert len(recorder.seeds) == len(set(recorder.seeds)) == 13 * 3
    assert set(recorder.seeds) == {derive_seed(0, i, j) for i in range(13) for j in range(3)}


# Shards


@given(
    lengths=st.lists(st.integers(1, 6), max_size=30),
    shards=st.integers(1, 40),
    per_batch=st.integers(1, 9),
)
def test_shards_of_any_number_join_to_the_whole(lengths: list[int], shards: int, per_batch: int) -> None:
    """More shards than prompts too: each prompt is in one shard, and in the same batch as without shards."""
    prompts = [[1] * n for n in lengths]
    request = replace(REQUEST, prompts_per_batch=per_batch)
    recorder = Recorder()
    whole = sample_shard(prompts, request, lambda: recorder)
    parts = [sample_shard(prompts, request, lambda: recorder, shard=i, shards=shards) for i in range(1, shards + 1)]
    assert [i for part in parts for i in part] == [*whole]
    assert {i: row for part in parts for i, row in part.items()} == whole
    assert recorder.calls == 2 * -(-len(prompts) // per_batch)


def test_a_shard_without_batches_does_not_start_the_back_end() -> None:
    def fail() -> Recorder:
        raise AssertionError("the back-end was started")

    assert sample_shard(PROMPTS[:1], REQUEST, fail, shard=1, shards=2) == {}


# Interruptions


def interrupted(folder: Path, *, after: int) -> Chunks:
    """Return the chunks of a run that ended within batch ``after``, counted from 0."""
    chunks = Chunks.open(folder, spec="a")
    recorder = Recorder(fail_at=after)
    with pytest.raises(KeyboardInterrupt):
        sample_shard(PROMPTS, REQUEST, lambda: recorder, chunks=chunks)
    return chunks


def test_an_interrupted_run_samples_only_what_is_missing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for after in range(BATCHES):
        folder = tmp_path / str(after)
        interrupted(folder, after=after)
        recorder = Recorder()
        assert sample_shard(PROMPTS, REQUEST, lambda r=recorder: r, chunks=Chunks.open(folder, spec="a")) == expected()
        assert recorder.calls == BATCHES - after
    assert f"6 of {BATCHES} batches were sampled before an interruption" in caplog.text


def test_a_run_whose_batches_are_all_stored_does_not_start_the_back_end(tmp_path: Path) -> None:
    chunks = Chunks.open(tmp_path, spec="a")
    whole = sample_shard(PROMPTS, REQUEST, Recorder, chunks=chunks)

    def fail() -> Recorder:
        raise AssertionError("the back-end was started")

    assert sample_shard(PROMPTS, REQUEST, fail, chunks=chunks) == whole == expected()


@pytest.mark.parametrize("damage", ["cut", "changed", "manifest", "missing"])
def test_a_damaged_chunk_is_sampled_again_and_said_so(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chunks = interrupted(tmp_path, after=4)
    place = sorted((tmp_path / chunks.key).iterdir())[1]
    table = place / "chunk.parquet"
    if damage == "cut":
        table.write_bytes(table.read_bytes()[:-20])
    elif damage == "changed":
        table.write_bytes(table.read_bytes().replace(b"stop", b"sotp"))
    elif damage == "manifest":
        (place / "manifest.json").write_text("{")
    else:
        table.unlink()
    recorder = Recorder()
    assert sample_shard(PROMPTS, REQUEST, lambda: recorder, chunks=chunks) == expected()
    assert recorder.calls == BATCHES - 4 + 1
    assert "batch-000001" in caplog.text
    assert "is damaged and made again" in caplog.text
    assert len(list((tmp_path / chunks.key).iterdir())) == BATCHES


def test_chunks_of_other_work_are_dropped_and_said_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    interrupted(tmp_path, after=4)
    recorder = Recorder()
    chunks = Chunks.open(tmp_path, spec="b")
    assert sample_shard(PROMPTS, REQUEST, lambda: recorder, chunks=chunks) == expected()
    assert recorder.calls == BATCHES
    assert "chunks of other settings, inputs or software are dropped" in caplog.text
    assert [p.name for p in tmp_path.iterdir()] == [chunks.key]


@pytest.mark.parametrize(
    "change",
    [
        {"seed_of": lambda i, j: derive_seed(1, i, j)},
        {"sampling": Sampling(4, temperature=0.5)},
        {"eos_ids": frozenset([3])},
    ],
    ids=["seeds", "sampling", "eos"],
)
def test_a_chunk_answers_its_own_request_alone(change: dict[str, Any], tmp_path: Path) -> None:
    """A pool may ask several times about the same prompts; and its plug-in may be edited after an interruption."""
    chunks = interrupted(tmp_path, after=4)
    recorder = Recorder()
    asked = replace(REQUEST, **change)
    assert sample_shard(PROMPTS, asked, lambda: recorder, chunks=chunks) == expected(asked)
    assert recorder.calls == BATCHES


def test_removed_chunks_leave_nothing(tmp_path: Path) -> None:
    chunks = interrupted(tmp_path / "chunks", after=4)
    chunks.remove()
    assert [*tmp_path.iterdir()] == []
    chunks.remove()  # also where there never were any
