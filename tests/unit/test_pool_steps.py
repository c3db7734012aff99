"""The steps that read a whole pool: what they write, whatever the shards, what they refuse, and that they hold little of it."""

from __future__ import annotations

import argparse
import random
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from selfcontrast import artifacts, cli, joins, parquet
from selfcontrast.errors import InputError
from selfcontrast.records import ELSEWHERE, TARGET, Answer, PromptPool
from selfcontrast.stored_pools import StoredPools, by_prompt

POOL = ("prompt_id", "response_id", "text", "response_ids", "finish")
Row = tuple[str, str, str, list[int], str]


def write_step(manifest: Path, inputs: dict[str, str] | None = None, **tables: dict[str, list[Any]]) -> Path:
    """Write tables beside a manifest that lists them."""
    manifest.parent.mkdir(parents=True, exist_ok=True)
    for name, columns in tables.items():
        artifacts.write_table(manifest.parent / f"{name}.parquet", columns)
    outputs = {f"{n}.parquet": artifacts.sha256(manifest.parent / f"{n}.parquet") for n in tables}
    artifacts.write_json(manifest, {"step": "x", "inputs": inputs or {}, "outputs": outputs, "report": {}})
    return manifest


def run(work: Callable[[Any, cli.Step], None], manifest: Path, spec: dict[str, Any] | None = None, **flags: Any) -> Any:
    """Run a step and return its report; its manifest is written."""
    step = cli.Step(spec or {}, manifest)
    step.folder.mkdir(parents=True, exist_ok=True)
    work(SimpleNamespace(**{"threads": 1, "reward": None, "fetched": None} | flags), step)
    artifacts.write_json(manifest, {"inputs": step.inputs, "outputs": step.outputs, "report": step.report})
    return step.report


def as_table(rows: Sequence[Row]) -> dict[str, list[Any]]:
    return {name: [row[i] for row in rows] for i, name in enumerate(POOL)}


def split_of(n: int) -> dict[str, list[Any]]:
    """Prompts of 1, 2, 3, 1, ... tokens, targets of two tokens; ids do not ascend."""
    return {
        "prompt_id": [f"p{-i % 7}{i}" for i in range(n)],
        "prompt": [f"question {i}" for i in range(n)],
        "target": [f"target {i}" for i in range(n)],
        "prompt_ids": [[i] * (1 + i % 3) for i in range(n)],
        "target_ids": [[i, 1] for i in range(n)],
    }


def responses_of(prompt_id: str, n: int, seed: int = 0) -> list[Row]:
    """Return n responses of up to three tokens."""
    rng = random.Random(f"{prompt_id} {seed}")
    ids = [[rng.randrange(9) for _ in range(rng.randrange(1, 4))] for _ in range(n)]
    return [(prompt_id, f"sft.{j}", " ".join(map(str, t)), t, "stop") for j, t in enumerate(ids)]


# gather_pool


def gather(folder: Path, split: dict[str, list[Any]], shards: Sequence[Sequence[Row]]) -> Any:
    from selfcontrast.steps import gather_pool

    prompts = write_step(folder / "m/prompts/manifest.json", pool=split)
    inputs = {"m/prompts": artifacts.sha256(prompts), "m/sft": "1" * 64}
    manifests = [
        write_step(folder / f"shards/{i}/manifest.json", inputs, shard=as_table(s)) for i, s in enumerate(shards)
    ]
    return run(gather_pool.work, folder / "pools/sft/manifest.json", prompts=prompts, shards=manifests)


