"""The engine: precision, checkpointing, adapters, memory that runs out, and several processes.

Differences of gradients and weights are relative to the largest value; the tolerance 1e-6 is that of conftest.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from selfcontrast.logprobs import response_logps, token_logps
from selfcontrast.training.adapters import add_adapters, merge_adapters
from selfcontrast.training.engine import Engine
from selfcontrast.training.groups import TokenGroup
from selfcontrast.training.preference import Execution, accumulate, train_preference
from selfcontrast.training.sft import Example, accumulate_sft

TOLERANCE = 1e-6
SETTINGS: dict[str, Any] = {"lr": 1e-2, "batch": 3, "shape": "constant", "warmup": 0.0, "clip": 1.0, "ema": None}
LORA = {"r": 2, "alpha": 8, "targets": "all-linear", "quantise": "none"}

pytestmark = pytest.mark.usefixtures("one_thread", "fresh_accelerate")


@pytest.fixture(scope="module")
def plain(llama: Any, ragged_groups: Any, objective_of: Any, gradients: Any) -> Callable[..., Any]:
    """Return figures and gradients of the ragged groups in one process, at once, one row for each response."""

    def of(kind: str = "dpo") -> tuple[dict[str, float], dict[str, Tensor]]:
        model = llama()
        figures = accumulate(Engine(model), ragged_groups(), objective_of(kind), Execution("chosen"))
        return figures, gradients(model)

    return of


# The engine and its model


def test_log_probabilities_of_the_engine_are_those_of_its_model(llama: Any, ragged_groups: Any) -> None:
    model = llama()
    prompts, responses = zip(*[(g.prompt_ids, g.responses) for g in ragged_groups()], strict=True)
    with torch.no_grad():
        found = Engine(model).token_logps(prompts, responses, sharing="packed")
        expected = token_logps(model, prompts, responses, sharing="packed")
    assert torch.equal(found.values, expected.values)
    assert found.lengths == expected.lengths


def test_weights_to_save_are_those_of_the_language_model_under_its_own_names(llama: Any) -> None:
    model = llama()
    engine = Engine(model)
    state = engine.save_weights()
    assert state is not None and state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert engine.is_whole
    assert (engine.rank, engine.world) == (0, 1)


def test_only_weights_that_require_a_gradient_are_trained(llama: Any) -> None:
    model = llama()
    model.lm_head.requires_grad_(False)
    assert len(Engine(model).parameters) == len(list(model.parameters())) - 1


def test_gradients_are_added_up_over_processes_with_the_last_part_alone(
    llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any other time is a waste, and no mistake: so it is the calls that are counted, in one process."""
    engine = Engine(llama())
    kept = []

    @contextlib.contextmanager
    def no_sync(model: Any) -> Iterator[None]:
        kept.append(model)
        yield

    monkeypatch.setattr(engine.accelerator, "no_sync", no_sync)
    for i in range(3):
        with engine.adding_up(i == 2):
            assert len(kept) == min(i + 1, 2)
    assert len(kept) == 2


# Precision


def test_bf16_computes_in_bfloat16_beside_weights_of_float32_and_comes_close(
    llama: Any, ragged_groups: Any, objective_of: Any, gradients: Any
) -> None:
    """bfloat16 has 8 bits, so that logits of about 5 are off by 0.02, and a response of 3 tokens by 0.05 at most.

    Gradients agree in direction: their cosine with those of float32 is above 0.999.
    """
    found = {}
    for precision in ("weights", "bf16"):
        _reset()
        model = llama().float()
        seen = []
        model.model.layers[0].mlp.down_proj.register_forward_hook(
            lambda _, args, out, seen=seen: seen.append(out.dtype)
        )
        engine = Engine(model, precision=precision)  # type: ignore[arg-type]
        groups = ragged_groups()
        with torch.no_grad():
            logps = engine.token_logps([g.prompt_ids for g in groups], [g.responses for g in groups], sharing="prefix")
        assert logps.values.dtype == torch.float32
        figures = accumulate(engine, groups, objective_of("dpo"), Execution("prefix"))
        grads = gradients(model)
        assert {g.dtype for g in grads.values()} == {torch.float32}
        assert set(seen) == {torch.bfloat16 if precision == "bf16" else torch.float32}
        found[precision] = logps.sums(), figures["loss"], torch.cat([g.flatten() for g in grads.values()])
        engine.step(1e-3)
        assert {p.dtype for p in model.parameters()} == {torch.float32}
    (exact, loss, gradient), (rounded, rounded_loss, rounded_gradient) = found["weights"], found["bf16"]
    assert 1e-4 < (exact - rounded).abs().max() < 0.3
    assert rounded_loss == pytest.approx(loss, abs=0.03)
    assert torch.nn.functional.cosine_similarity(gradient, rounded_gradient, dim=0) > 0.999


