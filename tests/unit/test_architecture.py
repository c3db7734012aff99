"""Who may import whom, what no module may do, and what the workflow may load: read from the source, not from a run."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from selfcontrast.plugins import KINDS

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "selfcontrast"
WORKFLOW = [ROOT / "Snakefile", *sorted((ROOT / "rules").glob("*.smk"))]

# From the bottom to the top. A part imports only from parts above which it stands; parts on one line do not know each
# other. A package is one part: its modules may import each other, except plug-ins, which share only `_private` modules.
LAYERS = (
    (
        *("__init__", "errors", "seeds", "records", "layout", "ragged", "energy", "task_pins", "pins"),
        *("texts", "fields", "strict_json", "file_kinds", "cuts", "failures", "consoles"),
    ),
    ("parquet", "threads", "lines", "inspection", "weights", "finite", "progress"),
    (
        *("plugins", "artifacts", "joins", "stored_pools", "escaping", "chat_heads", "turn_ends", "token_rows"),
        *("gpu", "slurm", "calibration"),
    ),
    ("chat_tokenizers",),
    ("schema", "sources", "hub", "sorting", "cli", "checkpoints", "rendering", "chunks"),
    ("reward_checks", "checkpoint_checks"),
    ("study_checks",),
    ("config", "lm_head", "sampling", "architectures"),
    ("attention",),
    ("reward_models",),
    ("sweep", "world"),
    ("specs",),
    ("logprobs", "stats", "selection", "negatives", "judging", "reward_pairs"),
    ("generation", "vllm_engine", "training", "gradient_noise"),
    ("backends", "scoring"),
    KINDS,
    ("judge_tables", "metric_names", "harness"),
    ("cells",),
    ("tables", "planning", "linting", "exporting"),
    ("evidence", "main_table", "proxies"),
    ("plotting",),
    ("diagnostic_plots", "proxy_plots"),
    ("reporting",),
    ("steps", "__main__"),
)
LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}

# Heavy libraries, each with the modules that may import it, at the top or inside a function.
IMPORTERS = {
    "matplotlib": {"plotting", "diagnostic_plots", "proxy_plots"},
    "transformers": {
        *("architectures", "attention", "checkpoints", "inspection.folders", "logprobs", "reward_models", "weights"),
        *("judging.plain_transformers", "training.engine", "world.checkpoint"),
    },
    "accelerate": {"training.deepspeed", "training.engine", "training.monitor"},
    "peft": {"training.adapters"},
    "trl": {"training.trl"},
    "vllm": {"vllm_engine"},
    "tokenizers": {"escaping", "inspection.files", "world.checkpoint"},
    "sentence_transformers": {"scorers.cosine"},
    "huggingface_hub": {"hub", "planning.shapes", "exporting.push"},
    "pyarrow": {"parquet", "joins", "datasets._records", "sorting", "exporting.preferences"},
    "statsmodels": {"stats.intervals"},
    "scipy": {"stats.intervals", "stats.laws", "stats.moderation", "stats.power", "stats.trend", "linting.across"},
    "pandas": {
        *("tables", "evidence", "main_table", "proxies", "plotting", "diagnostic_plots", "proxy_plots"),
        *("harness.tables", "judging.alpaca_rate", "steps.figures"),
        *(
            f"reporting.{m}"
            for m in ("blocks", "charts", "diagnostic_charts", "headline", "material", "reading", "sections")
        ),
    },
    "plotly": {"reporting.page"},
    "yaml": {"config", "exporting.cards", "reporting.citation"},
    "lm_eval": {"harness.policy", "harness.running"},
    "datasets": {"harness.running", "training.trl"},
    "httpx2": {"judging.client"},
    "sklearn": {"judging.length_control", "judging.alpaca_rate"},
    "alpaca_eval": {"judging.alpaca_rate"},
}

NEVER_IMPORTED = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
NEVER_CALLED = {"eval", "exec", "compile", "__import__", "torch.save", "torch.load", "numpy.load", "np.load"}
NEVER_NAMED = {"parse_known_args", "parse_known_intermixed_args", "unsafe_load", "full_load"}

LONGEST = 330
"""Lines of a module, beyond which it is two."""


def name_of(path: Path) -> str:
    """Return the dotted name of a module below ``selfcontrast``; a package has the name of its folder."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {name_of(p): ast.parse(p.read_text(encoding="utf-8")) for p in sorted(PACKAGE.rglob("*.py"))}
