"""The plan of a study: arithmetic against hand counts, the published run of `tiny`, and what a user reads."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from selfcontrast import __main__, energy
from selfcontrast.config import load_study
from selfcontrast.errors import ConfigError
from selfcontrast.planning.costs import (
    Lengths,
    forward,
    group_tokens,
    sampling_seconds,
    training_memory,
    training_operations,
)
from selfcontrast.planning.machines import MACHINES
from selfcontrast.planning.report import default_machine, describe_plan, ledger, machine_of
from selfcontrast.planning.shapes import KNOWN, Shape, named_shape, shape_of
from selfcontrast.planning.stages import Stage, lengths_of, plan_study
from selfcontrast.schema import Execution, Model, Optimisation, Study

ROOT = Path(__file__).resolve().parents[2]
SHAPE = Shape(layers=2, width=8, inner=16, kv_width=4, vocabulary=10)
LENGTHS = Lengths(prompt=128, response=128, source="study")
TRAINING = Optimisation(lr=1e-4, batch=4, epochs=1)


def stages_of(study: Study, machine: str = "cpu", results: Path = Path("nowhere")) -> dict[str, Stage]:
    return {s.rule: s for s in plan_study(study, MACHINES[machine], results=results)}


# Arithmetic


def test_weights_of_a_shape_are_those_of_the_model(tmp_path: Path) -> None:
    """The rest are the norms: 2 * 2 + 1 vectors of the width."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=10,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    model = LlamaForCausalLM(config)
    config.save_pretrained(tmp_path)
    assert named_shape(str(tmp_path)) == SHAPE
    assert sum(p.numel() for p in model.parameters()) == SHAPE.weights + 5 * 8


def test_mistral_has_7_billion_weights() -> None:
    assert KNOWN["mistralai/Mistral-7B-v0.1"].weights == pytest.approx(7.24e9, rel=0.002)
    assert KNOWN["Qwen/Qwen2.5-0.5B"].weights == pytest.approx(0.494e9, rel=0.005)
    assert KNOWN["WhereIsAI/UAE-Large-V1"].weights == pytest.approx(0.335e9, rel=0.01)


def test_sharing_saves_what_the_count_of_tokens_says() -> None:
    """P = R = 128, n = 16: 32 rows of 256 against 128 + 17 * 128, 3.56 times."""
    pairs, _ = group_tokens("none", LENGTHS, 16)
    shared, head = group_tokens("prefix", LENGTHS, 16)
    assert (pairs, shared, head) == (8192, 2304, 17 * 128)
    assert group_tokens("chosen", LENGTHS, 16)[0] == 17 * 256


def test_training_costs_three_forward_passes_and_the_head_a_fourth() -> None:
    once = forward(SHAPE, 100, head_tokens=0, context=10)
    head = forward(SHAPE, 0, head_tokens=50, context=0)
    whole = {"tokens": 100, "head_tokens": 50, "context": 10, "training": TRAINING}
    assert training_operations(SHAPE, **whole, execution=Execution()) == 3 * once + 4 * head
    checkpointed = Execution(sharing="packed", gradient_checkpointing=True)
    assert training_operations(SHAPE, **whole, execution=checkpointed) == 4 * once + 4 * head
    adapters = TRAINING.model_copy(update={"lora": {"r": 4}})
    assert training_operations(SHAPE, **{**whole, "training": adapters}, execution=Execution()) == 2 * once + 3 * head


def test_memory_of_mixed_precision_is_16_bytes_a_weight_divided_over_the_devices_that_divide_it() -> None:
    shape = KNOWN["mistralai/Mistral-7B-v0.1"]

    def states(gpus: int, strategy: str, training: Optimisation) -> float:
        execution = {"strategy": strategy}
        model = Model(path="x", dtype="bfloat16", max_length=8, gpus=gpus, execution=execution, sft=training)
        return training_memory(shape, model, training, tokens=0)

    mixed = TRAINING.model_copy(update={"precision": "bf16"})
    assert states(1, "ddp", mixed) == 16 * shape.weights
    assert states(8, "ddp", mixed) == 16 * shape.weights
    assert states(8, "fsdp", mixed) == 2 * shape.weights
    assert states(8, "zero2", mixed) == pytest.approx((4 + 12 / 8) * shape.weights)
    lora = Optimisation.model_validate({**mixed.model_dump(), "lora": {"r": 16}})
    assert states(1, "ddp", lora) / shape.weights == pytest.approx(2.1, abs=0.1)


