"""What every step owes the workflow: a command line that is light and strict, and one rule that runs it."""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import io
import json
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import selfcontrast.steps
from selfcontrast import cli

ROOT = Path(__file__).resolve().parents[2]
STEPS = sorted(m.name for m in pkgutil.iter_modules(selfcontrast.steps.__path__) if not m.name.startswith("_"))
RULE_FILES = sorted((ROOT / "rules").glob("*.smk"))
RULES = "\n".join(p.read_text(encoding="utf-8") for p in RULE_FILES)
HEAVY = ("torch", "transformers", "numpy", "pandas", "pyarrow", "matplotlib", "sentence_transformers", "scipy")
TWO_RULES = {"score"}
"""Steps that two rules run: the scores of a pool, and those of the evaluated answers."""


def load(name: str):  # type: ignore[no-untyped-def]
    return importlib.import_module(f"selfcontrast.steps.{name}")


def test_the_steps_are_found() -> None:
    assert {"world", "prompts", "sft", "train", "tables"} <= set(STEPS)


@pytest.mark.parametrize("name", STEPS)
def test_step_says_what_it_reads_and_writes(name: str) -> None:
    """First line a sentence; then its inputs, its outputs, and what it runs on."""
    doc = load(name).__doc__
    first, _, rest = doc.partition("\n\n")
    assert " ".join(first.split()).endswith(".")
    assert "Out: " in rest


@pytest.mark.parametrize("name", STEPS)
def test_step_has_a_main_that_takes_a_command_line(name: str) -> None:
    main = inspect.signature(load(name).main)
    assert [*main.parameters] == ["argv"]
    assert main.parameters["argv"].default is None
    assert main.return_annotation == "int"


@pytest.mark.parametrize("name", STEPS)
def test_step_ends_its_process_with_the_exit_code_of_main(name: str) -> None:
    """The last lines are ``if __name__ == "__main__": cli.leave(main())``."""
    last = ast.parse(Path(load(name).__file__).read_text(encoding="utf-8")).body[-1]
    assert ast.unparse(last) == "if __name__ == '__main__':\n    cli.leave(main())"


def test_help_exits_0_without_loading_a_heavy_library() -> None:
    """All steps in one process: what none of them loads for its help, no single one does."""
    script = f"""if True:
        import contextlib, importlib, io, json, sys
        found = {{}}
        for name in {STEPS!r}:
            text = io.StringIO()
            with contextlib.redirect_stdout(text):
                try:
                    importlib.import_module(f"selfcontrast.steps.{{name}}").main(["--help"])
                except SystemExit as end:
                    found[name] = [end.code, text.getvalue()]
        print(json.dumps([found, sorted(sys.modules)]))
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    found, modules = json.loads(done.stdout)
    assert not set(HEAVY) & set(modules)
    assert [*found] == STEPS
    for name, (code, text) in found.items():
        assert code == 0, name
        assert {"--spec", "--out", "--threads"} <= set(re.findall(r"--[a-z-]+", text)), name
        assert load(name).__doc__.split("\n")[0] in text


def usage_of(name: str) -> str:
    """Return the usage of a step on one line; `--help` prints it and raises SystemExit."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), pytest.raises(SystemExit):
        load(name).main(["--help"])
    return " ".join(text.getvalue().partition("\n\n")[0].split())


def required_flags(name: str, folder: Path) -> list[str]:
    """Return a command line that has every flag a step asks for, as its usage line tells."""
    usage = usage_of(name)
    flags = ["--spec", str(folder / "no.json"), "--out", str(folder / "manifest.json")]
    for flag, choices in re.findall(r"(?<!\[)(--[a-z-]+) (\{[^}]*\}|[\w-]+)", usage):
        if flag not in ("--spec", "--out"):
            flags += [flag, choices.strip("{}").split(",")[0] if choices.startswith("{") else "0"]
    return flags


