"""Own data without rejected answers: an arm that needs them is refused by name before anything is trained."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from selfcontrast.__main__ import main
from selfcontrast.config import parse_study
from selfcontrast.errors import InputError
from selfcontrast.linting.needs import check_annotated, check_needs, short_findings
from selfcontrast.schema import Study
from selfcontrast.sweep import Need, arms_of, graded_splits, rejected_needs
from tests.unit.test_sweep import TEXT

ARM = "dpo-annotated-n1"


def study(path: str = "mine.jsonl", **changes: Any) -> Study:
    """Return the study of the sweep's tests with `chat` as the user's own file, which may have rejected answers."""
    raw = yaml.safe_load(TEXT)
    raw["datasets"]["chat"] |= {"adaptor": "jsonl", "path": path}
    for key, value in changes.items():
        *folders, last = key.split("__")
        place = raw
        for folder in folders:
            place = place[folder]
        place[last] = value
    return parse_study(raw, where="test")


def records(folder: Path, *rejected: list[str] | str | None) -> str:
    rows = [{"prompt": f"p{i}", "response": "yes", "rejected": r} for i, r in enumerate(rejected)]
    path = folder / "mine.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return str(path)


# What is needed


def test_needs_are_the_fewest_answers_that_give_n_after_the_filter() -> None:
    """Half of 2, 4 and 8 answers are 1, 2 and 4; a ranked pair needs two; the gradient and a reward model two prompts."""
    least = {"kind": "target", "pool": "annotated", "scorer": "cosine", "filter": {"kind": "least", "keep": 0.5}}
    ranked = {"kind": "ranked", "pool": "annotated", "scorer": "cosine"}
    found = rejected_needs(
        study(
            pools__annotated={"kind": "annotated", "n_responses": 8},
            selections__halved=least,
            selections__pairs=ranked,
            methods__dpo__sweeps=[
                {"selections": ["annotated", "halved"], "n": [1, 2, 4]},
                {"selections": ["pairs"], "n": [1]},
            ],
            reward_models={"r": {"pool": "annotated", "labels": "cosine", "training": {"lr": 0.001, "batch": 8}}},
            figures__gradient={"pool": "annotated", "negatives": 6},
        ),
        "chat",
    )
    expected = {f"dpo-annotated-n{n}": Need(n, 1) for n in (1, 2, 4)}
    expected |= {f"dpo-halved-n{n}": Need(2 * n, 1) for n in (1, 2, 4)}
    expected |= {"dpo-pairs-n1": Need(2, 1), "reward_models.r": Need(2, 2), "figures.gradient": Need(6, 2)}
    assert found == expected


def test_a_data_set_that_has_none_is_asked_for_none() -> None:
    assert rejected_needs(study(), "chat") == {ARM: Need(1, 1)}
    own = study(datasets__chat__has_rejected=False)
    assert rejected_needs(own, "chat") == {}
    assert ARM not in arms_of(own, "chat")
    assert ARM in arms_of(own, "hh")


@pytest.mark.parametrize(
    ("counts", "unmet"),
    [({0: 16}, "a-n1, b-n2, reward_models.r"), ({0: 15, 1: 1}, "b-n2, reward_models.r"), ({2: 1}, "reward_models.r")],
)
def test_exactly_the_users_with_too_few_prompts_are_named(counts: dict[int, int], unmet: str) -> None:
    needs = {"a-n1": Need(1, 1), "b-n2": Need(2, 1), "reward_models.r": Need(2, 2)}
    with pytest.raises(InputError) as error:
        check_needs(needs, Counter(counts), where="mine.jsonl")
    first, *rest = str(error.value).splitlines()
    assert first == f"the data set has too few rejected answers for {unmet}"
    assert "  where: mine.jsonl" in rest
    assert ("has_rejected: false" in rest[-1]) == ("n2" in unmet)  # the key leaves out arms alone
    assert "let reward_models.r read another pool" in rest[-1]
    check_needs(needs, Counter({0: 5, 2: 2}), where="mine.jsonl")


def test_prompts_that_an_arm_goes_without_are_counted() -> None:
    """Of ten prompts six have an answer and two have two."""
    needs = {"a": Need(1, 1), "b": Need(1, 1), "c": Need(2, 1)}
    found = short_findings(needs, Counter({0: 4, 1: 4, 2: 2}))
    assert [(f.level, f.count, f.total, f.what.rsplit(": ", 1)[1]) for f in found] == [
        ("warning", 4, 10, "no use to a, b"),
        ("warning", 8, 10, "no use to c"),
    ]
    assert short_findings(needs, Counter({2: 10})) == []


# Before the first job


def test_local_records_are_read_until_one_fits(tmp_path: Path) -> None:
    """The row behind the fitting one is no JSON, and is not reached."""
    path = records(tmp_path, None, [], "no")
    Path(path).write_text(Path(path).read_text() + "{broken\n")
    check_annotated(study(path))


@pytest.mark.parametrize("rejected", [(None, None), ([], [])])
def test_records_without_any_are_refused_with_the_arm_and_the_remedy(tmp_path: Path, rejected: tuple[Any]) -> None:
    path = records(tmp_path, *rejected)
    with pytest.raises(InputError) as error:
        check_annotated(study(path))
    text = str(error.value)
    assert ARM in text
    assert "no rejected answers in 2 usable records" in text
    assert f"{path} (datasets.chat)" in text
    assert "add rejected answers" in text
    assert "take these arms out of `methods`" in text
    check_annotated(study(path, datasets__chat__has_rejected=False))


def test_too_few_for_n_are_refused_with_what_there_is(tmp_path: Path) -> None:
    path = records(tmp_path, ["a", "b"], "a")
    more = {"pools__annotated": {"kind": "annotated", "n_responses": 3}}
    with pytest.raises(InputError, match="1 usable records with 1, 1 usable records with 2"):
        check_annotated(study(path, **more, methods__dpo__sweeps=[{"selections": ["annotated"], "n": [1, 3]}]))


def test_check_and_lint_refuse_such_a_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = yaml.safe_load(TEXT)
    del raw["name"]
    raw["datasets"]["chat"] |= {"adaptor": "jsonl", "path": records(tmp_path, None)}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    for command in ("check", "lint"):
        assert main([command, str(tmp_path / "own.yaml")]) == 2
        assert capsys.readouterr().err.startswith(f"InputError: the data set has too few rejected answers for {ARM}\n")


# The scorer `grade`, whose prompts the data must have


def test_splits_are_graded_where_a_file_is_scored_by_the_grade() -> None:
    assert graded_splits(study(), "hh") == []  # drawn from the world
    assert graded_splits(study(), "chat") == ["test"]
    assert graded_splits(study(evaluation__judge="cosine"), "chat") == []
    by_grade = {"kind": "target", "pool": "sft", "scorer": "grade", "filter": {"kind": "least", "keep": 0.5}}
    assert graded_splits(study(selections__half=by_grade), "chat") == ["pool", "test"]