def test_sampling_is_bound_by_the_bytes_it_reads() -> None:
    """With one answer a step reads all weights; with 256 it reads them once for all, so it costs little more."""
    shape, h100 = KNOWN["mistralai/Mistral-7B-v0.1"], MACHINES["h100"]
    model = Model(path="x", dtype="bfloat16", max_length=8, backend="vllm", sft=None)
    common: dict[str, Any] = {"model": model, "n_responses": 1, "lengths": LENGTHS, "devices": 1}
    one, _ = sampling_seconds(shape, h100, answers=1, **common)
    many, memory = sampling_seconds(shape, h100, answers=256, **common)
    floor = LENGTHS.response * 2 * shape.weights / h100.bandwidth / h100.sample_share
    assert floor < one < 1.1 * floor
    slow, _ = sampling_seconds(
        shape, h100, answers=1, **{**common, "model": model.model_copy(update={"backend": "hf"})}
    )
    assert slow > 3 * one
    assert one < many < 4 * one
    assert 2 * shape.weights < memory < h100.memory


# Against the published run


@pytest.mark.parametrize(
    "stage",
    ["train", "respond", "benchmark", "pretrain", "ref_logps", "generate_shard", "gradient_noise", "tables", "figures"],
)
def test_plan_of_tiny_is_within_a_factor_of_two_of_the_published_run(stage: str) -> None:
    """These stages took nearly 9 of 10 seconds."""
    took = published_seconds()
    assert sum(took.values()) > 1000
    plan = stages_of(load_study("tiny"))[stage]
    assert 0.5 < took[stage] / plan.seconds < 2


def test_plan_of_tiny_is_in_all_what_the_published_run_took() -> None:
    took = published_seconds()
    plan = {name: s.seconds for name, s in stages_of(load_study("tiny")).items()}
    assert 0.7 < sum(took.values()) / sum(plan.values()) < 1.4


def published_seconds() -> dict[str, float]:
    """Return the seconds of all jobs of each stage, from the table of costs."""
    path = ROOT / "results" / "published" / "tiny" / "tables" / "cost.tsv"
    with path.open(encoding="utf-8", newline="") as stream:
        return {row["stage"]: float(row["wall_s"]) for row in csv.DictReader(stream, delimiter="\t")}


# What follows from a study


def test_jobs_are_those_of_the_workflow() -> None:
    """smoke: 2 seeds; trained arms dpo n1, selfcontrast n1, n2; pools sft and annotated."""
    found = stages_of(load_study("smoke"))
    assert {rule: s.jobs for rule, s in found.items()} == {
        "world": 1,
        "prompts": 1,
        "pretrain": 1,
        "encode": 1,
        "lint": 1,
        "sft": 1,
        "generate_shard": 2,
        "gather_pool": 2,
        "ref_logps": 2,
        "gather_logps": 2,
        "score_pool": 3,  # by cosine and by the truth, and the annotated answers by the truth
        "train_reward": 1,
        "select_groups": 6,
        "train": 6,
        "diagnose_negatives": 1,
        "respond": 8,
        "score_answers": 8,
        "pocket_tasks": 1,
        "benchmark": 4,
        "score_arms": 1,
        "gradient_noise": 1,
        "tables": 1,
        "figures": 8,
        "cost": 1,
        "report": 1,
    }
    assert found["generate_shard"].answers == 16 * 8 + 16


