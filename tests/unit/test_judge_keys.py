"""The keys of judges and benchmarks: what a study may not ask for, what reaches a spec, and what `check` says of the price."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from selfcontrast.__main__ import check
from selfcontrast.config import check_files, parse_study
from selfcontrast.errors import ConfigError
from selfcontrast.judging.price import has_price
from selfcontrast.planning.report import describe_plan
from selfcontrast.schema import Judge, Study
from selfcontrast.specs import expand_specs

ROOT = Path(__file__).resolve().parents[2]
POCKET = {"kind": "pairwise", "model": "m", "server": {"kind": "pocket"}}
REMOTE = {"kind": "pairwise", "model": "m", "endpoint": {"url": "http://localhost:1/v1"}}
BENCH = {"layout": "mt_bench", "path": "data/q.jsonl", "max_new_tokens": 8}


def study_with(judges: dict[str, Any], questions: dict[str, Any] | None = None) -> Study:
    raw = yaml.safe_load((ROOT / "config/smoke.yaml").read_text(encoding="utf-8"))
    raw["evaluation"] |= {"judges": judges, "questions": questions or {}}
    return parse_study({"name": "smoke", **raw}, where="here")


@pytest.mark.parametrize(
    ("judge", "told"),
    [
        ({"kind": "pairwise", "model": "m"}, "give either `endpoint` or `server`"),
        ({**POCKET, "endpoint": REMOTE["endpoint"]}, "give either `endpoint` or `server`"),
        ({**POCKET, "temprature": 1}, "unknown key `evaluation.judges.one.temprature`"),
        ({**POCKET, "kind": "pairwize"}, "did you mean `pairwise`"),
        ({**POCKET, "samples": 2}, "samples is 2, but evaluation.samples is 1"),
        ({**POCKET, "prompts": 25}, "prompts is 25, but datasets.hh has 24 test prompts"),
        ({**POCKET, "questions": "mt"}, "names `mt`, which is not under `evaluation.questions`"),
        ({**POCKET, "limits": {"cap_usd": 1}}, "`cap_usd` needs"),
        ({**REMOTE, "endpoint": {"url": "localhost:1"}}, "evaluation.judges.one.endpoint.url"),
        ({**POCKET, "server": {"kind": "vllm"}}, "`path` is for the kinds vllm and transformers"),
        ({**POCKET, "server": {"kind": "command", "command": ["serve"]}}, "must say where {port} goes"),
    ],
)
def test_impossible_judges_are_told(judge: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as error:
        study_with({"one": judge})
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("judge", "told"),
    [
        ({**REMOTE, "questions": "mt"}, "MT-Bench has two; use the kind `mt_bench`"),
        ({**REMOTE, "kind": "mt_bench", "questions": "mt", "prompts": 3}, "are for judges of the held-out split"),
        ({**POCKET, "kind": "mt_bench", "questions": "mt"}, "pocket-world prompts alone"),
    ],
)
def test_impossible_judges_of_benchmarks_are_told(judge: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as error:
        study_with({"one": judge}, {"mt": BENCH})
    assert told in str(error.value)


def test_missing_files_are_told() -> None:
    with pytest.raises(ConfigError, match=r"the file of evaluation\.questions\.mt\.path is missing"):
        check_files(study_with({"one": {**REMOTE, "kind": "mt_bench", "questions": "mt"}}, {"mt": BENCH}))
    with pytest.raises(ConfigError, match=r"judges\.one\.prompts_file is missing"):
        check_files(study_with({"one": {**REMOTE, "kind": "mt_bench", "prompts_file": "no.jsonl"}}))


def test_spec_of_a_judge_holds_all_of_it_and_touches_no_other() -> None:
    plain, judged = expand_specs(study_with({})), expand_specs(study_with({"one": POCKET}))
    assert judged.keys() - plain.keys() == {"judges/one"}
    assert {key for key in plain if plain[key] != judged[key]} == {"summary"}
    spec = judged["judges/one"]
    assert spec["judge"]["temperature"] == 0.0
    assert spec["judge"]["limits"]["in_flight"] == 8
    assert json.loads(json.dumps(spec)) is not None


def test_defaults_of_the_plug_in_survive_the_way_through_a_spec() -> None:
    study = study_with({"one": {**POCKET, "max_tokens": 7}})
    again = Study.model_validate(json.loads(json.dumps(study.model_dump(mode="json"))))
    assert again.evaluation.judges["one"].params == {"temperature": 0.0, "max_tokens": 7}


def test_check_tells_requests_and_price(tmp_path: Path) -> None:
    """4 arms, 2 seeds, 24 prompts, 2 games: 384 requests; a reply of at most 1,024 tokens at $10 a million costs $0.01024."""
    raw = (ROOT / "config/smoke.yaml").read_text(encoding="utf-8")
    limits = "limits: {output_usd: 10, cap_usd: 3}"
    judge = f"one: {{kind: pairwise, model: m, server: {{kind: pocket}}, {limits}}}"
    path = tmp_path / "trial.yaml"
    path.write_text(re.sub(r"(?m)^    truth: .*$", f"    {judge}", raw), encoding="utf-8")
    told = check(str(path)).splitlines()[-1]
    assert told.startswith("  judge one: up to 384 requests, about $3.93 ")
    assert told.endswith("it stops at $3.00")


@pytest.mark.parametrize(
    ("keys", "is_known"),
    [
        ({"server": {"kind": "pocket"}}, True),
        ({"endpoint": {"url": "http://localhost:1/v1"}}, True),
        ({"endpoint": {"url": "http://127.0.0.1:1/v1"}}, True),
        ({"endpoint": {"url": "http://[::1]:1/v1"}}, True),
        ({"endpoint": {"url": "http://localhost:1/v1", "key_env": "KEY"}}, False),
        ({"endpoint": {"url": "http://10.0.0.7:1/v1"}}, False),
        ({"endpoint": {"url": "https://api.example.com/v1"}}, False),
        ({"endpoint": {"url": "https://api.example.com/v1"}, "limits": {"input_usd": 0}}, True),
        ({"endpoint": {"url": "https://api.example.com/v1"}, "limits": {"output_usd": 3}}, True),
    ],
)
def test_price_is_unknown_unless_said_or_on_this_machine(keys: dict[str, Any], is_known: bool) -> None:
    assert has_price(Judge.model_validate({"kind": "pairwise", "model": "m", **keys})) == is_known


def test_plan_says_the_price_of_judges_that_are_left_to_do() -> None:
    study = study_with({"one": {**REMOTE, "limits": {"output_usd": 10}}})
    assert "judge one: up to 384 requests, about $3.93 " in describe_plan(study, results=Path("nowhere"))
    assert "$3.93" in describe_plan(study, jobs={"judge": 1, "tables": 1}, results=Path("nowhere"))
    assert "judge one" not in describe_plan(study, jobs={"tables": 1}, results=Path("nowhere"))
    free = describe_plan(study_with({"one": POCKET}), results=Path("nowhere"))
    assert "judge one: up to 384 requests, no dollars" in free
