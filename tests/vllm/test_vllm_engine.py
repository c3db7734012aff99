"""The back-end vLLM against the Hugging Face one, on the same checkpoint: the embedded study's kind of model, heads 32 wide.

Run by ``make test-vllm`` in the environment of vLLM, which has transformers too; skipped in any other.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from selfcontrast import artifacts
from selfcontrast.errors import StepError
from selfcontrast.sampling import Request, Sampled, Sampling, sample_shard
from selfcontrast.seeds import derive_seed

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not in this environment: make test-vllm"),
]

ROOT = Path(__file__).resolve().parents[2]
MAX_LENGTH = 96
PROMPTS = [[1, *((11 + 7 * i * k + k) % 140 + 7 for k in range(3 + 5 * i % 29))] for i in range(13)]
NO_EOS: frozenset[int] = frozenset()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model whose weights are large enough for its next token to be far from uniform."""
    from selfcontrast.checkpoints import save_checkpoint
    from selfcontrast.world.checkpoint import build_model, build_tokenizer

    folder = tmp_path_factory.mktemp("policy") / "model"
    model = build_model(n_layers=2, width=64, n_heads=2, max_length=MAX_LENGTH, seed=0)
    for weight in model.parameters():
        if weight.dim() > 1:
            weight.data *= 2.5
    save_checkpoint(folder, model, build_tokenizer(max_length=MAX_LENGTH))
    return folder


@pytest.fixture(scope="session")
def engine(checkpoint: Path) -> Any:
    import torch

    from selfcontrast.vllm_engine import VllmSampler

    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    return VllmSampler(checkpoint, dtype="float32", max_length=MAX_LENGTH, with_logps=True)


@pytest.fixture(scope="session")
def reference(checkpoint: Path) -> Any:
    from selfcontrast.checkpoints import load_model
    from selfcontrast.generation import HuggingFaceSampler

    return HuggingFaceSampler(load_model(checkpoint, dtype="float32"))


def seeds_for(n: int, *, root: int = 0) -> list[list[int]]:
    return [[derive_seed(root, i, j) for j in range(n)] for i in range(len(PROMPTS))]


def ids_of(rows: list[list[Sampled]]) -> list[list[list[int]]]:
    return [[a.ids for a in row] for row in rows]


# Parity


def test_greedy_answers_equal_those_of_the_other_back_end(engine: Any, reference: Any) -> None:
    """13 prompts, 40 tokens each; the EOS is the sixth token of the first answer, so that some end by it."""
    free = reference.sample(PROMPTS, seeds_for(1), Sampling(40, temperature=0), eos_ids=NO_EOS)
    eos = frozenset([free[0][0].ids[5]])
    expected = reference.sample(PROMPTS, seeds_for(1), Sampling(40, temperature=0), eos_ids=eos)
    found = engine.sample(PROMPTS, seeds_for(1), Sampling(40, temperature=0), eos_ids=eos)
    assert len({a.ids[0] for (a,) in expected}) > 3  # else every prompt gets the same answer, and the test sees nothing
    assert [(a.ids, a.finish) for (a,) in found] == [(a.ids, a.finish) for (a,) in expected]


def test_log_probabilities_of_sampled_tokens_equal_those_of_training(engine: Any, reference: Any) -> None:
    """Float32 on both sides: 1e-4 nats allow for other orders of summation. Prints the largest difference."""
    import torch

    from selfcontrast.logprobs import token_logps

    rows = engine.sample(PROMPTS, seeds_for(8), Sampling(40), eos_ids=NO_EOS)
    with torch.no_grad():
        expected = token_logps(reference.model, PROMPTS, [[a.ids for a in row] for row in rows]).values.tolist()
    found = [logp for row in rows for a in row for logp in a.logps]
    assert len(found) == len(expected) == 13 * 8 * 40
    largest = max(abs(a - b) for a, b in zip(found, expected, strict=True))
    print(f"largest difference of log-probabilities: {largest:.2e}")
    assert largest < 1e-4


def test_samples_follow_the_distribution_of_the_model(engine: Any, reference: Any) -> None:
    """Chi-square of 4000 first tokens, cells that expect fewer than 5 put together.

    Its mean is the degrees of freedom d, its variance 2 d; the seeds are fixed, so that a pass stays a pass.
    """
    import torch

    prompt = PROMPTS[1]
    (answers,) = engine.sample([prompt], [[derive_seed(9, j) for j in range(4000)]], Sampling(1), eos_ids=NO_EOS)
    with torch.no_grad():
        expected = reference.model(torch.tensor([prompt])).logits[0, -1].double().softmax(-1) * 4000
    counts = torch.bincount(torch.tensor([a.ids[0] for a in answers]), minlength=len(expected)).double()
    rare = expected < 5
    counts = torch.cat([counts[~rare], counts[rare].sum()[None]])
    expected = torch.cat([expected[~rare], expected[rare].sum()[None]])
    freedom = len(expected) - 1
    assert freedom >= 5
    statistic = float(((counts - expected) ** 2 / expected).sum())
    assert abs(statistic - freedom) < 4 * (2 * freedom) ** 0.5


