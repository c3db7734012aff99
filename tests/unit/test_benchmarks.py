"""Benchmarks by lm-evaluation-harness: pins, the pocket world's tasks, a user's folder, the step, and the table."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfcontrast import artifacts, cli, main_table
from selfcontrast.config import check_files, load_study, parse_study
from selfcontrast.errors import ConfigError, InputError, StepError
from selfcontrast.harness import definitions, running
from selfcontrast.harness.definitions import Definition, check_harness, check_pin, digest
from selfcontrast.harness.pocket import DATA, DEFINITIONS, STOPS, questions
from selfcontrast.harness.results import describe_task, metrics
from selfcontrast.harness.tables import COLUMNS, benchmark_table
from selfcontrast.layout import Layout
from selfcontrast.planning.benchmarks import work_of
from selfcontrast.schema import Benchmark
from selfcontrast.steps import benchmark
from selfcontrast.sweep import benchmark_seeds, expand_arms
from selfcontrast.task_pins import PINS, POCKET_TASKS
from selfcontrast.world.dialogues import draw_question
from selfcontrast.world.grader import grade

ROOT = Path(__file__).resolve().parents[2]
PROMPT = "Tom plays golf. Tom lives in Rome. Tom keeps a cat. Where does Tom live, and which game does Tom play?"


def spec_of(**keys: Any) -> dict[str, Any]:
    return Benchmark(**keys).model_dump(exclude={"folder", "seeds", "world"})


# Pins


@pytest.mark.parametrize("name", PINS)
def test_installed_harness_has_the_pinned_definition(name: str) -> None:
    check_harness()
    found = running.Index.of([name], None, {}).definition(name)
    assert (found.version, found.sha256, found.source) == (PINS[name].version, PINS[name].sha256, "harness")
    check_pin(name, found, {})


def test_mismatch_names_both_hashes_and_both_versions() -> None:
    wrong = Definition("1.1", "f" * 64, "harness")
    with pytest.raises(InputError) as raised:
        check_pin("arc_easy", wrong, {})
    text = str(raised.value)
    assert PINS["arc_easy"].sha256 in text and "f" * 64 in text
    assert "version 1.0" in text and "version 1.1" in text


def test_same_definition_under_another_version_is_a_mismatch() -> None:
    with pytest.raises(InputError, match="not the one that is pinned"):
        check_pin("arc_easy", Definition("2.0", PINS["arc_easy"].sha256, "harness"), {})


def test_pin_of_the_study_goes_before_that_of_the_project() -> None:
    found = Definition("9", "f" * 64, "folder")
    check_pin("arc_easy", found, {"arc_easy": "f" * 64})
    with pytest.raises(InputError, match=f"{'0' * 64}[\\s\\S]*{'f' * 64}"):
        check_pin("mine", found, {"mine": "0" * 64})


def test_task_of_the_harness_without_a_pin_is_refused_with_its_hash() -> None:
    with pytest.raises(InputError, match=f"pins: {{boolq: {'a' * 64}}}"):
        check_pin("boolq", Definition("2.0", "a" * 64, "harness"), {})
    check_pin("mine", Definition("2.0", "a" * 64, "folder"), {})


def test_another_version_of_the_harness_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(definitions.metadata, "version", lambda name: "0.4.99")
    with pytest.raises(StepError, match=r"lm-eval 0\.4\.13[\s\S]*lm-eval 0\.4\.99"):
        check_harness()


def write_functions(folder: Path) -> Path:
    """Write a task with a function, in a group; return its folder."""
    folder.mkdir(parents=True)
    (folder / "base.yaml").write_text(
        "task: echo\ndataset_path: json\ndataset_kwargs: {data_files: {test: rows.jsonl}}\ntest_split: test\n"
        "output_type: multiple_choice\ndoc_to_text: !function words.ask\ndoc_to_choice: ['golf', 'chess']\n"
        "doc_to_target: 0\nmetric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
        "metadata: {version: 3.0}\n"
    )
    (folder / "group.yaml").write_text("group: mine\ntask: [echo]\nmetadata: {version: 1}\n")
    (folder / "words.py").write_text('def ask(doc):\n    return doc["text"] + " Which game?"\n')
    rows = [{"text": f"Tom plays golf. Tom lives in {city}."} for city in ("Rome", "Oslo", "Lima")]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def digest_of(folder: Path, name: str) -> str:
    from lm_eval.tasks import TaskManager

    return digest(name, TaskManager(include_path=str(folder.resolve()), include_defaults=False).task_index)


@pytest.mark.parametrize("name", ["echo", "mine"])
def test_hash_knows_contents_and_not_places(tmp_path: Path, name: str) -> None:
    one, other = write_functions(tmp_path / "a"), write_functions(tmp_path / "b" / "c")
    before = digest_of(one, name)
    assert digest_of(other, name) == before
    (other / "words.py").write_text('def ask(doc):\n    return doc["text"]\n')
    assert digest_of(other, name) != before
    (one / "base.yaml").write_text((one / "base.yaml").read_text().replace("['golf', 'chess']", "['golf', 'rugby']"))
    assert digest_of(one, name) != before


# The pocket world's tasks


@settings(deadline=None, derandomize=True, max_examples=40)
@given(st.randoms(use_true_random=False))
def test_one_choice_says_the_facts_and_the_others_do_not(rng: Any) -> None:
    prompt = draw_question(rng).text
    (row,) = questions([("p", prompt)], seed=3)
    grades = [grade(prompt, choice) for choice in row["choices"]]
    assert len(set(row["choices"])) == 4
    # Without courtesy a right answer has 0.75; each wrong fact costs 0.5.
    assert grades[row["right"]] == 0.75
    assert sorted(grades) == [0.0, 0.25, 0.25, 0.75]
    going_on = row["choices"][row["right"]].removeprefix(row["beginning"])
    assert min((going_on.partition(stop)[0] for stop in STOPS), key=len).strip() == row["value"]


@settings(deadline=None, derandomize=True, max_examples=40)
@given(st.randoms(use_true_random=False))
def test_one_manner_is_perfect_and_the_others_say_the_facts_with_a_flaw(rng: Any) -> None:
    prompt = draw_question(rng).text
    (row,) = questions([("p", prompt)], seed=3)
    grades = [grade(prompt, manner) for manner in row["manners"]]
    assert grades[row["polite"]] == 1.0
    # Rudeness takes the place of a courtesy: two flaws.
    assert [g for i, g in enumerate(grades) if i != row["polite"]] == pytest.approx([0.75] * 3, abs=0.25)
    assert max(g for i, g in enumerate(grades) if i != row["polite"]) <= 0.75


def test_questions_hang_on_the_prompts_ids_alone_and_right_answers_are_spread() -> None:
    many = [(f"p{i}", PROMPT) for i in range(400)]
    rows = questions(many, seed=3)
    assert questions(many[7:9], seed=3) == rows[7:9]
    assert questions(many, seed=4) != rows
    for key in ("right", "polite"):
        assert all(60 < n < 140 for n in np.bincount([r[key] for r in rows], minlength=4))


def test_prompt_of_another_world_is_refused() -> None:
    with pytest.raises(InputError, match="prompts of the pocket world"):
        questions([("p", "Who wrote Faust?")], seed=0)


# The study


def study_with(key: str = "smoke", **benchmark: Any) -> Any:
    import yaml

    raw = yaml.safe_load((ROOT / "config" / f"{key}.yaml").read_text(encoding="utf-8"))
    raw["evaluation"]["benchmarks"] = {"b": benchmark}
    return parse_study({"name": key, **raw}, where=key)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"tasks": ["arc_chalenge"]}, "unknown task `arc_chalenge`; known: arc_challenge"),
        ({"tasks": ["pocket_choice"]}, r"unknown task `pocket_choice` \(it needs `world: true`\)"),
        ({"tasks": ["gsm8k", "gsm8k"]}, "named twice"),
        ({"tasks": ["pocket_choice"], "world": True, "folder": "x"}, "not both"),
        ({"tasks": ["gsm8k"], "seeds": [5]}, r"seeds names \[5\], which are not among `seeds`"),
        ({"tasks": ["gsm8k"], "pins": {"gsm8k": "abc"}}, "pattern"),
        ({"tasks": []}, "at least 1"),
    ],
)
def test_mistake_in_the_study_is_told(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        study_with(**keys)


def test_pocket_tasks_need_a_pocket_world() -> None:
    with pytest.raises(ConfigError, match=r"datasets\.harmless is none"):
        study_with("hh", tasks=["pocket_choice"], world=True)


def test_folder_without_definitions_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"no definition of a task[\s\S]*nowhere"):
        check_files(study_with(tasks=["mine"], folder="nowhere"))


def test_sft_model_runs_once_and_is_the_same_for_all_seeds() -> None:
    study = study_with(tasks=["gsm8k"])
    arms = expand_arms(study)
    assert benchmark_seeds(study, "b", arms["sft-none-n0"]) == (0,)
    assert benchmark_seeds(study, "b", arms["dpo-annotated-n1"]) == (0, 1)
    assert benchmark_seeds(study_with(tasks=["gsm8k"], seeds=[1]), "b", arms["sft-none-n0"]) == (1,)


def test_paper_runs_its_tasks_with_the_leaderboards_examples() -> None:
    asked = [task for b in load_study("paper").evaluation.benchmarks.values() for task in b.tasks]
    assert sorted(asked) == sorted(PINS)
    spec = spec_of(tasks=["arc_challenge", "hellaswag", "mmlu", "truthfulqa_mc2", "winogrande", "gsm8k"])
    found = {name: n for n, names in running._by_few_shot(spec).items() for name in names}
    assert found == {
        **{"arc_challenge": 25, "hellaswag": 10, "mmlu": 5},
        **{"truthfulqa_mc2": 0, "winogrande": 5, "gsm8k": 5},
    }
    assert running._by_few_shot(spec | {"few_shot": 2}) == {2: list(spec["tasks"])}
    assert running._by_few_shot(spec_of(tasks=["mine"], folder="x")) == {None: ["mine"]}


def test_plan_counts_every_choice_with_its_examples() -> None:
    chosen = Benchmark(tasks=("winogrande", "pocket_choice"), world=True, limit=100)
    expected = 100 * 2 * 35 * 6 + 24 * 4 * 45
    assert work_of(chosen, n_prompts=24) == (124, expected)


# What is kept of the harness' results


def test_metrics_keep_the_harness_errors_and_drop_what_is_no_number() -> None:
    numbers = {
        "name": "x",
        "alias": "x",
        "acc,none": np.float64(0.5),
        "acc_stderr,none": 0.1,
        "f1,a": 1,
        "f1_stderr,a": "N/A",
    }
    assert metrics(numbers, "task") == [
        {"metric": "acc", "filter": "none", "value": 0.5, "stderr": 0.1},
        {"metric": "f1", "filter": "a", "value": 1.0, "stderr": None},
    ]


def test_group_keeps_its_parts_and_counts_their_questions() -> None:
    def row(name: str) -> dict[str, str]:
        return {f"{part}_hash": name for part in ("doc", "prompt", "target")}

    found = {
        "results": {"g": {"acc,none": 0.5}, "a": {"acc,none": 0.0}, "b": {"acc,none": 1.0}},
        "group_subtasks": {"g": ["h"], "h": ["b", "a"]},
        "n-samples": {"a": {"original": 9, "effective": 2}, "b": {"original": 5, "effective": 2}},
        "n-shot": {"a": 5, "b": 5},
        "samples": {"a": [row("1")] * 2, "b": [row("2")] * 2},
    }
    kept = describe_task("g", found, Definition("2", "f" * 64, "harness"))
    assert (kept["questions"], kept["questions_there"], kept["few_shot"]) == (4, 14, 5)
    assert {name: part["questions"] for name, part in kept["parts"].items()} == {"a": 2, "b": 2}


# Data that cannot be had


def test_data_on_the_hub_without_a_network_is_told_with_what_to_do() -> None:
    index = running.Index(None, None)
    with (
        pytest.raises(StepError, match=r"Couldn't reach 'a/b' on the Hub[\s\S]*--model dummy --tasks arc_easy"),
        running._told(["arc_easy"], index),
    ):
        raise ConnectionError("Couldn't reach 'a/b' on the Hub (OfflineModeIsEnabled)\nmore")


def test_full_disk_is_not_taken_for_missing_data() -> None:
    with pytest.raises(OSError, match="No space"), running._told(["x"], running.Index(None, None)):
        raise OSError(28, "No space left on device")


# The step


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a random policy of the pocket world with its manifest, a spec, and the tasks of 24 prompts."""
    import random

    from selfcontrast.world.checkpoint import build_model, build_tokenizer

    root = tmp_path_factory.mktemp("policy")
    model = build_model(n_layers=1, width=32, n_heads=2, max_length=128, seed=1)
    model.save_pretrained(root / "sft" / "model")
    build_tokenizer(max_length=128).save_pretrained(root / "sft" / "model")
    seal(root / "sft", "model")
    artifacts.write_json(root / "policy-spec.json", {"dtype": "float32", "trust_remote_code": False})
    rng = random.Random(5)
    rows = questions([(f"p{i}", draw_question(rng).text) for i in range(24)], seed=0)
    artifacts.write_jsonl(root / "pocket_tasks" / "tasks" / DATA, rows)
    for name, text in DEFINITIONS.items():
        (root / "pocket_tasks" / "tasks" / f"{name}.yaml").write_text(text)
    seal(root / "pocket_tasks", "tasks")
    return root


