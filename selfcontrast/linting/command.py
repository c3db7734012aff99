"""The command ``python -m selfcontrast lint``: one table for a file of records or for the data sets of a study."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfcontrast import plugins
from selfcontrast.artifacts import Artifact, files_of
from selfcontrast.checkpoint_checks import fetch_key
from selfcontrast.config import load_study
from selfcontrast.errors import InputError, SelfContrastError
from selfcontrast.inspection.files import read_json
from selfcontrast.layout import Layout
from selfcontrast.linting import findings as found
from selfcontrast.linting import guessing
from selfcontrast.linting.embedder import CutByEmbedder, readings_of
from selfcontrast.sources import record_files
from selfcontrast.sweep import models_of

if TYPE_CHECKING:
    from selfcontrast.linting.across import HeldOut
    from selfcontrast.rendering import Renderer
    from selfcontrast.schema import Model, Study

ERRORS_FOUND = 1
"""Exit code of a table with an error in it."""

Say = Callable[[str], None]


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument(
        "what", metavar="PATH|STUDY", help="file of records, or study: a name under config/ or a YAML file"
    )
    parser.add_argument("--adaptor", help="layout of the records; guessed from many of them if not given")
    parser.add_argument("--model", help="folder or hub id of a model: check token ids and lengths too")
    parser.add_argument("--tokenizer", help="the same with a tokenizer alone")
    parser.add_argument(
        "--embedder",
        help="folder or hub id of a sentence-transformers model, or the package that carries it: count the answers that it "
        "reads a part of only",
    )
    parser.add_argument("--template", help="chat template; default: the tokenizer's own, else `dialogue`")
    parser.add_argument("--max-length", type=int, help="longest prompt plus answer in tokens; default: of the model")
    parser.add_argument(
        "--against",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="held-out texts, such as question.jsonl of MT-Bench",
    )


def lint(args: argparse.Namespace, results: Path, say: Say = print) -> int:
    """Print the table and return the exit code: 1 if there is an error in it.

    Args:
        results: folder of the studies' outputs.

    Raises:
        InputError: nothing can be checked.
        ConfigError: the study or a plug-in is wrong.
    """
    from selfcontrast.linting.across import HeldOut
    from selfcontrast.linting.reading import benchmark_items

    if args.max_length is not None and args.max_length < 1:
        raise InputError("--max-length is a number of tokens", expected="1 or more", found=str(args.max_length))
    is_study_file = args.what.endswith((".yaml", ".yml"))
    is_study = is_study_file or not Path(args.what).exists()
    if is_study and not is_study_file and ("/" in args.what or Path(args.what).suffix):
        raise InputError("a data file is missing", where=args.what, remedy="check the path")
    asked = [Path(q.path) for q in load_study(args.what).evaluation.questions.values()] if is_study else []
    against = [*args.against, *(path for path in asked if path.is_file() and path not in args.against)]
    held_out = [HeldOut.index(path.name, benchmark_items(path)) for path in against]
    lines = list(_of_study(args, results, held_out, say) if is_study else _of_file(args, held_out, say))
    say(found.to_text(lines))
    return ERRORS_FOUND if found.totals(lines)["error"] else 0


def _of_file(args: argparse.Namespace, held_out: Sequence[HeldOut], say: Say) -> list[found.Finding]:
    from selfcontrast.linting.passes import check_records

    files = record_files([args.what])
    guess = guessing.try_adaptors(files)
    name = args.adaptor or guessing.best_of(guess, args.what).name
    adaptor = plugins.load("datasets", name)
    for line in guessing.describe(guess, name, guessed=args.adaptor is None):
        say(line)
    renderer = _renderer(args)
    if renderer is None:
        say("no tokenizer (--model, --tokenizer): lengths in words; BOS, EOS and truncation are not checked")
    max_length = args.max_length or _context_of(args.model)
    say("")
    return check_records(
        files,
        adaptor,
        renderer=renderer,
        max_length=max_length,
        held_out=held_out,
        more=[CutByEmbedder(*one) for one in readings_of([_embedder(args.embedder)] if args.embedder else [])],
    )


def _embedder(name: str) -> dict[str, Any]:
    """Return the parameters of the scorer `cosine` for a model's folder, hub id or package."""
    is_package = "/" not in name and not Path(name).exists() and find_spec(name) is not None
    return {"package" if is_package else "model": name}