LENGTHS = {name_of(p): len(p.read_text(encoding="utf-8").splitlines()) for p in sorted(PACKAGE.rglob("*.py"))}


def test_the_modules_are_found() -> None:
    """Guards the others against a list that is empty."""
    assert {"__init__", "config", "steps.train", "objectives", "objectives.dpo", "pools._context"} <= MODULES.keys()
    assert len(WORKFLOW) > 5


def is_for_types_only(node: ast.If) -> bool:
    return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def import_nodes(tree: ast.AST, *, types: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield the imports of a module at any depth; those under TYPE_CHECKING only if ``types``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif types or not (isinstance(node, ast.If) and is_for_types_only(node)):
            yield from import_nodes(node, types=types)


def imports_of(tree: ast.AST, *, types: bool = True) -> set[str]:
    """Return every dotted name that a module imports; ``from a import b`` gives ``a.b``."""
    found = set()
    for node in import_nodes(tree, types=types):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        else:
            assert node.level == 0, "imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def own_imports(name: str) -> set[str]:
    """Return the modules of this package that a module imports, by their name below ``selfcontrast``."""
    found = set()
    for imported in imports_of(MODULES[name]):
        if imported.split(".")[0] != "selfcontrast":
            continue
        parts = imported.split(".")[1:]
        while parts and ".".join(parts) not in MODULES:
            parts.pop()
        found.add(".".join(parts) or "__init__")
    return found


def part_of(name: str) -> str:
    return name.split(".")[0]


# Layers


def test_every_part_of_the_package_has_a_layer() -> None:
    assert {part_of(name) for name in MODULES} == LEVEL.keys(), "give the new part a line of LAYERS"


def test_imports_point_down() -> None:
    assert not [
        (name, i)
        for name in MODULES
        for i in own_imports(name)
        if part_of(i) != part_of(name) and LEVEL[part_of(i)] >= LEVEL[part_of(name)]
    ]


def test_plug_ins_do_not_know_each_other() -> None:
    """Neither within a kind nor across kinds, but through `plugins.load`; `_private` modules of a kind are shared in it."""
    plug_ins = [name for name in MODULES if part_of(name) in KINDS]
    assert not [
        (name, i)
        for name in plug_ins
        for i in own_imports(name)
        if part_of(i) in KINDS and not i.startswith(f"{part_of(name)}._")
    ]


def test_plug_ins_are_loaded_by_name_alone() -> None:
    """Nobody else imports a plug-in module either; the library may share the `_private` modules."""
    others = [name for name in MODULES if part_of(name) not in KINDS]
    assert not [
        (name, i)
        for name in others
        for i in own_imports(name)
        if part_of(i) in KINDS and not i.partition(".")[2].startswith("_")
    ]


def test_nobody_imports_a_step() -> None:
    assert not [(name, i) for name in MODULES for i in own_imports(name) if part_of(i) == "steps"]


def test_packages_of_plug_ins_and_steps_are_empty_but_for_their_docstring() -> None:
    for package in (*KINDS, "steps"):
        assert [type(node) for node in MODULES[package].body] == [ast.Expr], package


@pytest.mark.parametrize("library", IMPORTERS)
def test_heavy_libraries_are_imported_where_they_belong(library: str) -> None:
    importers = {n for n, t in MODULES.items() if any(i.split(".")[0] == library for i in imports_of(t, types=False))}
    assert importers == IMPORTERS[library]


# What no module does


def dotted(node: ast.expr) -> str:
    """Return ``a.b`` of an attribute access on plain names, else an empty text."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (base := dotted(node.value)):
        return f"{base}.{node.attr}"
    return ""


def forbidden_in(tree: ast.AST) -> set[str]:
    """Return what a module uses of pickle, torch.save and torch.load, eval and exec, and of parsing that ignores flags."""
    imports = {i for i in imports_of(tree) if i.split(".")[0] in NEVER_IMPORTED}
    calls = {dotted(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    methods = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return imports | calls & NEVER_CALLED | methods & NEVER_NAMED


def test_nothing_runs_code_from_data_or_ignores_a_flag() -> None:
    assert not {name: found for name, tree in MODULES.items() if (found := forbidden_in(tree))}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "def f():\n    import joblib",
        "torch.load(path)",
        "torch.save(model, path)",
        "eval(text)",
        "exec(text)",
        "parser.parse_known_args()",
    ],
)
def test_each_of_them_would_be_seen(source: str) -> None:
    assert forbidden_in(ast.parse(source))


def test_threads_are_set_in_one_place() -> None:
    """`use_threads` also chooses MKL's kernels, without which a first operation on two threads may be wrong."""
    setters = {
        name
        for name, tree in MODULES.items()
        if any(isinstance(node, ast.Attribute) and node.attr == "set_num_threads" for node in ast.walk(tree))
    }
    assert setters == {"threads"}


def loads_models(tree: ast.AST) -> bool:
    """Return whether a module calls what loads weights: ``from_pretrained`` of a model, or a sentence transformer."""
    calls = {dotted(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    owners = {name.removesuffix(".from_pretrained") for name in calls if name.endswith(".from_pretrained")}
    return bool(owners - {"AutoTokenizer", "AutoConfig"}) or "SentenceTransformer" in calls


def unchecked_loads(tree: ast.AST) -> list[str]:
    """Return what loads weights in a module, and is no part of the arguments of ``load_whole``."""
    checked = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and dotted(node.func) == "load_whole"
        for inner in ast.walk(node)
    }
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and node not in checked]
    return [dotted(call.func) for call in calls if loads_models(ast.Expr(ast.Call(call.func, [], [])))]


def test_weights_are_loaded_whole_everywhere() -> None:
    """`load_whole` refuses weights that are missing, not expected or of another shape; no load passes it by."""
    assert {name for name, tree in MODULES.items() if loads_models(tree)} == {
        *("checkpoints", "reward_models", "scorers.cosine")
    }
    assert not {name: found for name, tree in MODULES.items() if (found := unchecked_loads(tree))}


@pytest.mark.parametrize(
    "source", ["AutoModel.from_pretrained(x)", "m = LlamaForCausalLM.from_pretrained(x)", "SentenceTransformer(x)"]
)
def test_every_way_to_load_weights_would_be_seen(source: str) -> None:
    assert unchecked_loads(ast.parse(source))
    assert not unchecked_loads(ast.parse("load_whole(lambda: AutoModel.from_pretrained(x), where=x)"))


def test_evaluation_mode_of_a_model_is_no_eval() -> None:
    assert not forbidden_in(ast.parse("model.eval()"))


def is_true(node: ast.expr | None) -> bool:
    """Return whether an expression is True, or a pydantic ``Field`` whose default is."""
    if isinstance(node, ast.Call) and dotted(node.func).endswith("Field"):
        return any(is_true(a) for a in node.args) or any(k.arg == "default" and is_true(k.value) for k in node.keywords)
    return isinstance(node, ast.Constant) and node.value is True


def settings_of(tree: ast.AST, key: str) -> Iterator[ast.expr | None]:
    """Yield what a name is set to: as keyword argument, default, variable, field, or key of a dict."""
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == key:
            yield node.value
        elif isinstance(node, ast.arguments):
            positional = [*node.posonlyargs, *node.args]
            defaults = zip(positional[len(positional) - len(node.defaults) :], node.defaults, strict=True)
            yield from (d for a, d in (*defaults, *zip(node.kwonlyargs, node.kw_defaults, strict=True)) if a.arg == key)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (node.value for t in targets if dotted(t).endswith(key))
        elif isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            yield from (v for k, v in pairs if isinstance(k, ast.Constant) and k.value == key)


def test_remote_code_is_never_trusted_by_the_source() -> None:
    found = [(name, value) for name, tree in MODULES.items() for value in settings_of(tree, "trust_remote_code")]
    assert len(found) > 5
    assert not [name for name, value in found if is_true(value)]


@pytest.mark.parametrize(
    "source",
    [
        "f(trust_remote_code=True)",
        "def f(*, trust_remote_code=True): ...",
        "def f(trust_remote_code=True, /): ...",
        "trust_remote_code: bool = Field(True)",
        "trust_remote_code: bool = Field(default=True)",
        "trust_remote_code = True",
        "f({'trust_remote_code': True})",
    ],
)
def test_every_way_to_trust_remote_code_would_be_seen(source: str) -> None:
    assert any(is_true(value) for value in settings_of(ast.parse(source), "trust_remote_code"))


# Docstrings and size


def public_definitions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    """Yield public functions and classes, and the public methods of public classes."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from public_definitions(node)


def test_every_module_has_a_docstring() -> None:
    assert not [name for name, tree in MODULES.items() if tree.body and not ast.get_docstring(tree)]


def test_everything_public_has_a_docstring() -> None:
    assert not [
        f"{name}.{node.name}"
        for name, tree in MODULES.items()
        for node in public_definitions(tree)
        if not ast.get_docstring(node)
    ]


def test_no_module_is_too_long() -> None:
    assert not {name: n for name, n in LENGTHS.items() if n > LONGEST}


# The workflow


def smk_imports(path: Path) -> set[str]:
    """Return what a Snakemake file imports; it is not Python, so that import lines are read one by one."""
    found = set()
    for line in path.read_text(encoding="utf-8").splitlines():
        if re.match(r"\s*(import|from)\s+[\w.]+", line):
            found |= imports_of(ast.parse(line.strip()))
    return found


@pytest.mark.parametrize("path", WORKFLOW, ids=lambda p: p.name)
def test_workflow_imports_the_light_modules_alone(path: Path) -> None:
    """Every job of a cluster reads these files again: the standard library, Snakemake, and nine modules of ours.

    Inside functions a dry run imports the plan, and the start of a run what it checks.
    """
    allowed = {
        *("config", "sweep", "specs", "plugins", "errors", "gpu", "slurm", "failures", "layout"),
        *("architectures", "planning", "checkpoint_checks", "judging", "linting"),
    }
    for imported in smk_imports(path):
        top, *rest = imported.split(".")
        if top == "selfcontrast":
            assert rest[0] in allowed, imported
        else:
            assert top in sys.stdlib_module_names | {"snakemake"}, imported


def test_workflow_imports_are_seen() -> None:
    found = {i for path in WORKFLOW for i in smk_imports(path)}
    assert {"selfcontrast.plugins", "selfcontrast.sweep", "snakemake.utils.min_version"} <= found


@pytest.mark.parametrize("path", WORKFLOW, ids=lambda p: p.name)
def test_workflow_runs_no_code_from_data(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"\b(pickle|parse_known_args|eval\(|exec\(|torch\.load|torch\.save)", text)
    assert not re.search(r"^\s*(script|run|notebook):", text, re.MULTILINE)


def test_reading_a_study_loads_no_heavy_library() -> None:
    """What the Snakefile does: import, read the study, expand arms and specs."""
    script = """if True:
        import sys
        import selfcontrast.config, selfcontrast.specs, selfcontrast.sweep
        study = selfcontrast.config.load_study("tiny")
        selfcontrast.config.check_files(study)
        assert selfcontrast.sweep.expand_arms(study) and selfcontrast.specs.expand_specs(study)
        print(*sorted(sys.modules))
    """
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(done.stdout.split())
    assert {"selfcontrast.sweep", "selfcontrast.selections.target", "pydantic"} <= loaded
    heavy = {"torch", "numpy", "pandas", "pyarrow", "scipy", "statsmodels", "matplotlib", "snakemake"}
    assert not loaded & {*heavy, "transformers", "tokenizers", "sentence_transformers"}


# Text


def names_no_encoding(call: ast.Call) -> bool:
    """Return whether a call opens a text file without saying how it is encoded."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if any(keyword.arg == "encoding" for keyword in call.keywords):
        return False
    if name == "open" and isinstance(call.func, ast.Name):
        return not (len(call.args) > 1 and isinstance(call.args[1], ast.Constant) and "b" in str(call.args[1].value))
    # `errors`, `mode` or `newline` tell the method of a path from those of other objects that are called `open`.
    is_path = name == "open" and any(k.arg in ("mode", "errors", "newline") for k in call.keywords)
    return name in ("read_text", "write_text") or is_path


@pytest.mark.parametrize("path", [*WORKFLOW, *sorted(PACKAGE.rglob("*.py"))], ids=lambda p: p.name)
def test_text_files_are_utf_8_whatever_the_locale_says(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
        assert [ast.unparse(call) for call in calls if names_no_encoding(call)] == []
    else:
        assert re.findall(r"\.(?:read|write)_text\((?![^)]*encoding=)[^)]*\)", text) == []