def seal(folder: Path, *names: str) -> None:
    outputs = {name: artifacts.sha256(folder / name) for name in names}
    artifacts.write_json(folder / "manifest.json", {"outputs": outputs, "report": {}})


@pytest.fixture
def run(policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    monkeypatch.setattr(cli, "_end_with_parent", lambda: None)
    monkeypatch.setattr(cli, "_limit_threads", lambda threads: None)

    def run(out: str, spec: Mapping[str, Any], *flags: str) -> int:
        artifacts.write_json(tmp_path / "spec.json", spec)
        paths = {"--spec": tmp_path / "spec.json", "--policy": policy / "sft/manifest.json"}
        paths |= {"--policy-spec": policy / "policy-spec.json", "--out": tmp_path / out / "manifest.json"}
        return benchmark.main([*(str(x) for pair in paths.items() for x in pair), "--template", "tokenizer", *flags])

    return run


def test_pocket_tasks_run_and_give_the_same_bytes_twice(
    run: Callable[..., int], policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(tasks=POCKET_TASKS, world=True, chat_template=True, limit=20, batch=8)
    flags = ["--pocket", str(policy / "pocket_tasks/manifest.json")]
    assert run("one", spec, *flags) == run("two", spec, *flags) == 0
    for name in ("results.json", "samples.jsonl", "manifest.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    left = {p.name for p in (tmp_path / "one").iterdir()}
    assert left == {"results.json", "samples.jsonl", "manifest.json", "run.json"}
    assert {p.name for p in (policy / "pocket_tasks/tasks").iterdir()} == {DATA, *(f"{t}.yaml" for t in POCKET_TASKS)}
    text = (tmp_path / "one/results.json").read_text()
    assert str(tmp_path) not in text and str(policy) not in text
    results = json.loads(text)["tasks"]
    rows = [json.loads(line) for line in (tmp_path / "one/samples.jsonl").read_text().splitlines()]
    chosen = [r for r in rows if r["task"] == "pocket_choice"]
    right = [max(range(4), key=lambda i, r=r: r["said"][i][0]) == r["target"] for r in chosen]
    (acc,) = [m for m in results["pocket_choice"]["metrics"] if m["metric"] == "acc"]
    assert len(chosen) == results["pocket_choice"]["questions"] == 20
    assert acc["value"] == np.mean(right)
    assert acc["stderr"] == pytest.approx(np.std(right, ddof=1) / 20**0.5)
    assert results["pocket_answer"]["questions_there"] == 24


class KilledError(Exception):
    """Stands for a kill."""


def test_an_interrupted_benchmark_asks_only_what_is_missing_and_gives_the_harness_own_bytes(
    run: Callable[..., int], policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of N forward passes and generations five are done before the kill and N - 5 after it.

    The bytes are those of a run by the harness alone, in its own batches; cut prompts are counted the same.
    """
    from lm_eval.models.huggingface import HFLM

    calls, most = 0, 10**6

    def counted(method: str) -> Callable[..., Any]:
        function = getattr(HFLM, method)

        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            if calls == most:
                raise KilledError
            calls += 1
            return function(*args, **kwargs)

        return call

    for method in ("_model_call", "_model_generate"):
        monkeypatch.setattr(HFLM, method, counted(method))
    spec = spec_of(tasks=POCKET_TASKS, world=True, chat_template=True, limit=20, batch=8)
    flags = ["--pocket", str(policy / "pocket_tasks/manifest.json")]
    with monkeypatch.context() as patch:
        patch.setattr(running, "keep_batches", lambda *_: None)
        assert run("plain", spec, *flags) == 0
    n_calls, calls, most = calls, 0, 5
    with pytest.raises(KilledError):
        run("killed", spec, *flags)
    calls, most = 0, 10**6
    assert run("killed", spec, *flags) == 0
    assert calls == n_calls - 5 > 5
    for name in ("results.json", "samples.jsonl", "manifest.json"):
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()


def test_what_was_cut_before_an_interruption_is_counted_once(
    run: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The long text is read first, the short one only after the kill; both choices of the long one are cut."""
    from lm_eval.models.huggingface import HFLM

    folder = write_functions(tmp_path / "mine")
    rows = [{"text": "Tom plays golf. " * n} for n in (1, 60)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    spec, forward = spec_of(tasks=["echo"], folder=str(folder), batch=1), HFLM._model_call
    calls: list[int] = []

    def once(*args: Any, **kwargs: Any) -> Any:
        if calls:
            raise KilledError
        calls.append(1)
        return forward(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(HFLM, "_model_call", once)
        with pytest.raises(KilledError):
            run("out", spec, "--folder", str(folder))
    assert run("out", spec, "--folder", str(folder)) == 0
    report = artifacts.read_json(tmp_path / "out/manifest.json")["report"]
    assert (report["questions"], report["truncated"]) == (2, 2)


def test_chat_template_of_the_study_is_used_only_if_asked(
    run: Callable[..., int], policy: Path, tmp_path: Path
) -> None:
    flags = ["--pocket", str(policy / "pocket_tasks/manifest.json")]
    hashes = {}
    for chat in (False, True):
        spec = spec_of(tasks=["pocket_choice"], world=True, chat_template=chat, limit=1)
        assert run("out", spec, *flags) == 0
        hashes[chat] = json.loads((tmp_path / "out/samples.jsonl").read_text().splitlines()[0])["prompt_sha256"]
    row = json.loads((policy / "pocket_tasks/tasks" / DATA).read_text().splitlines()[0])
    from lm_eval.utils import hash_string

    assert hashes[False] == hash_string(row["question"])
    assert hashes[True] == hash_string(f"<s><user>{row['question']}<assistant>")


def test_folder_of_the_users_own_with_functions_and_a_group(
    run: Callable[..., int], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = write_functions(tmp_path / "mine")
    spec = spec_of(tasks=["echo"], folder=str(folder))
    assert run("out", spec, "--folder", str(folder)) == 0
    results = artifacts.read_json(tmp_path / "out/results.json")["tasks"]["echo"]
    assert (results["questions"], results["version"], results["source"]) == (3, "3.0", "folder")
    assert results["sha256"] == digest_of(folder, "echo")
    assert not list(folder.rglob("__pycache__"))
    assert run("out", spec | {"tasks": ["ecko"]}, "--folder", str(folder)) == 2
    assert "there is no task `ecko`" in (told := capfd.readouterr().err)
    assert "did you mean `echo`?" in told
    assert run("out", spec | {"pins": {"echo": "0" * 64}}, "--folder", str(folder)) == 2
    assert re.search(f"{'0' * 64}[\\s\\S]*{results['sha256']}", capfd.readouterr().err)
    (folder / "rows.jsonl").unlink()
    assert run("out", spec, "--folder", str(folder)) == 2
    told = capfd.readouterr().err
    assert "a task names a data file that is not there" in told and "Traceback" not in told


def test_requests_that_lose_their_beginning_are_counted(run: Callable[..., int], tmp_path: Path, policy: Path) -> None:
    folder = write_functions(tmp_path / "mine")
    rows = [{"text": "Tom plays golf. " * n} for n in (1, 60)]  # 4 and 240 tokens, in a context of 128
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert run("out", spec_of(tasks=["echo"], folder=str(folder)), "--folder", str(folder)) == 0
    assert artifacts.read_json(tmp_path / "out/manifest.json")["report"] == {
        **{"questions": 2, "truncated": 2, "control_tokens_read": 0},
        **{"system_turns_dropped": 0, "unusual_dialogues": 0, "generation_config_reset": {}},
    }


@pytest.mark.parametrize(("task", "number"), [("pocket_choice", "log-likelihood"), ("pocket_answer", "largest logit")])
def test_a_question_at_which_the_policy_overflows_is_named(
    task: str,
    number: str,
    policy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A single question has the word: all others have finite numbers, and its answer would be one of them by chance."""
    import torch
    from transformers import LlamaForCausalLM

    from selfcontrast.world.checkpoint import build_model, build_tokenizer

    monkeypatch.setattr(cli, "_end_with_parent", lambda: None)
    monkeypatch.setattr(cli, "_limit_threads", lambda threads: None)
    tokenizer = build_tokenizer(max_length=128)
    rows = [json.loads(line) for line in (policy / "pocket_tasks/tasks" / DATA).read_text().splitlines()]
    ids = [set(tokenizer(row["question"])["input_ids"]) for row in rows]
    with_choices = [set(tokenizer(" ".join((row["question"], *row["choices"])))["input_ids"]) for row in rows]
    counts = Counter(token for found in with_choices for token in found)
    alone = next(i for i in range(len(rows)) if any(counts[t] == 1 for t in ids[i]))
    word = next(t for t in sorted(ids[alone]) if counts[t] == 1)
    config = build_model(n_layers=1, width=32, n_heads=2, max_length=128, seed=1).config
    model = LlamaForCausalLM(type(config)(**{**config.to_dict(), "tie_word_embeddings": False}))
    with torch.no_grad():
        model.model.embed_tokens.weight[word] = torch.nan
    model.save_pretrained(tmp_path / "sft" / "model")
    tokenizer.save_pretrained(tmp_path / "sft" / "model")
    seal(tmp_path / "sft", "model")
    artifacts.write_json(tmp_path / "spec.json", spec_of(tasks=[task], world=True, chat_template=True, batch=8))
    flags = ["--spec", tmp_path / "spec.json", "--policy", tmp_path / "sft/manifest.json", "--template", "tokenizer"]
    flags += ["--policy-spec", policy / "policy-spec.json", "--pocket", policy / "pocket_tasks/manifest.json"]
    assert benchmark.main([*map(str, flags), "--out", str(tmp_path / "out/manifest.json")]) == 2
    told = capfd.readouterr().err
    assert re.search(rf"NotFiniteError: [\s\S]*{number}[\w ]* is nan, the question that ends in '(.*)'\n", told), told
    shown = re.findall(r"that ends in '(.*)'\n", told)[0]
    assert rows[alone]["question"][-30:] in shown
    assert f"where: {tmp_path}/sft/model, in float32\n" in told
    assert not (tmp_path / "out/samples.jsonl").exists()


# The table


def write_run(layout: Layout, arm: str, seed: int, right: list[int], *, value: float | None = None) -> None:
    folder = layout.benchmark(arm, seed, "b").parent
    given = float(np.mean(right)) if value is None else value
    numbers = {"metric": "acc", "filter": "none", "value": given, "stderr": 0.1}
    task = {"version": "1.0", "few_shot": 5, "questions": len(right), "metrics": [numbers]}
    artifacts.write_json(folder / "results.json", {"chat_template": False, "tasks": {"winogrande": task}})
    rows = [
        {"task": "winogrande", "question": i, "filter": "none", "metrics": {"acc": float(r), "pair": [1, 2]}}
        for i, r in enumerate(right)
    ]
    artifacts.write_jsonl(folder / "samples.jsonl", rows)
    seal(folder, "results.json", "samples.jsonl")


@pytest.fixture
def table(tmp_path: Path) -> Callable[[], Any]:
    """Return the function that makes the table of the smoke study's arms, after writing them: one is all right."""
    study = study_with(tasks=["winogrande"])
    layout, arms = Layout(tmp_path, "hh", "pocket"), expand_arms(study)
    for i, arm in arms.items():
        for seed in benchmark_seeds(study, "b", arm):
            write_run(layout, i, seed, [1, 1, 1, 1] if i == "dpo-annotated-n1" else [1, 0, 0, seed])
    return lambda: benchmark_table(study, [(layout, arms)]).set_index(["arm", "seed"])


def test_table_has_means_over_seeds_and_paired_differences(table: Callable[[], Any]) -> None:
    found = table()
    assert [*found.reset_index().columns[:2]] == ["arm", "seed"]
    assert set(COLUMNS) == {*found.columns, "arm", "seed"}
    half = found.loc[("selfcontrast-half-n1", "all")]
    assert (half["value"], half["seeds"], half["questions"]) == (0.375, 2, 4)
    assert half["low"] < 0.375 < half["high"]
    assert (found.loc[("selfcontrast-half-n1", 1)]["value"], found.loc[("selfcontrast-half-n1", 1)]["stderr"]) == (
        0.5,
        0.1,
    )
    best = found.loc[("dpo-annotated-n1", "all")]
    assert (best["value"], best["low"], best["high"], best["vs_sft"]) == (1.0, 1.0, 1.0, 0.75)
    assert best["vs_sft_low"] < 0.75 < best["vs_sft_high"]
    baseline = found.loc[("sft-none-n0", "all")]
    assert (baseline["value"], baseline["seeds"]) == (0.25, 1)
    assert np.isnan(baseline["vs_sft"])


def test_main_table_has_a_block_for_each_benchmark(table: Callable[[], Any]) -> None:
    here = {"benchmarks": table().reset_index()}
    (block,) = main_table._benchmark_blocks("hh", "pocket", here)
    assert block.heads == ["arm", "winogrande acc"]
    assert dict(block.rows)["dpo-annotated-n1"] == [("1.000 [1.000, 1.000] n=4", False, False)]
    assert block.title.endswith("95 % intervals over questions and seeds")
    one_seed = {"benchmarks": here["benchmarks"].assign(seeds=1)}
    (block,) = main_table._benchmark_blocks("hh", "pocket", one_seed)
    assert block.title.endswith("95 % intervals over questions of a single seed")
    assert list(main_table._benchmark_blocks("hh", "pocket", {})) == []


def test_metric_that_is_no_mean_over_questions_has_no_interval(table: Callable[[], Any], tmp_path: Path) -> None:
    write_run(Layout(tmp_path, "hh", "pocket"), "dpo-annotated-n1", 0, [1, 0, 1, 1], value=0.9)
    row = table().loc[("dpo-annotated-n1", "all")]
    assert row["value"] == pytest.approx(0.95)
    assert np.isnan(row["low"]) and np.isnan(row["vs_sft"])


def test_arms_that_were_asked_different_questions_are_not_compared(table: Callable[[], Any], tmp_path: Path) -> None:
    write_run(Layout(tmp_path, "hh", "pocket"), "dpo-annotated-n1", 0, [1, 0, 1])
    with pytest.raises(InputError, match="different questions"):
        table()


def test_study_without_benchmarks_has_an_empty_table(tmp_path: Path) -> None:
    study = load_study("tiny3")
    found = benchmark_table(study, [(Layout(tmp_path, "hh", "pocket"), expand_arms(study))])
    assert (len(found), [*found.columns]) == (0, COLUMNS)


# Against the harness' own command line, and without a network


def in_process(arguments: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=env, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
@pytest.mark.parametrize("chat", [False, True])
def test_numbers_are_those_of_the_harness_command_line(
    run: Callable[..., int], policy: Path, tmp_path: Path, chat: bool
) -> None:
    spec = spec_of(tasks=POCKET_TASKS, world=True, chat_template=chat, few_shot=1, batch=8)
    assert run("ours", spec, "--pocket", str(policy / "pocket_tasks/manifest.json")) == 0
    model = policy / "sft" / "model"
    arguments = [
        "-m",
        "lm_eval",
        "run",
        "--model",
        "hf",
        "--model_args",
        f"pretrained={model},dtype=float32,add_bos_token=True",
    ]
    arguments += ["--tasks", *POCKET_TASKS, "--include_path", ".", "--num_fewshot", "1", "--batch_size", "8"]
    arguments += ["--device", "cpu", "--output_path", str(tmp_path / "theirs"), "--log_samples"]
    arguments += ["--apply_chat_template"] if chat else []
    done = in_process(arguments, policy / "pocket_tasks/tasks", HF_DATASETS_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr[-3000:]
    (theirs,) = [json.loads(p.read_text()) for p in (tmp_path / "theirs").rglob("results_*.json")]
    ours = artifacts.read_json(tmp_path / "ours/results.json")["tasks"]
    for task in POCKET_TASKS:
        for found in ours[task]["metrics"]:
            key, error = f"{found['metric']},{found['filter']}", f"{found['metric']}_stderr,{found['filter']}"
            assert found["value"] == theirs["results"][task][key]
            assert found["stderr"] == theirs["results"][task][error]
        assert ours[task]["questions_sha256"] == theirs["task_hashes"][task]
        assert ours[task]["few_shot"] == theirs["n-shot"][task] == 1


@pytest.mark.slow
def test_task_of_the_hub_without_a_network_ends_with_one_message(policy: Path, tmp_path: Path) -> None:
    artifacts.write_json(tmp_path / "spec.json", spec_of(tasks=["arc_easy"]))
    arguments = ["-m", "selfcontrast.steps.benchmark", "--spec", str(tmp_path / "spec.json"), "--template", "tokenizer"]
    arguments += ["--policy", str(policy / "sft/manifest.json"), "--policy-spec", str(policy / "policy-spec.json")]
    arguments += ["--out", str(tmp_path / "out/manifest.json")]
    done = in_process(arguments, tmp_path, HF_HOME=str(tmp_path / "home"))
    assert done.returncode == 2
    assert "allenai/ai2_arc" in done.stderr and "--tasks arc_easy --limit 1" in done.stderr
    assert "Traceback" not in done.stderr
    with contextlib.suppress(FileNotFoundError):
        assert not (tmp_path / "out/manifest.json").read_text()