@pytest.fixture(autouse=True)
def _in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the frame of a step from watching the parent of pytest, and from changing its environment."""
    monkeypatch.setattr(cli, "_end_with_parent", lambda: None)
    monkeypatch.setattr(cli, "_limit_threads", lambda threads: None)


@pytest.mark.parametrize("name", STEPS)
def test_complete_command_line_is_parsed_and_a_missing_spec_reported(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert load(name).main(required_flags(name, tmp_path)) == 2
    assert "InputError: a file is missing\n  where: " + str(tmp_path / "no.json") in capfd.readouterr().err
    assert not (tmp_path / "manifest.json").exists()


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("flag", ["--no-such-flag", "--thread=1", "surplus"])
def test_unknown_flag_exits_2(name: str, flag: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Nor is a flag taken that is only the beginning of one."""
    with pytest.raises(SystemExit) as end:
        load(name).main([flag, *required_flags(name, tmp_path)])
    assert end.value.code == 2
    assert f"unrecognized arguments: {flag}" in capfd.readouterr().err


@pytest.mark.parametrize("name", STEPS)
def test_every_flag_without_a_default_is_required(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        load(name).main([])
    assert end.value.code == 2
    assert re.search(r"the following arguments are required: --spec, --out\b", capfd.readouterr().err)


@pytest.mark.parametrize("name", STEPS)
def test_step_is_the_code_of_a_rule(name: str) -> None:
    """Exactly one rule names the module as its ``code``, and so reruns when it is edited."""
    expected = 2 if name in TWO_RULES else 1
    assert RULES.count(f'code="selfcontrast/steps/{name}.py"') == expected


def test_every_code_of_a_rule_is_a_step() -> None:
    assert set(re.findall(r'code="selfcontrast/steps/(\w+)\.py"', RULES)) == set(STEPS)


def rules() -> dict[str, str]:
    """Return the text of every rule that runs a step, by its name."""
    found = {}
    for path in RULE_FILES:
        blocks = re.split(r"^rule (\w+):\n", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        found |= {n: text for n, text in zip(blocks[1::2], blocks[2::2], strict=True) if "code=" in text}
    return found


@pytest.mark.parametrize("rule", rules())
def test_rule_passes_exactly_the_flags_of_its_step(rule: str) -> None:
    """Flags that it may leave out are in square brackets in the usage: of these, --threads alone must be passed."""
    text = rules()[rule]
    (name,) = re.findall(r'code="selfcontrast/steps/(\w+)\.py"', text)
    usage = usage_of(name)
    passed = set(re.findall(r'(?<=[ "])--[a-z-]+', text.partition("-m {params.module}")[2]))
    required = set(re.findall(r"(?<!\[)--[a-z-]+", usage)) - {"--help"}
    optional = set(re.findall(r"(?<=\[)--[a-z-]+", usage)) - {"--threads"}
    assert required | {"--threads"} <= passed <= required | {"--threads"} | optional


@pytest.mark.parametrize("rule", rules())
def test_rule_declares_manifest_and_run_and_says_what_it_logs(rule: str) -> None:
    text = rules()[rule]
    assert re.search(r"manifest=\s*(temp\(\s*)?\"<results>/", text)
    assert 'run="<results>/' in text
    assert re.search(
        r"exec (python|\{resources\.python\}) (-m selfcontrast.gpu .* -- )?-m \{params.module\} --spec \{input.spec\}",
        text,
    )
    assert re.search(r"--threads (\{threads\}|2) --out \{output\.manifest\} > \{log\} 2>&1", text)


@pytest.mark.parametrize("rule", rules())
def test_rule_that_may_use_a_gpu_says_how_many_and_leases_them(rule: str) -> None:
    """All that run torch, by their environment: what they are granted, or none, so that they stay off the GPUs of others."""
    text = rules()[rule]
    granted = re.findall(r"exec \S+ -m selfcontrast\.gpu --granted (\S+) ", text)
    asks = "gpu=" in text
    if rule == "pretrain":
        assert (granted, asks) == (["0"], False)
    elif re.search(r'"../envs/train\.yaml"|sampler_env', text):
        assert (granted, asks) == (["{resources.gpu}"], True)
    else:
        assert (granted, asks) == ([], False)