@pytest.mark.parametrize("together", [1, 3, 100])
def test_pool_is_in_the_order_of_the_split_whatever_the_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    """Twelve responses to a prompt: number 10 comes behind number 9. The third prompt has none."""
    from selfcontrast.steps import gather_pool

    monkeypatch.setattr(gather_pool, "PROMPTS_AT_A_TIME", together)
    split = split_of(8)
    rows = [r for i, p in enumerate(split["prompt_id"]) if i != 2 for r in responses_of(p, 12)]
    written = set()
    for n_shards in (1, 2, 5, 9):
        prompts = [split["prompt_id"][shard::n_shards] for shard in range(n_shards)]
        gather(tmp_path, split, [[r for r in rows if r[0] in mine] for mine in prompts])
        written.add((tmp_path / "pools/sft/responses.parquet").read_bytes())
    assert artifacts.read_table(tmp_path / "pools/sft/responses.parquet") == as_table(rows)
    assert len(written) == 1


def test_report_of_a_pool_by_hand(tmp_path: Path) -> None:
    """Two prompts, one of them unanswered. Of five answers two are equal, one is empty, one is the target, one was cut."""
    texts = ["a", "a", " \n", " target 0", "b"]
    finish = ["stop"] * 4 + ["length"]
    rows = [("p00", f"sft.{j}", t, [j], f) for j, (t, f) in enumerate(zip(texts, finish, strict=True))]
    assert gather(tmp_path, split_of(2), [rows]) == {
        "prompts": 2,
        "responses": 5,
        "prompts_without_response": 1,
        "distinct_texts": 4,
        "empty": 1,
        "equal_to_target": 1,
        "cut_by_length": 1,
    }


def test_shards_of_another_pool_are_refused(tmp_path: Path) -> None:
    from selfcontrast.steps import gather_pool

    split = split_of(2)
    first, second = (responses_of(p, 2) for p in split["prompt_id"])
    with pytest.raises(InputError, match="prompts that are not in the split") as error:
        gather(tmp_path, split, [[*first, *responses_of("other", 1)]])
    assert "found: other" in str(error.value)
    with pytest.raises(InputError, match=r"same response\n  found: 1, among them sft\.1 of prompt p00"):
        gather(tmp_path, split, [first, [*first[1:], *second]])
    with pytest.raises(InputError, match="not in the order of the prompts"):
        gather(tmp_path, split, [[*second, *first]])
    manifest = tmp_path / "shards/0/manifest.json"
    artifacts.write_json(manifest, artifacts.read_json(manifest) | {"inputs": {"m/prompts": "0" * 64}})
    with pytest.raises(InputError, match="shard of the pool is stale"):
        run(
            gather_pool.work,
            tmp_path / "x/manifest.json",
            prompts=tmp_path / "m/prompts/manifest.json",
            shards=[manifest],
        )