@pytest.mark.parametrize(("machine", "per_gradient"), [("cpu", 30 / 10e9), ("h100", 30 / 3.35e12)])
def test_variance_of_the_gradient_costs_a_sketch_of_all_weights_for_each_gradient(
    machine: str, per_gradient: float
) -> None:
    """36 gradients: 30 bytes for each weight and gradient, and 9 ns for the sign of each weight, whatever the device.

    For 358 M weights on a core that is 39 + 3 s. All else are operations, which grow with the tokens.
    """
    study = load_study("tiny")
    pocket, shown = study.models["pocket"], study.figures.gradient
    assert pocket.scratch is not None
    assert shown is not None
    figures = study.figures.model_copy(update={"gradient": shown.model_copy(update={"prompts": 4, "negatives": 8})})
    lengths, sketched = lengths_of(study, "hh", "pocket", results=Path("nowhere")), []
    for width in (512, 1024, 2048):
        model = pocket.model_copy(update={"scratch": pocket.scratch.model_copy(update={"width": width})})
        found = stages_of(study.model_copy(update={"models": {"pocket": model}, "figures": figures}), machine)
        shape, chosen, length = shape_of(model), MACHINES[machine], lengths.prompt + lengths.response
        operations = 3 * forward(shape, 36 * length, head_tokens=36 * lengths.response, context=length / 2)
        rest = chosen.start_s + operations / (chosen.flops * chosen.train_share) + 36 * 0.012
        sketched.append((found["gradient_noise"].seconds - rest) / shape.weights)
    assert sketched == pytest.approx([9e-9 + 36 * per_gradient] * 3)
    assert machine != "cpu" or sketched[0] * 358e6 == pytest.approx(42, abs=1)


def test_measured_lengths_replace_expected_ones(tmp_path: Path) -> None:
    study = load_study("tiny")
    before = stages_of(study)["train"].tokens
    manifest = tmp_path / "hh" / "pocket" / "prompts" / "manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text(json.dumps({"report": {"mean_prompt_tokens": 66.0, "mean_target_tokens": 32.0}, "outputs": {}}))
    assert stages_of(study, results=tmp_path)["train"].tokens == pytest.approx(2 * before)
    assert "measured" in describe_plan(study, results=tmp_path)


def test_gpus_divide_the_time_and_not_the_hours() -> None:
    study = load_study("paper")
    eight = stages_of(study, "h100")["train"]
    models = {k: m.model_copy(update={"gpus": 4}) for k, m in study.models.items()}
    four = stages_of(study.model_copy(update={"models": models}), "h100")["train"]
    start = MACHINES["h100"].start_s
    assert four.longest - start == pytest.approx(2 * (eight.longest - start))


def test_stage_that_does_not_fit_is_told() -> None:
    study = load_study("paper")
    alone = {k: m.model_copy(update={"gpus": 1}) for k, m in study.models.items()}
    assert "DOES NOT FIT" not in describe_plan(study, machine="h100")
    text = describe_plan(study.model_copy(update={"models": alone}), machine="h100")
    assert "DOES NOT FIT: train needs about" in text


def test_dry_run_is_priced_by_the_jobs_left() -> None:
    study = load_study("tiny")
    text = describe_plan(study, jobs={"train": 13})
    rows = [line.split() for line in text.splitlines()]
    assert ["train", "13"] in [row[:2] for row in rows]
    assert not any(row[:1] == ["respond"] for row in rows)


def test_unknown_machine_and_unknown_model_are_told() -> None:
    study = load_study("tiny")
    with pytest.raises(ConfigError, match="unknown machine `abacus`"):
        describe_plan(study, machine="abacus")
    model = study.models["pocket"].model_copy(update={"scratch": None, "path": "nobody/nothing"})
    with pytest.raises(ConfigError, match=r"size of a model is not known[\s\S]*nobody/nothing"):
        shape_of(model)


def test_command_prints_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["plan", "tiny", "--machine", "h100"]) == 0
    assert "Plan of `tiny` for H100" in capsys.readouterr().out


def test_study_without_gpus_is_priced_for_a_core() -> None:
    assert default_machine(load_study("tiny")) == "cpu"
    assert default_machine(load_study("paper")) == "h100"


# Ledger