def _reset() -> None:
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)


# Gradient checkpointing


@pytest.mark.parametrize("sharing", ["packed", "chosen", "none"])
@pytest.mark.parametrize("tokens", [None, 1])
def test_checkpointing_gives_the_gradients_of_the_plain_run(
    llama: Any,
    ragged_groups: Any,
    objective_of: Any,
    gradients: Any,
    plain: Any,
    difference: Any,
    sharing: Any,
    tokens: int | None,
) -> None:
    """In training mode, where alone transformers checkpoints, and without the dropout of 0.2 of the model's attention."""
    figures, expected = plain()
    model = llama()
    layer_runs = 0

    def count(*_: Any) -> None:
        nonlocal layer_runs
        layer_runs += 1

    engine = Engine(model, gradient_checkpointing=True)
    model.model.layers[0].mlp.register_forward_pre_hook(count)
    found = accumulate(engine, ragged_groups(), objective_of("dpo"), Execution(sharing, tokens))
    assert found == pytest.approx(figures, abs=TOLERANCE)
    assert difference(gradients(model), expected) < TOLERANCE
    # Forward and once more in the backward pass; of 9 responses by themselves, 9 without gradient come first.
    assert layer_runs == (2 if tokens is None else 27)


def test_checkpointing_with_adapters_gives_their_gradients(
    llama: Any, ragged_groups: Any, objective_of: Any, gradients: Any, difference: Any
) -> None:
    """The embedding is frozen, so that no input of a layer requires a gradient by itself."""
    found = []
    for checkpointing in (False, True):
        model = llama()
        torch.manual_seed(3)
        add_adapters(model, LORA)
        _randomise_adapters(model)
        engine = Engine(model, gradient_checkpointing=checkpointing)
        accumulate(engine, ragged_groups(), objective_of("dpo"), Execution("packed"))
        found.append(gradients(model))
    assert difference(found[1], found[0]) < TOLERANCE


SIZES = {
    "vocab_size": 23,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
RANDOM = {
    "GPT2": {"attn_pdrop": 0.5, "resid_pdrop": 0.5, "embd_pdrop": 0.5},
    "Phi3": {"attention_dropout": 0.5, "resid_pdrop": 0.5, "embd_pdrop": 0.5, "num_key_value_heads": 2},
    "OPT": {"dropout": 0.5, "attention_dropout": 0.5, "ffn_dim": 32, "word_embed_proj_dim": 16, "init_std": 0.3},
    "Falcon": {"hidden_dropout": 0.5, "attention_dropout": 0.5},
    "Starcoder2": {"residual_dropout": 0.5, "embedding_dropout": 0.5, "num_key_value_heads": 2},
    "Mixtral": {"router_jitter_noise": 0.5, "num_local_experts": 4, "num_key_value_heads": 2},
}


@pytest.mark.parametrize("name", RANDOM)
def test_checkpointing_runs_without_dropout_or_other_noise(name: str) -> None:
    """Training mode, which checkpointing needs, turns on what the configuration asks for: the policy is not the reference."""
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**SIZES, **RANDOM[name])
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    prompts, responses = [[3, 4]], [[[5, 6, 2], [7, 8, 9, 2]]]
    with torch.no_grad():
        expected = token_logps(model, prompts, responses, sharing="chosen").values
    engine = Engine(model, gradient_checkpointing=True)
    for _ in range(3):
        found = engine.token_logps(prompts, responses, sharing="chosen").values
        assert (found - expected).abs().max() < 1e-5  # float32