# Seeds


def test_a_response_depends_on_its_prompt_and_its_seed_alone(engine: Any) -> None:
    """Not on what is sampled beside it, before it, or in which order."""
    whole = ids_of(engine.sample(PROMPTS, seeds_for(4), Sampling(20), eos_ids=NO_EOS))
    assert ids_of(engine.sample(PROMPTS, seeds_for(4), Sampling(20), eos_ids=NO_EOS)) == whole
    back = engine.sample(PROMPTS[::-1], seeds_for(4)[::-1], Sampling(20), eos_ids=NO_EOS)
    assert ids_of(back)[::-1] == whole
    ((alone,),) = engine.sample([PROMPTS[5]], [[seeds_for(4)[5][2]]], Sampling(20), eos_ids=NO_EOS)
    assert alone.ids == whole[5][2]


def test_another_seed_gives_another_response(engine: Any) -> None:
    first, second = (
        ids_of(engine.sample(PROMPTS, seeds_for(4, root=root), Sampling(20), eos_ids=NO_EOS)) for root in (0, 1)
    )
    assert not [1 for a, b in zip(first, second, strict=True) for x, y in zip(a, b, strict=True) if x == y]


def test_responses_to_one_prompt_all_differ(engine: Any) -> None:
    """16 responses of 20 tokens; were they to share a seed, they would be copies."""
    for row in ids_of(engine.sample(PROMPTS, seeds_for(16), Sampling(20), eos_ids=NO_EOS)):
        assert len({tuple(ids) for ids in row}) == 16


def test_prompts_of_equal_text_and_different_seeds_do_not_share_random_numbers(engine: Any) -> None:
    """One seed for all requests would make these equal (vllm-project/vllm#50440)."""
    rows = ids_of(
        engine.sample([PROMPTS[4]] * 8, [[derive_seed(3, i)] for i in range(8)], Sampling(20), eos_ids=NO_EOS)
    )
    assert len({tuple(ids) for (ids,) in rows}) == 8


# Ends of responses


def test_stop_token_ends_a_response_and_is_kept(engine: Any) -> None:
    eos = frozenset([20, 30, 40, 50, 60, 70])
    answers = [a for row in engine.sample(PROMPTS, seeds_for(16), Sampling(20), eos_ids=eos) for a in row]
    stopped = [a for a in answers if a.finish == "stop"]
    cut = [a for a in answers if a.finish == "length"]
    assert min(len(stopped), len(cut)) > 10
    assert all(a.ids[-1] in eos and not eos & set(a.ids[:-1]) for a in stopped)
    assert all(len(a.ids) == 20 and not eos & set(a.ids) for a in cut)


def test_the_eos_of_the_checkpoint_does_not_end_a_response_unless_it_was_asked_for(engine: Any) -> None:
    """Token 2 is the EOS of config.json and generation_config.json."""
    free = [a for row in engine.sample(PROMPTS, seeds_for(32), Sampling(40), eos_ids=NO_EOS) for a in row]
    assert all(a.finish == "length" and len(a.ids) == 40 for a in free)
    assert any(2 in a.ids[:-1] for a in free)


def test_eos_as_the_last_token_allowed_is_a_stop(engine: Any) -> None:
    rows = engine.sample(PROMPTS, seeds_for(2), Sampling(1), eos_ids=frozenset(range(150)))
    assert {a.finish for row in rows for a in row} == {"stop"}


# Shards


@pytest.mark.parametrize("backend", ["engine", "reference"])
def test_pool_is_the_same_for_1_3_and_8_shards_and_for_more_shards_than_prompts(
    backend: str, request: pytest.FixtureRequest
) -> None:
    """13 prompts in 5 batches of 3: 3 shards are uneven, of 8 and of 20 some are empty."""
    sampler = request.getfixturevalue(backend)
    asked = Request(
        n=4,
        seed_of=lambda i, j: derive_seed(7, i, j),
        sampling=Sampling(24),
        eos_ids=frozenset([20, 30, 40]),
        prompts_per_batch=3,
    )
    whole = sample_shard(PROMPTS, asked, lambda: sampler)
    assert whole.keys() == set(range(13))
    assert all(len(row) == 4 for row in whole.values())
    for shards in (3, 8, 20):
        parts = [sample_shard(PROMPTS, asked, lambda: sampler, shard=i, shards=shards) for i in range(1, shards + 1)]
        assert sum(len(part) for part in parts) == 13
        assert {i: row for part in parts for i, row in part.items()} == whole
    reseeded = replace(asked, seed_of=lambda i, j: derive_seed(8, i, j))
    assert sample_shard(PROMPTS, reseeded, lambda: sampler) != whole