# The reference's log-probabilities


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A model whose log-probability of token t after a prompt of n tokens is -t - n / 8; batches of few tokens."""
    import torch

    from selfcontrast import attention, checkpoints, logprobs
    from selfcontrast.steps import ref_logps

    def token_logps(model: object, prompts: Any, responses: Any, *, sharing: str) -> logprobs.TokenLogps:
        flat = [(len(p), r) for p, rs in zip(prompts, responses, strict=True) for r in rs]
        return logprobs.TokenLogps(torch.tensor([-t - n / 8 for n, r in flat for t in r]), [len(r) for _, r in flat])

    monkeypatch.setattr(checkpoints, "load_model", lambda *_, **__: SimpleNamespace(device=torch.device("cpu")))
    monkeypatch.setattr(attention, "check_model", lambda model: None)
    monkeypatch.setattr(logprobs, "supported_sharing", lambda *_, **__: "prefix")
    monkeypatch.setattr(logprobs, "token_logps", token_logps)
    monkeypatch.setattr(ref_logps, "TOKENS_PER_BATCH", 40)
    manifest = write_step(tmp_path / "m/sft/manifest.json")
    (manifest.parent / "model").mkdir()
    content = artifacts.read_json(manifest) | {"outputs": {"model": artifacts.sha256(manifest.parent / "model")}}
    artifacts.write_json(manifest, content)
    return manifest


def compute_logps(folder: Path, reference: Path, n_shards: int) -> Path:
    """Run ref_logps for every shard and gather them; return the manifest."""
    from selfcontrast.steps import gather_logps, ref_logps

    inputs = {"prompts": folder / "m/prompts/manifest.json", "pool": folder / "pools/sft/manifest.json"}
    spec = {"dtype": "float32", "trust_remote_code": False, "training": {"precision": "weights", "lora": None}}
    shards = []
    for i in range(1, n_shards + 1):
        shards.append(folder / f"logps/{n_shards}/{i}/manifest.json")
        run(ref_logps.work, shards[-1], spec, **inputs, reference=reference, shard=f"{i}-of-{n_shards}")
    manifest = folder / "logps/sft/manifest.json"
    run(gather_logps.work, manifest, **inputs, reference=reference, shards=shards)
    return manifest


def test_log_probabilities_do_not_depend_on_the_shards(tmp_path: Path, reference: Path) -> None:
    """Batches hold prompts of like length, so that every shard has prompts from all over the split."""
    split = split_of(9)
    rows = [r for p in split["prompt_id"] for r in responses_of(p, 3)]
    gather(tmp_path, split, [rows])
    written = set()
    for n_shards in (1, 2, 4):
        manifest = compute_logps(tmp_path, reference, n_shards)
        written.add((manifest.parent / "logps.parquet").read_bytes())
    assert len(written) == 1
    expected = []
    for i, p in enumerate(split["prompt_id"]):
        answers = [(TARGET, split["target_ids"][i]), (ELSEWHERE, split["target_ids"][(i + 1) % 9])]
        answers += [(r[1], r[3]) for r in rows if r[0] == p]
        expected += [(p, name, [-t - (1 + i % 3) / 8 for t in ids]) for name, ids in answers]
    found = artifacts.read_table(tmp_path / "logps/sft/logps.parquet")
    assert found["prompt_id"] == [e[0] for e in expected]
    assert found["response_id"] == [e[1] for e in expected]
    assert found["token_logps"] == [e[2] for e in expected]
    assert found["logp"] == [sum(e[2]) for e in expected]


# Pools prompt by prompt


def stored_pools(folder: Path, scores: Sequence[tuple[str, str, float]] | None = None) -> StoredPools:
    rows = [*responses_of("a", 2), *responses_of("c", 1)]
    artifacts.write_table(folder / "responses", as_table(rows))
    if scores is not None:
        columns = {name: [s[i] for s in scores] for i, name in enumerate(("prompt_id", "response_id", "score"))}
        artifacts.write_table(folder / "scores", columns)
    path = folder / "scores" if scores is not None else None
    return StoredPools(["a", "b", "c"], ["A", "B", "C"], folder / "responses", path)


def test_stored_pools_can_be_read_again(tmp_path: Path) -> None:
    """The target's score is among them too, and is no answer's."""
    scored = [("a", "sft.0", 0.1), ("a", "sft.1", 0.2), ("a", TARGET, 1.0), ("b", TARGET, 1.0), ("c", "sft.0", 0.3)]
    pools = stored_pools(tmp_path, scored)
    (first, second), (third,) = responses_of("a", 2), responses_of("c", 1)
    expected = [
        PromptPool("a", "A", (Answer("sft.0", first[2], 0.1), Answer("sft.1", second[2], 0.2))),
        PromptPool("b", "B", ()),
        PromptPool("c", "C", (Answer("sft.0", third[2], 0.3),)),
    ]
    assert list(pools) == list(pools) == expected
    assert len(pools) == 3


def test_target_comes_last_where_it_is_asked_for(tmp_path: Path) -> None:
    pools = stored_pools(tmp_path)
    with_target = StoredPools(pools.prompt_ids, pools.targets, pools.responses, with_target=True)
    assert [p.answers[-1] for p in with_target] == [Answer(TARGET, t) for t in "ABC"]
    assert [p.answers[:-1] for p in with_target] == [p.answers for p in pools]


def test_response_without_a_score_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"found: sft\.1 of prompt a"):
        list(stored_pools(tmp_path, [("a", "sft.0", 0.1), ("c", "sft.0", 0.3)]))


@pytest.mark.parametrize("order", ["cab", "ab", "acbc"])
def test_rows_in_another_order_are_refused(tmp_path: Path, order: str) -> None:
    """The table has a and c; a prompt that is missing, or comes in another place, leaves rows over."""
    pools = stored_pools(tmp_path)
    if order == "acbc":
        artifacts.write_table(pools.responses, as_table([r for p in order for r in responses_of(p, 1)]))
        order = "abc"
    with pytest.raises(InputError, match="not in the order of the prompts"):
        list(by_prompt(list(order), pools.responses, ["response_id"]))


# Scores and selection


def score_pool(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path, list[Row]]:
    """Gather and score a pool of three prompts, four answers to each, by the length of a text; return both manifests."""
    from selfcontrast import plugins
    from selfcontrast.steps import score

    split = split_of(3)
    texts = ["one", "three", "", "three"]
    rows = [(p, f"sft.{j}", t, [j], "stop") for p in split["prompt_id"] for j, t in enumerate(texts)]
    gather(folder, split, [rows])
    by_length = SimpleNamespace(
        Params=SimpleNamespace,
        score=lambda pools, prompts, params, counts: [
            [len(a.text) for a in p.answers] for _ in (list(pools),) for p in pools
        ],
    )
    with monkeypatch.context() as patch:
        patch.setattr(plugins, "load", lambda kind, name: by_length)
        patch.setattr(score, "PROMPTS_AT_A_TIME", 2)
        prompts, pool = folder / "m/prompts/manifest.json", folder / "pools/sft/manifest.json"
        scores = folder / "scores/length/manifest.json"
        report = run(score.work, scores, {"kind": "x", "params": {}}, prompts=prompts, split="pool", responses=pool)
    assert report == {"prompts": 3, "responses": 12, "distinct_texts": 3}
    return pool, scores, rows


def test_every_answer_and_every_target_has_its_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scorer may loop over the pools twice. A target is `target 0`, of eight letters."""
    _, scores, rows = score_pool(tmp_path, monkeypatch)
    found = artifacts.read_table(scores.parent / "scores.parquet")
    expected = [(p, r, float(len(text))) for p, r, text, *_ in rows]
    for i, p in enumerate(split_of(3)["prompt_id"]):
        expected.insert(5 * i + 4, (p, TARGET, 8.0))
    assert list(zip(*found.values(), strict=True)) == expected