# Adapters


def _randomise_adapters(model: nn.Module) -> None:
    """Give the second factors, which start at 0, values: as behind a few steps."""
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))


def logps_of(model: Any, groups: Sequence[TokenGroup]) -> Tensor:
    with torch.no_grad():
        return response_logps(model, [g.prompt_ids for g in groups], [g.responses for g in groups])


def test_adapters_change_nothing_before_the_first_step_and_something_behind_it(
    llama: Any, token_groups: Any, objective_of: Any, ragged_groups: Any
) -> None:
    """The first loss is log 2: the policy is the reference."""
    base, model = llama(), llama()
    add_adapters(model, LORA)
    groups = token_groups([(g.prompt_ids, g.responses) for g in ragged_groups()], reference=base)
    assert torch.equal(logps_of(model, groups), logps_of(base, groups))
    history = train_preference(Engine(model), groups, objective_of("dpo"), SETTINGS, n_steps=2, seed=0)
    assert history[0]["loss"] == pytest.approx(math.log(2), abs=TOLERANCE)
    assert (logps_of(model, groups) - logps_of(base, groups)).abs().max() > 1e-3


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj"], ["q_proj", "lm_head"]])
def test_adapters_alone_are_trained(
    llama: Any, ragged_groups: Any, objective_of: Any, targets: Any, weights: Any
) -> None:
    """Frozen weights get no gradient and keep their bits; every adapter has moved behind two steps."""
    model = llama()
    add_adapters(model, {**LORA, "targets": targets})
    before = weights(model)
    engine = Engine(model)
    assert {id(p) for p in engine.parameters} == {id(p) for n, p in model.named_parameters() if "lora_" in n}
    accumulate(engine, ragged_groups(), objective_of("dpo"), Execution())
    assert {n for n, p in model.named_parameters() if p.grad is not None} == {n for n in before if "lora_" in n}
    engine.step(1e-2)
    train_preference(engine, ragged_groups(), objective_of("dpo"), SETTINGS, n_steps=1, seed=0)
    for name, value in weights(model).items():
        assert torch.equal(value, before[name]) == ("lora_" not in name), name


def test_merged_model_has_the_log_probabilities_of_the_adapted_one(llama: Any, ragged_groups: Any) -> None:
    model, base = llama(), llama()
    adapted = add_adapters(model, LORA)
    _randomise_adapters(model)
    groups = ragged_groups()
    expected = logps_of(model, groups)
    assert (expected - logps_of(base, groups)).abs().max() > 0.1
    merged = merge_adapters(adapted)
    assert (logps_of(merged, groups) - expected).abs().max() < TOLERANCE
    assert merged.state_dict().keys() == base.state_dict().keys()


def test_merged_weight_by_hand(llama: Any) -> None:
    """The weight plus alpha / r = 8 / 2 times the product of the factors; weights without adapters stay as they are."""
    model, base = llama(), llama()
    adapted = add_adapters(model, {**LORA, "targets": ["v_proj"]})
    _randomise_adapters(model)
    layer = model.model.layers[1].self_attn.v_proj
    product = (layer.lora_B["default"].weight @ layer.lora_A["default"].weight).detach()
    assert product.shape == (8, 16) and product.abs().max() > 0.1
    merged = dict(merge_adapters(adapted).named_parameters())
    for name, value in base.named_parameters():
        if name.endswith("layers.1.self_attn.v_proj.weight"):
            assert torch.allclose(merged[name], value + 4 * product)
        elif "v_proj" not in name:
            assert torch.equal(merged[name], value)


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "lm_head"]])
def test_adapted_model_gives_the_same_for_every_sharing_and_budget(
    llama: Any, ragged_groups: Any, objective_of: Any, gradients: Any, difference: Any, targets: Any
) -> None:
    """With adapters on the head too, which is then no plain linear layer."""
    model = llama()
    torch.manual_seed(3)
    add_adapters(model, {**LORA, "targets": targets})
    _randomise_adapters(model)
    engine = Engine(model)
    expected = None
    for sharing, tokens in (("chosen", None), ("prefix", None), ("packed", 20), ("none", None), ("prefix", 1)):
        accumulate(engine, ragged_groups(), objective_of("dpo"), Execution(sharing, tokens))  # type: ignore[arg-type]
        found = gradients(model)
        expected = expected or found
        assert difference(found, expected) < TOLERANCE