def test_ledger_joins_plan_and_fact_by_step() -> None:
    study = load_study("smoke")
    fact = {"jobs": 6, "wall_s": 60.0, "tokens": 100, "gpu_s": 0.0, "gpu_kj": 0.0, "gpu": None}
    rows = ledger(study, {"train": fact, "score": {**fact, "jobs": 9}, "all": fact}, results=Path("nowhere"))
    train, score = rows
    plan = stages_of(study)
    assert train["fact_over_plan"] == round(60 / plan["train"].seconds, 2)
    assert score["planned_jobs"] == plan["score_pool"].jobs + plan["score_answers"].jobs == 11


def test_ledger_compares_the_time_of_gpus_and_tells_their_energy() -> None:
    study = load_study("paper-1gpu")
    fact = {"jobs": 30, "wall_s": 40_000.0, "tokens": 1, "gpu_s": 39_000.0, "gpu_kj": 21_000.0, "gpu": "NVIDIA H100"}
    (row,) = ledger(study, {"train": fact}, results=Path("nowhere"))
    assert row["planned_gpu_s"] == round(stages_of(study, "h100")["train"].seconds, 1) == row["planned_s"]
    assert (row["gpu_s"], row["gpu_kj"]) == (39_000.0, 21_000.0)


def test_machine_is_told_by_the_name_of_the_gpu() -> None:
    assert machine_of(None) == "cpu"
    assert machine_of("NVIDIA H100 80GB HBM3") == "h100"
    assert machine_of("NVIDIA GeForce RTX 4090") == "rtx4090"


def test_stages_add_up() -> None:
    one = Stage("train", 1, 8, 10, 20, 30, 30, 5, 7)
    both = one.join(replace(one, longest=50, memory=9))
    assert (both.jobs, both.tokens, both.seconds, both.longest, both.memory, both.disk) == (2, 40, 60, 50, 9, 14)
    assert both.hours == 60 * 8 / 3600


def test_energy_is_read_from_the_visible_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for NVML, whose GPU i has taken i + 1 kJ."""

    class Nvml:
        NVMLError = RuntimeError
        nvmlInit = nvmlShutdown = staticmethod(lambda: None)  # noqa: N815
        nvmlDeviceGetCount = staticmethod(lambda: 3)  # noqa: N815
        nvmlDeviceGetHandleByIndex = staticmethod(lambda i: i)  # noqa: N815
        nvmlDeviceGetHandleByUUID = staticmethod({"GPU-a": 2}.__getitem__)  # noqa: N815
        nvmlDeviceGetTotalEnergyConsumption = staticmethod(lambda i: 1_000_000 * (i + 1))  # noqa: N815

    monkeypatch.setitem(__import__("sys").modules, "pynvml", Nvml)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert energy.read_joules() == 6000
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,GPU-a")
    assert energy.read_joules() == 5000
    monkeypatch.setattr(Nvml, "nvmlInit", lambda: (_ for _ in ()).throw(RuntimeError("no driver")))
    assert energy.read_joules() is None


def test_every_stage_is_a_rule() -> None:
    """A dry run finds a stage by the name of its rule, and the ledger by that of its step: another name is left out there."""
    rules = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "rules").glob("*.smk"))
    for study in ("smoke", "tiny", "paper"):
        for stage in stages_of(load_study(study)):
            assert f"\nrule {stage}:\n" in f"\n{rules}", stage


def test_a_similarity_figure_has_the_judge_score_the_pool() -> None:
    study = load_study("paper-1gpu")
    without = study.model_copy(update={"figures": study.figures.model_copy(update={"similarity": None})})
    by_judge = stages_of(study, "h100")["score_pool"].tokens - stages_of(without, "h100")["score_pool"].tokens
    assert by_judge == 33 * 10_000 * (200 + 150)  # a reward model reads the prompt too


def test_a_scorer_takes_the_memory_of_its_type() -> None:
    stage = stages_of(load_study("paper"), "h100")["score_answers"]
    assert stage.memory == 2 * KNOWN["berkeley-nest/Starling-RM-7B-alpha"].weights