@pytest.mark.parametrize("with_scores", [True, False])
def test_groups_carry_the_scores_of_their_negatives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_scores: bool
) -> None:
    """Without repeated and empty texts `one` and `three` are left; common_n is above every pool and so not asked for."""
    from selfcontrast.steps import select_groups

    pool, scores, _ = score_pool(tmp_path, monkeypatch)
    params = {"pool": "sft", "dedup": True, "scorer": "length" if with_scores else None}
    spec = {"n": 2, "common_n": 16, "nested": True, "seed": 1, "kind": "target", "params": params}
    report = run(
        select_groups.work,
        tmp_path / "groups/s0/manifest.json",
        spec,
        prompts=tmp_path / "m/prompts/manifest.json",
        pool=pool,
        scores=scores if with_scores else None,
        seed=0,
    )
    groups = [record for _, record in artifacts.read_jsonl(tmp_path / "groups/s0/groups.jsonl")]
    assert [g["prompt_id"] for g in groups] == split_of(3)["prompt_id"]
    assert all(g["rejected"] == ["sft.0", "sft.1"] and g["chosen"] == TARGET for g in groups)
    assert all(g["score"] == ([3.0, 5.0] if with_scores else None) for g in groups)
    assert report["common_n"] == 0
    assert report["answers_left_out"] == {"empty": 3, "repeated text": 3}