# Memory that runs out


@pytest.fixture
def memory_for(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[tuple[bool, str]]]:
    """Let passes of more tokens, padding counted, run out of memory.

    Returns, pass by pass, whether it had gradients and how it shared prompts.
    """
    actual = Engine.token_logps
    passes: list[tuple[bool, str]] = []

    def limit(tokens: int) -> list[tuple[bool, str]]:
        def limited(self: Engine, prompts: Any, responses: Any, *, sharing: Any) -> Any:
            rows = [r for rs in responses for r in rs]
            found = actual(self, prompts, responses, sharing=sharing)
            if max(map(len, prompts)) * len(prompts) + max(map(len, rows)) * len(rows) > tokens:
                raise torch.OutOfMemoryError("CUDA out of memory (as a test says)")
            passes.append((torch.is_grad_enabled(), sharing))
            return found

        monkeypatch.setattr(Engine, "token_logps", limited)
        return passes

    return limit


@pytest.mark.parametrize("kind", ["dpo", "softmax", "kto", "ld_dpo"])
@pytest.mark.parametrize(
    ("limit", "budgets"),
    [
        # The three groups hold 9 + 17 + 14 = 40 tokens, 51 when they are padded to one another.
        (50, [20]),
        (16, [20, 10]),  # the two larger groups do not fit: two passes for them
        (8, [20, 10, 5]),  # nor does the smallest: two passes for all
    ],
)
def test_memory_that_runs_out_halves_the_budget_and_changes_no_gradient(
    llama: Any,
    ragged_groups: Any,
    objective_of: Any,
    gradients: Any,
    difference: Any,
    plain: Any,
    memory_for: Any,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    limit: int,
    budgets: list[int],
) -> None:
    figures, expected = plain(kind)
    model = llama()
    passes = memory_for(limit)
    execution = Execution("prefix")
    found = accumulate(Engine(model), ragged_groups(), objective_of(kind), execution)
    assert found == pytest.approx(figures, abs=TOLERANCE)
    assert difference(gradients(model), expected) < TOLERANCE
    lines = [r.getMessage() for r in caplog.records if r.name.startswith("selfcontrast")]
    assert lines == [f"out of memory; going on with {b} tokens at a time" for b in budgets]
    assert execution.tokens == budgets[-1]
    # Answers from elsewhere, for the drift, run row by row; other passes without gradients are first ones of two.
    assert ((False, "prefix") in passes) == (limit < 50)


def test_budget_that_was_found_is_kept_for_the_batches_that_follow(
    llama: Any, ragged_groups: Any, objective_of: Any, memory_for: Any, caplog: pytest.LogCaptureFixture
) -> None:
    memory_for(50)
    train_preference(Engine(llama()), ragged_groups(), objective_of("dpo"), SETTINGS, n_steps=3, seed=0)
    assert len([r for r in caplog.records if "out of memory" in r.getMessage()]) == 1


def test_memory_that_does_not_hold_one_response_is_an_error(
    llama: Any, ragged_groups: Any, objective_of: Any, memory_for: Any
) -> None:
    memory_for(2)
    with pytest.raises(torch.OutOfMemoryError):
        accumulate(Engine(llama()), ragged_groups(), objective_of("dpo"), Execution("prefix"))


# Several processes