def _renderer(args: argparse.Namespace) -> Renderer | None:
    folder = args.model or args.tokenizer
    if folder is None:
        return None
    from selfcontrast.checkpoints import embedding_rows, load_tokenizer
    from selfcontrast.rendering import renderer_of_base

    tokenizer = load_tokenizer(folder)
    template = args.template or ("tokenizer" if tokenizer.chat_template else "dialogue")
    return renderer_of_base(tokenizer, template, rows=embedding_rows(args.model) if args.model else None)


def _context_of(model: str | None) -> int | None:
    """Return the context that the config.json of a model's folder states."""
    path = Path(model or "", "config.json")
    if model is None or not path.is_file():
        return None
    length = read_json(path).get("max_position_embeddings")
    return length if isinstance(length, int) else None


def _of_study(
    args: argparse.Namespace, results: Path, held_out: Sequence[HeldOut], say: Say
) -> Iterator[found.Finding]:
    for flag in ("adaptor", "model", "tokenizer", "embedder", "template", "max_length"):
        if getattr(args, flag) is not None:
            raise InputError(f"--{flag.replace('_', '-')} is for a file; a study names its own", where=args.what)
    from selfcontrast.linting.needs import check_annotated
    from selfcontrast.linting.passes import check_records

    study = load_study(args.what)
    check_annotated(study)
    root = results / study.name
    records = {name: _records_of(study, name, root) for name in study.datasets}
    if not any(path.exists() for paths in records.values() for path in paths):
        found_none = ", ".join(path.as_posix() for paths in records.values() for path in paths)
        raise InputError(
            "the study has no records yet", found=f"none of {found_none}", remedy="run the study, or get the files"
        )
    readings = []
    try:
        readings = readings_of(scorer.params for scorer in study.scorers.values() if scorer.kind == "cosine")
    except SelfContrastError as error:
        say(f"an embedding model cannot be loaded; cut answers are not counted: {error}")
    for name, paths in records.items():
        if all(path.exists() for path in paths):
            adaptor = plugins.load("datasets", study.datasets[name].adaptor)
            found_there = check_records(paths, adaptor, more=[CutByEmbedder(*one) for one in readings])
            yield from (replace(f, source=name) for f in found_there)
        else:
            say(f"{name}: no records yet at {', '.join(path.as_posix() for path in paths)}; not checked")
        for model in models_of(study, name):
            for finding in _of_model(Layout(root, name, model), study.models[model], held_out, say):
                yield replace(finding, source=f"{name}/{model}")
    say("")


def _records_of(study: Study, name: str, root: Path) -> list[Path]:
    dataset = study.datasets[name]
    made = root / name / ("fetch/files" if dataset.hub else "world/records")
    if not dataset.paths:
        return files_of(made) or [made]
    paths = [Path(path) for path in dataset.paths]
    return record_files(paths) if all(path.exists() for path in paths) else paths


def _of_model(layout: Layout, model: Model, held_out: Sequence[HeldOut], say: Say) -> list[found.Finding]:
    from selfcontrast.checkpoints import embedding_rows, load_tokenizer
    from selfcontrast.linting.passes import check_encoded, check_templates
    from selfcontrast.rendering import Renderer, renderer_of_base, settings_of

    if not layout.prompts.is_file():
        say(f"{layout.dataset}/{layout.model}: no encoded splits yet at {layout.prompts.as_posix()}; not checked")
        return []
    encoded = Artifact.open(layout.prompts)
    dialogues = Artifact.open(layout.root / layout.dataset / "prompts" / "manifest.json")
    base = model.path or str(layout.root / "models" / layout.model / "base" / "model")
    if (fetched := layout.root / fetch_key(base) / "files").is_dir():
        base = str(fetched)
    code = model.trust_remote_code
    settings = settings_of(model.model_dump())
    tokenizer, n_rows = load_tokenizer(base, trust_remote_code=code), embedding_rows(base, trust_remote_code=code)
    renderer = renderer_of_base(tokenizer, model.template, rows=n_rows, **settings)
    digests = {"encode": encoded.manifest["template_sha256"], "base model": renderer.digest}
    for manifest in sorted(layout.base.rglob("manifest.json")):
        stage = manifest.parent.relative_to(layout.base).as_posix()
        recorded = Artifact.open(manifest).manifest.get("template_sha256")
        if recorded is not None and manifest != layout.prompts:
            digests[stage] = recorded
        if (folder := manifest.parent / "model").is_dir():
            saved = load_tokenizer(folder, trust_remote_code=code)
            digests[f"{stage}/model"] = Renderer(saved, model.template).digest
    return check_encoded(
        encoded, dialogues, renderer, max_length=model.max_length, held_out=held_out
    ) + check_templates(digests)