def group_step(folder: Path, answers: int, params: dict[str, Any], *, n: int = 1, common_n: int = 1) -> Any:
    """Run the step on three prompts, each with so many answers in the pool, and return its report."""
    from selfcontrast.steps import select_groups

    split = split_of(3)
    rows = [(p, f"annotated.{j}", f"worse {j}", [3, 1], "stop") for p in split["prompt_id"] for j in range(answers)]
    prompts = write_step(folder / "m/prompts/manifest.json", pool=split)
    pool = write_step(folder / "m/annotated/manifest.json", responses=as_table(rows))
    spec = {"n": n, "common_n": common_n, "nested": True, "seed": 1, "kind": "target", "params": params}
    return run(
        select_groups.work, folder / "groups/manifest.json", spec, prompts=prompts, pool=pool, scores=None, seed=0
    )


def test_a_pool_without_answers_is_refused_with_advice_that_fits_it(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        group_step(tmp_path, 0, {"pool": "annotated"})
    assert "no answer to any of 3 prompts in the pool" in str(error.value)
    assert "rejected answers" in str(error.value)
    assert "{}" not in str(error.value)


def test_too_few_candidates_are_told_with_what_was_left_out(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"at most 2 candidates, of at most 2 answers to a prompt\n"):
        group_step(tmp_path, 2, {"pool": "annotated"}, n=3)


def test_the_reserve_is_not_asked_of_a_pool_whose_filter_cannot_leave_so_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of four answers are two, of which one is empty: enough for n = 1, and never for common_n = 3."""
    from selfcontrast.steps import select_groups

    pool, scores, _ = score_pool(tmp_path, monkeypatch)
    params = {"pool": "sft", "scorer": "length", "filter": {"kind": "least", "keep": 0.5}}
    spec = {"n": 1, "common_n": 3, "nested": True, "seed": 1, "kind": "target", "params": params}
    prompts = tmp_path / "m/prompts/manifest.json"
    report = run(
        select_groups.work, tmp_path / "groups/m.json", spec, prompts=prompts, pool=pool, scores=scores, seed=0
    )
    assert (report["groups"], report["common_n"]) == (3, 0)


# Groups for training

GROUPS = [("p03", TARGET, ["sft.1", "sft.0"]), ("p00", "sft.2", ["sft.0"]), ("p61", TARGET, ["sft.2"])]


def join(folder: Path, reference: Path, kind: str, groups_of: Any = GROUPS, **params: Any) -> Any:
    """Return the split, the pool, and the groups as `train` reads them."""
    from selfcontrast import plugins
    from selfcontrast.steps import train
    from selfcontrast.training.preference import Objective

    split = split_of(4)
    split["prompt_id"][3] = "p03"
    rows = [r for p in split["prompt_id"] for r in responses_of(p, 3)]
    gather(folder, split, [rows])
    logps = compute_logps(folder, reference, 2)
    records = [
        {"prompt_id": p, "chosen": c, "rejected": r, "score": [0.5 - j for j in range(len(r))]} for p, c, r in groups_of
    ]
    groups = write_step(folder / "groups/s0/manifest.json")
    artifacts.write_jsonl(groups.parent / "groups.jsonl", records)
    digest = artifacts.sha256(groups.parent / "groups.jsonl")
    artifacts.write_json(groups, {"inputs": {}, "outputs": {"groups.jsonl": digest}, "report": {}})
    module = plugins.load("objectives", kind)
    args = argparse.Namespace(
        prompts=folder / "m/prompts/manifest.json",
        pool=folder / "pools/sft/manifest.json",
        groups=groups,
        ref_logps=logps,
    )
    found = train._token_groups(args, cli.Step({}, groups), Objective(module, module.Params(**params)))
    return split, {r[:2]: r[3] for r in rows}, found


@pytest.mark.parametrize(("kind", "params"), [("dpo", {}), ("ld_dpo", {"alpha": 0.5}), ("kto", {})])
def test_groups_have_their_tokens_and_log_probabilities(
    tmp_path: Path, reference: Path, kind: str, params: dict[str, Any]
) -> None:
    """Tokens of single responses only for `ld_dpo`, an answer to another prompt only for `kto`."""
    from selfcontrast.training.groups import Elsewhere, TokenGroup

    split, tokens, found = join(tmp_path, reference, kind, **params)
    expected = []
    for prompt_id, chosen, rejected in GROUPS:
        i = split["prompt_id"].index(prompt_id)
        prompt, following = split["prompt_ids"][i], split["target_ids"][(i + 1) % 4]
        ids = [split["target_ids"][i] if r == TARGET else tokens[prompt_id, r] for r in (chosen, *rejected)]
        values = [[-t - len(prompt) / 8 for t in r] for r in ids]
        elsewhere = Elsewhere(following, sum(-t - len(prompt) / 8 for t in following))
        expected.append(
            TokenGroup(
                prompt,
                ids,
                [sum(v) for v in values],
                values if kind == "ld_dpo" else None,
                score=[0.5 - j for j in range(len(rejected))],
                elsewhere=elsewhere if kind == "kto" else None,
            )
        )
    assert list(found) == expected
    assert [group.prompt_id for group in found] == [prompt_id for prompt_id, *_ in GROUPS]
    assert found[1:] == expected[1:]
    assert found.longest_row == max(len(g.prompt_ids) + max(g.lengths) for g in expected)
    assert found.n_tokens == sum(len(g.prompt_ids) + sum(g.lengths) for g in expected)
    assert len(found.tokens) == 7, "each response that a group names, once"


def test_response_that_the_pool_has_not_is_named(tmp_path: Path, reference: Path) -> None:
    with pytest.raises(InputError, match=r"no reference log-probability\n  found: sft\.9 of prompt p00"):
        join(tmp_path, reference, "dpo", [("p00", TARGET, ["sft.0", "sft.9"])])


# Memory


class Peak:
    """The largest number of bytes that Python, numpy and Arrow held at once; Arrow is asked at every write."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._arrow = self._before = pa.total_allocated_bytes()
        write = parquet.Writer.write

        def note(writer: parquet.Writer, rows: Any) -> None:
            write(writer, rows)
            self._arrow = max(self._arrow, pa.total_allocated_bytes())

        monkeypatch.setattr(parquet.Writer, "write", note)

    def of(self, work: Callable[[], object]) -> int:
        """Return the peak while ``work`` runs."""
        self._arrow = self._before = pa.total_allocated_bytes()
        tracemalloc.start()
        try:
            work()
            return tracemalloc.get_traced_memory()[1] + self._arrow - self._before
        finally:
            tracemalloc.stop()


def test_gathering_holds_a_small_part_of_a_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """400 prompts x 8 responses x 200 tokens. The control reads the same shards as lists, as the step once did."""
    from selfcontrast.steps import gather_pool

    monkeypatch.setattr(parquet, "ROW_GROUP", 256)
    monkeypatch.setattr(joins, "SHARD_ROWS", 64)
    monkeypatch.setattr(gather_pool, "PROMPTS_AT_A_TIME", 16)
    split = split_of(400)
    rows = [
        (p, f"sft.{j}", f"{p} {j} " * 20, list(range(1000 + j, 1200 + j)), "stop")
        for p in split["prompt_id"]
        for j in range(8)
    ]
    shards = [[r for i, r in enumerate(rows) if i // 8 % 3 == shard] for shard in range(3)]
    peak = Peak(monkeypatch)
    gather(tmp_path, split, shards)  # imports and files
    paths = [tmp_path / f"shards/{i}/shard.parquet" for i in range(3)]
    whole = peak.of(lambda: [artifacts.read_table(path) for path in paths])
    manifests = [path.with_name("manifest.json") for path in paths]
    prompts = tmp_path / "m/prompts/manifest.json"
    out = tmp_path / "pools/sft/manifest.json"
    in_parts = peak.of(lambda: run(gather_pool.work, out, prompts=prompts, shards=manifests))
    assert whole > 20_000_000
    assert in_parts < whole / 8
