"""Where records come from: the order of files, the hash of their contents, and what a study says of its hub source."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_config import TEXT

from selfcontrast import artifacts, cli, plugins, sources
from selfcontrast.config import parse_study, record_files
from selfcontrast.errors import ConfigError, InputError
from selfcontrast.schema import Study
from selfcontrast.specs import expand_specs
from selfcontrast.steps import prompts

NAMES = ("b.jsonl", "a.jsonl", "deep/z.jsonl.gz", "deep/er/0.parquet", "deep.jsonl")
IN_ORDER = ["a.jsonl", "b.jsonl", "deep.jsonl", "deep/er/0.parquet", "deep/z.jsonl.gz"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in NAMES:
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "data"


# Files


def test_folder_stands_for_its_record_files_in_the_order_of_their_paths(folder: Path) -> None:
    (folder / "README.md").write_text("no record")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "c.jsonl").write_text("hidden")
    files = sources.record_files([folder])
    assert sources.names_of(files) == IN_ORDER


@given(order=st.permutations(NAMES))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20, deadline=None)
def test_order_in_which_files_are_listed_plays_no_part(folder: Path, order: list[str]) -> None:
    files = sources.record_files([folder / name for name in order])
    assert files == sources.record_files([folder])


def test_order_is_that_of_the_paths_however_they_are_written(folder: Path) -> None:
    given = [folder / "deep" / ".." / "b.jsonl", folder / "a.jsonl"]
    assert [f.name for f in sources.record_files(given)] == ["a.jsonl", "b.jsonl"]


def test_single_file_may_have_any_name_and_is_called_by_it(tmp_path: Path) -> None:
    path = tmp_path / "records"
    path.write_text("x")
    assert sources.names_of(sources.record_files([path])) == ["records"]


@pytest.mark.parametrize("twice", [["a.jsonl", "a.jsonl"], ["a.jsonl", "deep/../a.jsonl"], [".", "a.jsonl"]])
def test_file_that_is_named_twice_is_refused(folder: Path, twice: list[str]) -> None:
    with pytest.raises(InputError, match=r"a data file is named twice\n  where: .*a\.jsonl"):
        sources.record_files([folder / name for name in twice])


def test_missing_path_is_named(folder: Path) -> None:
    with pytest.raises(InputError, match=r"a data file is missing\n  where: .*none\.jsonl"):
        sources.record_files([folder / "a.jsonl", folder / "none.jsonl"])


def test_folder_without_a_record_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("x")
    with pytest.raises(InputError, match=r"a folder has no file of records\n  expected: names that end with \.parquet"):
        sources.record_files([tmp_path])


# Contents


def test_hash_of_one_file_is_its_own() -> None:
    assert sources.content_hash(["ab" * 32]) == "ab" * 32


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs sha256sum")
def test_hash_of_several_files_is_what_the_shell_says(folder: Path) -> None:
    command = f"cd {folder} && sha256sum {' '.join(IN_ORDER)} | cut -d' ' -f1 | sha256sum | cut -d' ' -f1"
    said = subprocess.run(command, shell=True, capture_output=True, text=True, check=True).stdout.strip()
    assert sources.content_hash(list(sources.hashes_of(sources.record_files([folder])).values())) == said


def test_hash_depends_on_order_and_contents_and_not_on_where_the_files_lie(folder: Path, tmp_path: Path) -> None:
    def content(path: Path) -> str:
        return sources.content_hash(list(sources.hashes_of(sources.record_files([path])).values()))

    first = content(folder)
    shutil.copytree(folder, tmp_path / "elsewhere")
    assert content(tmp_path / "elsewhere") == first
    a, b = folder / "a.jsonl", folder / "b.jsonl"
    a.write_text("b.jsonl")
    b.write_text("a.jsonl")
    assert content(folder) != first


# The step prompts with several files


@pytest.fixture
def _in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "_end_with_parent", lambda: None)
    monkeypatch.setattr(cli, "_limit_threads", lambda threads: None)


def transcript(question: str, answer: str) -> str:
    return f"\n\nHuman: {question}\n\nAssistant: {answer}"


def hh_file(path: Path, *questions: str) -> Path:
    """Write HH-RLHF records; the answers name the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"chosen": transcript(q, f"{path.parent.name} {q}"), "rejected": transcript(q, "no")} for q in questions]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def run_prompts(folder: Path, *records: Path, bad: str = "error", sha256: str | None = None, **flags: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    spec = {"adaptor": "hh_rlhf", "bad_records": bad, "sha256": sha256}
    artifacts.write_json(folder / "spec.json", spec)
    more = [word for flag, value in flags.items() for word in (f"--{flag.replace('_', '-')}", str(value))]
    out = str(folder / "out" / "manifest.json")
    return prompts.main(["--spec", str(folder / "spec.json"), "--records", *map(str, records), "--out", out, *more])


def dialogues(folder: Path) -> list[dict[str, Any]]:
    path = artifacts.Artifact.open(folder / "out" / "manifest.json").path("dialogues.jsonl.gz")
    return [record for _, record in artifacts.read_jsonl(path)]


@pytest.mark.usefixtures("_in_process")
def test_rows_of_several_files_are_told_apart_by_file(tmp_path: Path) -> None:
    hh_file(tmp_path / "data/one/train.jsonl", "p", "q")
    hh_file(tmp_path / "data/two/train.jsonl", "r")
    assert run_prompts(tmp_path / "run", tmp_path / "data") == 0
    found = [(d["file"], d["row"], d["target"]) for d in dialogues(tmp_path / "run")]
    assert found == [("one/train.jsonl", 1, "one p"), ("one/train.jsonl", 2, "one q"), ("two/train.jsonl", 1, "two r")]


@pytest.mark.usefixtures("_in_process")
def test_results_do_not_depend_on_the_order_in_which_files_are_given(tmp_path: Path) -> None:
    """Of a prompt that is in both files the record of the first one by name is kept, and the other one counted."""
    one = hh_file(tmp_path / "data/one/train.jsonl", "p", "q")
    two = hh_file(tmp_path / "data/two/train.jsonl", "q", "r")
    written = []
    for i, order in enumerate([(one, two), (two, one)]):
        assert run_prompts(tmp_path / f"run{i}", *order) == 0
        out = tmp_path / f"run{i}" / "out"
        written.append([(out / name).read_bytes() for name in ("dialogues.jsonl.gz", "manifest.json")])
    assert written[0] == written[1]
    assert [d["target"] for d in dialogues(tmp_path / "run0")] == ["one p", "one q", "two r"]
    report = artifacts.read_json(tmp_path / "run0/out/manifest.json")["report"]
    assert report["dropped"] == {"the prompt occurs in an earlier record": 1}


@pytest.mark.usefixtures("_in_process")
def test_bad_record_is_named_with_its_file_and_its_row_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hh_file(tmp_path / "data/one/train.jsonl", "p", "q")
    bad = hh_file(tmp_path / "data/two/train.jsonl", "r", " ")
    assert run_prompts(tmp_path / "run", tmp_path / "data") == 2
    assert f"the last user turn is empty\n  where: {bad}, row 2" in capsys.readouterr().err


@pytest.mark.usefixtures("_in_process")
def test_manifest_has_the_hash_of_each_file_and_of_all(tmp_path: Path) -> None:
    one = hh_file(tmp_path / "data/one/train.jsonl", "p")
    two = hh_file(tmp_path / "data/two/train.jsonl", "q")
    assert run_prompts(tmp_path / "run", tmp_path / "data") == 0
    hashes = [artifacts.sha256(one), artifacts.sha256(two)]
    assert artifacts.read_json(tmp_path / "run/out/manifest.json")["inputs"] == {
        "records": hashlib.sha256("".join(f"{h}\n" for h in hashes).encode()).hexdigest(),
        "records/one/train.jsonl": hashes[0],
        "records/two/train.jsonl": hashes[1],
    }


@pytest.mark.usefixtures("_in_process")
def test_pinned_contents_are_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = hh_file(tmp_path / "data/train.jsonl", "p")
    pinned = artifacts.sha256(path)
    assert run_prompts(tmp_path / "run", path, sha256=pinned) == 0
    path.write_bytes(path.read_bytes() + b"\n")
    assert run_prompts(tmp_path / "run", path, sha256=pinned) == 2
    message = capsys.readouterr().err
    assert "InputError: the records are not those that the study pins" in message
    assert f"expected: SHA-256 {pinned}" in message
    assert f"found: SHA-256 {artifacts.sha256(path)}" in message
    assert f"where: {path}" in message
    assert "set datasets.<id>.sha256 to their hash" in message
    assert not (tmp_path / "run/out/manifest.json").exists()


@pytest.mark.usefixtures("_in_process")
def test_records_that_a_step_wrote_are_checked_against_its_manifest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = tmp_path / "fetch" / "records"
    path = hh_file(records / "one/train.any", "p")  # a repository may name its files as it likes
    manifest = tmp_path / "fetch" / "manifest.json"
    artifacts.write_json(manifest, {"outputs": {"records": artifacts.sha256(records)}})
    assert run_prompts(tmp_path / "run", records, made_by=manifest) == 0
    inputs = artifacts.read_json(tmp_path / "run/out/manifest.json")["inputs"]
    assert inputs["records"] == artifacts.sha256(path)
    assert artifacts.sha256(manifest) in inputs.values()
    path.write_bytes(path.read_bytes() + b"\n")
    assert run_prompts(tmp_path / "run", records, made_by=manifest) == 2
    assert "a file was changed or damaged after it was written" in capsys.readouterr().err


# What a study says


def study(**dataset: Any) -> Study:
    raw = copy.deepcopy(yaml.safe_load(TEXT))
    raw["datasets"] = {"hh": {"splits": raw["datasets"]["hh"]["splits"], "adaptor": "hh_rlhf", **dataset}}
    return parse_study(raw, where="example.yaml")


def refused(**dataset: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        study(**dataset)
    return str(caught.value)


REVISION = "0123456789abcdef0123456789abcdef01234567"


def fetched(**dataset: Any) -> dict[str, Any]:
    return expand_specs(study(**dataset))["hh/fetch"]


def test_hub_source_needs_no_more_than_a_revision() -> None:
    parts = ("helpful-base", "helpful-online", "helpful-rejection-sampled", "harmless-base")
    expected = {
        "repo": "Anthropic/hh-rlhf",
        "revision": REVISION,
        "files": tuple(f"{p}/train.jsonl.gz" for p in parts),
    }
    assert fetched(hub={"revision": REVISION}) == expected


def test_hub_source_is_narrowed_by_subset_or_file() -> None:
    hub = {"revision": REVISION, "subsets": ["harmless-base", "harmless-base-test"]}
    assert fetched(hub=hub)["files"] == ("harmless-base/train.jsonl.gz", "harmless-base/test.jsonl.gz")
    hub = {"revision": REVISION, "repo": "me/mirror", "files": ["*/test.jsonl.gz"]}
    assert fetched(hub=hub) == {"repo": "me/mirror", "revision": REVISION, "files": ("*/test.jsonl.gz",)}


def test_only_hub_sources_are_fetched() -> None:
    assert "hh/fetch" not in expand_specs(study(path="x.jsonl"))
    assert "hh/fetch" not in expand_specs(study(world={"dialogues": 200}))


def test_pin_is_in_the_spec_of_the_step_that_checks_it() -> None:
    specs = expand_specs(study(path=["x.jsonl"], sha256="a" * 64))
    assert specs["hh/prompts"] == {"adaptor": "hh_rlhf", "bad_records": "error", "sha256": "a" * 64}


@pytest.mark.parametrize(
    ("dataset", "parts"),
    [
        ({"hub": {}}, ["key `datasets.hh.hub.revision` is missing"]),
        ({"hub": {"revision": ""}}, ["key `datasets.hh.hub.revision`"]),
        (
            {"hub": {"revision": "main", "subsets": ["harmless"]}},
            ["datasets.hh.hub.subsets names `harmless`", "helpful-base, helpful-online", "or name `files`"],
        ),
        (
            {"hub": {"revision": "main", "subsets": ["harmless-base"], "files": ["x"]}},
            ["key `datasets.hh.hub`: give `subsets` or `files`, not both"],
        ),
        ({"hub": {"revision": "main", "token": "hf_x"}}, ["unknown key `datasets.hh.hub.token`"]),
        ({"hub": {"revision": "main"}, "path": "x"}, ["give one of `path`, `hub` and `world`"]),
        ({"adaptor": "jsonl", "hub": {"revision": "main"}}, ["datasets.hh", "`hub` needs `repo` and `files`"]),
        (
            {"adaptor": "jsonl", "hub": {"revision": "main", "files": ["x"]}},
            ["datasets.hh", "`hub` needs `repo` and `files`"],
        ),
        ({"world": {"dialogues": 9}, "sha256": "a" * 64}, ["`sha256` is for `path` and `hub`"]),
        ({"path": "x", "sha256": "abc"}, ["key `datasets.hh.sha256`", "found 'abc'"]),
        ({"path": []}, ["key `datasets.hh.path"]),
        ({}, ["give one of `path`, `hub` and `world`"]),
    ],
)
def test_mistake_in_a_source_is_named(dataset: dict[str, Any], parts: list[str]) -> None:
    found = refused(**dataset)
    assert all(part in found for part in parts), found


def test_path_may_be_a_file_a_list_or_a_folder(folder: Path) -> None:
    files = [str(folder / name) for name in IN_ORDER]
    assert record_files(study(path=files[0]).datasets["hh"]) == files[:1]
    assert record_files(study(path=files[::-1]).datasets["hh"]) == files
    assert record_files(study(path=str(folder)).datasets["hh"]) == files


@pytest.mark.parametrize("name", plugins.names("datasets"))
def test_adaptor_says_where_its_data_set_lies(name: str) -> None:
    """Or that it has none of its own; every default part is a part, and no part is empty."""
    hub = plugins.load("datasets", name).HUB
    if name == "jsonl":
        assert hub is None
        return
    assert isinstance(hub, sources.HubSource)
    assert hub.repo.count("/") == 1
    assert hub.default
    assert set(hub.default) <= set(hub.subsets)
    assert all(hub.subsets.values())