CASES: dict[str, dict[str, Any]] = {
    "batch at once": {"kind": "dpo", "tokens": None},
    "micro-batches": {"kind": "dpo", "tokens": 20},
    "listwise": {"kind": "softmax", "tokens": 20},
    "drift": {"kind": "kto", "tokens": 20},
    "sft": {"kind": "sft", "tokens": 12},
    "adapters": {"kind": "dpo", "tokens": 20, "lora": True},
    "two passes": {"kind": "dpo", "tokens": 14},
}
TEXTS = (
    ([3, 4, 5], [[6, 7, 2], [8, 2], [9, 9, 2]]),
    ([9], [[10, 2], [11, 12, 2], [2], [14, 14, 2], [3, 3, 3]]),
    ([1, 1, 1], [[15, 2], [16, 2], [17, 18, 2]]),
    ([5], [[4, 2], [16, 2]]),
    ([5, 6], [[4, 7, 2], [16, 2], [2]]),
)
"""Five groups of 7 to 16 tokens. In batches of three, the second process has one to the first one's two; then two are left."""


def run_case(name: str, builders: Any) -> dict[str, Any]:
    """Train for three steps and return the history and the weights."""
    case = CASES[name]
    model = builders.build_llama()
    if case.get("lora"):
        torch.manual_seed(3)
        add_adapters(model, LORA)
    engine = Engine(model)
    history = []
    groups = builders.build_groups(TEXTS)
    for batch in (groups[:3], groups[3:], groups[4:]):
        if case["kind"] == "sft":
            examples = [Example(list(g.prompt_ids), [list(g.responses[0])]) for g in batch]
            figures = accumulate_sft(engine, examples, tokens=case["tokens"])
        else:
            objective = builders.build_objective(case["kind"])
            figures = accumulate(engine, batch, objective, Execution("prefix", case["tokens"]))
        history.append({**figures, "grad_norm": engine.step(1e-2)})
    return {"history": history, "weights": builders.collect_weights(model)}


def work(folder: Path, cases: Sequence[str]) -> None:
    """Run as one of several processes: write what each case gives, as this process sees it."""
    import datetime

    import conftest
    from safetensors.torch import save_file

    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", timeout=datetime.timedelta(seconds=20))
    rank = os.environ["RANK"]
    for name in cases:
        conftest._reset_accelerate()
        found = run_case(name, conftest)
        engine_world = torch.distributed.get_world_size()
        save_file(found["weights"], folder / f"{name}.{rank}.safetensors")
        text = json.dumps({"history": found["history"], "world": engine_world})
        (folder / f"{name}.{rank}.json").write_text(text)


def launch(folder: Path, cases: Sequence[str]) -> list[str]:
    """Run the cases in two processes; return what each wrote to its standard error."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    here = Path(__file__)
    code = f"import sys, test_engine, pathlib; test_engine.work(pathlib.Path(sys.argv[1]), {list(cases)!r})"
    processes = []
    for rank in range(2):
        env = {
            **os.environ,
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "OMP_NUM_THREADS": "1",
            "ACCELERATE_USE_CPU": "true",
            "PYTHONPATH": os.pathsep.join([str(here.parent), str(here.parents[2]), os.environ.get("PYTHONPATH", "")]),
        }
        command = [sys.executable, "-c", code, str(folder)]
        processes.append(subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True))
    try:
        return [p.communicate(timeout=120)[1] for p in processes]
    finally:
        for p in processes:
            p.kill()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Run all cases once; a case that hangs ends the run behind it."""
    folder = tmp_path_factory.mktemp("processes")
    return folder, launch(folder, list(CASES))


@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_like_one(two_processes: Any, difference: Any, builders: Any, name: str) -> None:
    """Loss, figures, gradient norm and weights of three steps; batches of three groups, two and one over two processes."""
    folder, errors = two_processes
    expected = run_case(name, builders)
    for rank in range(2):
        assert (folder / f"{name}.{rank}.json").exists(), errors[rank][-3000:]
        found = json.loads((folder / f"{name}.{rank}.json").read_text())
        assert found["world"] == 2
        for one, other in zip(found["history"], expected["history"], strict=True):
            assert one == pytest.approx(other, abs=TOLERANCE)
        weights = load_file(folder / f"{name}.{rank}.safetensors")
        assert difference(weights, expected["weights"]) < TOLERANCE