# The step


@pytest.fixture
def inputs(checkpoint: Path, tmp_path: Path) -> Iterator[Path]:
    """The manifests that generate_shard reads, and its spec."""
    policy = tmp_path / "hh" / "sft"
    policy.mkdir(parents=True)
    (policy / "model").symlink_to(checkpoint)
    artifacts.write_json(policy / "manifest.json", {"outputs": {"model": artifacts.sha256(checkpoint)}})
    prompts = tmp_path / "hh" / "prompts"
    columns = {
        "prompt_id": [f"p{i}" for i in range(13)],
        "prompt_ids": PROMPTS,
        "rejected": [["no"]] * 13,
        "target": ["yes"] * 13,
    }
    artifacts.write_table(prompts / "pool.parquet", columns)
    digest = artifacts.sha256(prompts / "pool.parquet")
    artifacts.write_json(prompts / "manifest.json", {"outputs": {"pool.parquet": digest}})
    spec = {
        "dtype": "float32",
        "trust_remote_code": False,
        "kind": "policy",
        "params": {"n_responses": 4, "max_new_tokens": 24, "batch_responses": 12},
        "template": "tokenizer",
        "pool": "sft",
        "seed": 5,
        "engine": {"backend": "vllm", "max_length": MAX_LENGTH},
    }
    artifacts.write_json(tmp_path / "spec.json", spec)
    yield tmp_path


def run(step: str, folder: Path, *flags: str | Path) -> str:
    """Run a step as the rule does and return what it printed."""
    command = [sys.executable, "-m", f"selfcontrast.steps.{step}", "--spec", folder / "spec.json"]
    command += ["--prompts", folder / "hh/prompts/manifest.json", *flags]
    done = subprocess.run([str(c) for c in command], cwd=ROOT, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def test_step_gives_the_same_bytes_in_one_process_and_in_two(inputs: Path) -> None:
    policy = ["--policy", inputs / "hh/sft/manifest.json"]
    pools = []
    for shards in (1, 2):
        manifests = [inputs / f"{i}-of-{shards}" / "manifest.json" for i in range(1, shards + 1)]
        for i, manifest in enumerate(manifests, 1):
            run("generate_shard", inputs, *policy, "--shard", f"{i}-of-{shards}", "--gpus", "0", "--out", manifest)
            assert not (manifest.parent / ".chunks").exists()
        out = inputs / f"pool{shards}" / "manifest.json"
        run("gather_pool", inputs, "--shards", *manifests, "--out", out)
        pools.append((out.parent / "responses.parquet").read_bytes())
    assert pools[0] == pools[1]
    report = json.loads(out.read_text())["report"]
    assert report["responses"] == 52
    assert report["cut_by_length"] > 0
    settings = json.loads((inputs / "1-of-1" / "run.json").read_text())["sampler"]
    assert settings["backend"] == "vllm"
    assert settings["vllm"].count(".") >= 2
    assert settings["environment"]["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert settings["engine"]["max_model_len"] == MAX_LENGTH


# Errors


def test_heads_without_a_kernel_are_refused_before_the_model_is_loaded(tmp_path: Path) -> None:
    from selfcontrast.vllm_engine import VllmSampler

    (tmp_path / "config.json").write_text('{"hidden_size": 64, "num_attention_heads": 4}')
    with pytest.raises(StepError, match=r"attention heads of this width\n.*32, 64(.|\n)*found: 16"):
        VllmSampler(tmp_path, dtype="float32", max_length=64)


def test_a_folder_that_vllm_cannot_load_ends_in_one_message(checkpoint: Path, tmp_path: Path) -> None:
    """The model's own context is shorter than the study's: vLLM says so in a page of text."""
    from selfcontrast.vllm_engine import VllmSampler

    with pytest.raises(StepError, match="vLLM refuses the model or its settings"):
        VllmSampler(checkpoint, dtype="float32", max_length=4 * MAX_LENGTH)


def test_a_prompt_without_room_for_a_response_is_refused(engine: Any) -> None:
    """VLLM would cut the response short and mark it as any other."""
    with pytest.raises(StepError, match="no room in the context"):
        engine.sample([[5] * 60], [[1]], Sampling(40), eos_ids=NO_EOS)
