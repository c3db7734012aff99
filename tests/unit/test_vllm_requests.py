"""What the back-end vLLM asks of vLLM, and what it says when that fails: with a stand-in for the package.

tests/vllm samples with vLLM itself.
"""

from __future__ import annotations

import importlib.machinery
import os
import sys
import types
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from selfcontrast import backends, vllm_engine
from selfcontrast.cli import Step
from selfcontrast.errors import StepError
from selfcontrast.finite import NotFiniteError
from selfcontrast.sampling import Sampled, Sampling
from selfcontrast.vllm_engine import VllmSampler

HEADS = [32, 64]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text('{"hidden_size": 64, "num_attention_heads": 2}')
    return tmp_path


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A package `vllm` whose LLM answers each request with its seed and its last prompt token, and ends with token 2."""
    for name in vllm_engine.ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    seen = SimpleNamespace(
        engine={},
        requests=[],
        params=[],
        resets=0,
        closed=0,
        error=None,
        refusal=None,
        reason="stop",
        cpu=True,
        logprobs={},
    )

    class Llm:
        def __init__(self, folder: str, **engine: Any) -> None:
            seen.engine = {"model": folder, **engine}
            core = SimpleNamespace(shutdown=lambda: setattr(seen, "closed", seen.closed + 1))
            self.llm_engine = SimpleNamespace(engine_core=core)
            if seen.refusal:
                raise seen.refusal

        def reset_prefix_cache(self) -> bool:
            seen.resets += 1
            return True

        def generate(self, requests: list[Any], params: list[Any], *, use_tqdm: bool) -> list[Any]:
            if seen.error:
                raise seen.error
            seen.requests, seen.params = requests, params
            ids = [[r["prompt_token_ids"][-1], p.seed, 2] for r, p in zip(requests, params, strict=True)]
            logps = [
                [{t: SimpleNamespace(logprob=seen.logprobs.get(t, -0.5))} for t in row]
                if params[0].logprobs == 0
                else None
                for row in ids
            ]
            return [
                SimpleNamespace(outputs=[SimpleNamespace(token_ids=row, finish_reason=seen.reason, logprobs=lp)])
                for row, lp in zip(ids, logps, strict=True)
            ]

    def package(name: str, **content: Any) -> types.ModuleType:
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, module)
        return module

    platforms = package("vllm.platforms", current_platform=SimpleNamespace(is_cpu=lambda: seen.cpu))
    package("vllm", LLM=Llm, SamplingParams=SimpleNamespace, platforms=platforms, __version__="0.0.1", __path__=[])
    for name in ("vllm.v1", "vllm.v1.attention", "vllm.v1.attention.backends"):
        package(name, __path__=[])
    kernel = SimpleNamespace(get_supported_head_sizes=lambda: HEADS)
    package("vllm.v1.attention.backends.cpu_attn", CPUAttentionBackend=kernel)
    return seen


def test_one_request_with_its_own_seed_for_each_response(vllm: SimpleNamespace, model: Path) -> None:
    sampler = VllmSampler(model, dtype="float32", max_length=64)
    rows = sampler.sample(
        [[5, 6], [7]], [[11, 12, 13], [14]], Sampling(9, temperature=0.7, top_p=0.9), eos_ids=frozenset([2])
    )
    assert [[a.ids for a in row] for row in rows] == [[[6, 11, 2], [6, 12, 2], [6, 13, 2]], [[7, 14, 2]]]
    assert rows[0][0] == Sampled([6, 11, 2], "stop", None)
    assert [r["prompt_token_ids"] for r in vllm.requests] == [[5, 6]] * 3 + [[7]]
    assert [p.seed for p in vllm.params] == [11, 12, 13, 14]
    assert len({id(p) for p in vllm.params}) == 4
    for p in vllm.params:
        assert not hasattr(p, "n")
        assert (p.temperature, p.top_p, p.max_tokens, p.stop_token_ids) == (0.7, 0.9, 9, [2])
        assert p.ignore_eos and not p.detokenize


def test_log_probabilities_are_those_of_the_sampled_tokens(vllm: SimpleNamespace, model: Path) -> None:
    sampler = VllmSampler(model, dtype="float32", max_length=64, with_logps=True)
    ((answer,),) = sampler.sample([[5]], [[1]], Sampling(9), eos_ids=frozenset([2]))
    assert answer.logps == [-0.5, -0.5, -0.5]


def test_every_batch_starts_without_what_the_one_before_left(vllm: SimpleNamespace, model: Path) -> None:
    sampler = VllmSampler(model, dtype="float32", max_length=64)
    for _ in range(3):
        sampler.sample([[5]], [[1]], Sampling(9), eos_ids=frozenset([2]))
    assert vllm.resets == 3


@pytest.mark.parametrize(("gpus", "size"), [(0, 1), (1, 1), (4, 4)])
def test_engine_is_started_with_the_study_and_the_granted_gpus(
    gpus: int, size: int, vllm: SimpleNamespace, model: Path
) -> None:
    vllm.cpu = gpus == 0
    sampler = VllmSampler(model, dtype="bfloat16", max_length=20_000, gpus=gpus)
    assert vllm.engine["model"] == str(model)
    assert vllm.engine["tensor_parallel_size"] == size
    assert (vllm.engine["dtype"], vllm.engine["max_model_len"]) == ("bfloat16", 20_000)
    assert vllm.engine["max_num_batched_tokens"] == 20_000
    assert vllm.engine["trust_remote_code"] is False
    assert vllm.engine["enable_prefix_caching"] and vllm.engine["skip_tokenizer_init"]
    assert vllm.engine["enforce_eager"] == (gpus == 0)
    assert sampler.settings["vllm"] == "0.0.1"


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_an_answer_whose_log_probabilities_are_not_finite_ends_the_step(
    vllm: SimpleNamespace, model: Path, value: float
) -> None:
    """Where logits are NaN vLLM draws a token all the same. The row names the prompt; whoever has its id says it."""
    vllm.logprobs = {7: value}
    sampler = VllmSampler(model, dtype="float16", max_length=64)
    with pytest.raises(NotFiniteError, match=rf"drawn is {value}[\s\S]*where: {model}, in float16, by vLLM") as error:
        sampler.sample([[5, 6], [7]], [[11, 12, 13], [14]], Sampling(9), eos_ids=frozenset([2]))
    assert error.value.row == 1
    sampler.sample([[5, 6]], [[11]], Sampling(9), eos_ids=frozenset([2]))


def test_switches_hold_unless_the_environment_says_otherwise_and_are_recorded(
    vllm: SimpleNamespace, model: Path
) -> None:
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = "7"
    os.environ["VLLM_BATCH_INVARIANT"] = "1"
    found = VllmSampler(model, dtype="float32", max_length=64).settings["environment"]
    assert found["VLLM_CPU_KVCACHE_SPACE"] == "7"
    assert found["VLLM_BATCH_INVARIANT"] == "1"
    assert found["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"


def test_secrets_of_its_server_are_not_recorded(vllm: SimpleNamespace, model: Path) -> None:
    os.environ["VLLM_API_KEY"] = "sk-secret"
    assert "sk-secret" not in str(VllmSampler(model, dtype="float32", max_length=64).settings)


def test_policy_opens_the_back_end_that_the_spec_names_and_notes_it_for_run_json(
    vllm: SimpleNamespace, model: Path
) -> None:
    step = Step({"engine": {"backend": "vllm", "max_length": 64}}, model / "manifest.json")
    loading = {"dtype": "float32", "trust_remote_code": False, "training": {}}
    policy = backends.Policy(step, model, loading=loading, gpus=2)
    assert step.cost == {}
    assert policy.sampler() is policy.sampler()
    assert step.cost["sampler"]["vllm"] == "0.0.1"
    assert vllm.engine["tensor_parallel_size"] == 2


def test_policy_ends_the_processes_of_the_back_end_also_after_an_error(vllm: SimpleNamespace, model: Path) -> None:
    step = Step({"engine": {"backend": "vllm", "max_length": 64}}, model / "manifest.json")
    loading = {"dtype": "float32", "trust_remote_code": False}
    with backends.Policy(step, model, loading=loading, gpus=0):
        pass  # never started
    assert vllm.closed == 0
    with pytest.raises(KeyError), backends.Policy(step, model, loading=loading, gpus=0) as policy:
        policy.sampler()
        raise KeyError
    assert vllm.closed == 1


# Errors


def test_missing_vllm_is_one_message_with_the_remedy(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    monkeypatch.setattr(vllm_engine, "find_spec", lambda name: None)
    with pytest.raises(StepError, match=r"(?s)not installed.*make env-vllm.*backend: hf"):
        VllmSampler(model, dtype="float32", max_length=64)


def test_heads_without_a_kernel_are_named_on_a_cpu_alone(vllm: SimpleNamespace, model: Path) -> None:
    (model / "config.json").write_text('{"hidden_size": 64, "num_attention_heads": 4}')
    with pytest.raises(StepError, match=r"(?s)heads of this width.*32, 64.*16.*backend: hf"):
        VllmSampler(model, dtype="float32", max_length=64)
    vllm.cpu = False
    VllmSampler(model, dtype="float32", max_length=64)


def test_width_of_heads_is_read_where_the_checkpoint_says_it(vllm: SimpleNamespace, model: Path) -> None:
    (model / "config.json").write_text('{"hidden_size": 64, "num_attention_heads": 4, "head_dim": 32}')
    VllmSampler(model, dtype="float32", max_length=64)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB\nsecond line"),
        ValueError("No available memory for the cache blocks. Try increasing `gpu_memory_utilization`"),
        ValueError("Free memory on device (1/80 GiB) on startup is less than desired GPU memory utilization (0.92)"),
        MemoryError(),
    ],
)
def test_lack_of_memory_is_one_message_at_the_start_and_later(
    error: Exception, vllm: SimpleNamespace, model: Path
) -> None:
    sampler = VllmSampler(model, dtype="float32", max_length=64)
    vllm.error = vllm.refusal = error
    with pytest.raises(StepError, match=r"(?s)out of memory.*models.<id>.inference_gpus") as caught:
        sampler.sample([[5]], [[1]], Sampling(9), eos_ids=frozenset([2]))
    assert "second line" not in str(caught.value)
    with pytest.raises(StepError, match="vLLM ran out of memory"):
        VllmSampler(model, dtype="float32", max_length=64)


def test_a_model_that_vllm_refuses_is_one_message(vllm: SimpleNamespace, model: Path) -> None:
    vllm.refusal = ValueError("\n  the architecture is not supported\nand more")
    with pytest.raises(StepError, match=r"(?s)refuses the model.*found: the architecture is not supported\n"):
        VllmSampler(model, dtype="float32", max_length=64)


def test_an_error_of_its_own_keeps_its_traceback(vllm: SimpleNamespace, model: Path) -> None:
    vllm.refusal = RuntimeError("a bug")
    with pytest.raises(RuntimeError, match="a bug"):
        VllmSampler(model, dtype="float32", max_length=64)


def test_a_response_that_ended_for_another_reason_is_no_response(vllm: SimpleNamespace, model: Path) -> None:
    sampler = VllmSampler(model, dtype="float32", max_length=64)
    vllm.reason = "abort"
    with pytest.raises(StepError, match=r"(?s)reason of its own.*abort"):
        sampler.sample([[5]], [[1]], Sampling(9), eos_ids=frozenset([2]))


def test_a_prompt_without_room_for_a_response_is_refused(vllm: SimpleNamespace, model: Path) -> None:
    sampler = VllmSampler(model, dtype="float32", max_length=10)
    assert sampler.sample([[5] * 6], [[1]], Sampling(4), eos_ids=frozenset([2]))
    with pytest.raises(StepError, match=r"no room"):
        sampler.sample([[5] * 7], [[1]], Sampling(4), eos_ids=frozenset([2]))
