"""The files of a checkpoint's tokenizer, and its chat template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selfcontrast.errors import InputError
from selfcontrast.inspection.files import (
    AGAIN,
    check_content,
    check_sentencepiece,
    check_tokenizer_json,
    is_there,
    read_json,
)

_MODELS = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "spm.model")
_TABLES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json")
_FILES = ("tokenizer.json", *_MODELS, "vocab.json", "vocab.txt", "tekken.json", "tokenizer_config.json")
"""One of them is in the folder of every tokenizer."""


def check_tokenizer(folder: Path, *, required: bool) -> None:
    """Raise InputError if a file of a tokenizer is damaged, or if there is none although it is ``required``."""
    there = [name for name in _FILES if is_there(folder / name)]
    if required and not there and not list(folder.glob("*.tiktoken")):
        raise InputError(
            "a checkpoint has no tokenizer",
            expected=f"one of {', '.join(_FILES[:3])}, ...",
            where=str(folder),
            remedy="put the tokenizer's files beside the weights: those of its base model, if it was trained from one",
        )
    for path in (folder / "merges.txt", folder / "vocab.txt", *sorted(folder.glob("*.tiktoken"))):
        if is_there(path):
            check_content(path)
    for name in _TABLES:
        if is_there(folder / name):
            read_json(folder / name)
    for name in _MODELS:
        if is_there(folder / name):
            check_sentencepiece(folder / name)
    if "tokenizer.json" in there:
        check_tokenizer_json(folder / "tokenizer.json")


def check_chat_template(folder: Path) -> None:
    """Raise InputError unless a tokenizer has one chat template that is its default, and that one compiles."""
    templates, where = chat_templates(folder)
    if not templates:
        raise InputError(
            "the tokenizer of a checkpoint brings no chat template",
            where=str(where),
            remedy="set `template` of this model in the study file",
        )
    if "default" not in templates:
        raise InputError(
            "the tokenizer of a checkpoint has named chat templates, and none of them is its default",
            expected="one that is named `default`",
            found=", ".join(templates),
            where=str(where),
            remedy="write the one that is meant into chat_template.jinja there, or set `template` in the study file",
        )
    if problem := _template_problem(templates["default"]):
        raise InputError(
            "the chat template of a checkpoint is damaged: it does not compile",
            found=problem,
            where=str(where),
            remedy=f"{AGAIN}, or set `template` in the study file",
        )


def chat_templates(folder: Path) -> tuple[dict[str, Any], Path]:
    """Return the chat templates of a tokenizer by name, as transformers reads them, and the file or folder they are in.

    Raises:
        InputError: a file is damaged.
    """
    alone, more = folder / "chat_template.jinja", folder / "additional_chat_templates"
    files = {"default": alone} if is_there(alone) else {}
    files |= {file.stem: file for file in sorted(more.glob("*.jinja"))}
    for file in files.values():
        check_content(file)
    if files:
        found = {name: file.read_text(encoding="utf-8", errors="replace") for name, file in files.items()}
        return found, alone if "default" in files else more
    path = folder / "tokenizer_config.json"
    chosen = read_json(path).get("chat_template") if is_there(path) else None
    if isinstance(chosen, list):
        try:
            chosen = {entry["name"]: entry["template"] for entry in chosen}
        except (TypeError, KeyError):
            raise InputError(
                "the list of chat templates of a tokenizer is damaged",
                expected="entries of {name, template}",
                where=str(path),
                remedy=AGAIN,
            ) from None
    return (chosen if isinstance(chosen, dict) else {"default": chosen} if chosen else {}), path


def _template_problem(text: Any) -> str:
    """Return why a template does not compile in an environment like that of transformers; nothing if it does."""
    from jinja2 import TemplateError
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """The tag with which templates mark answers; transformers has an extension of its own for it."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    try:
        ImmutableSandboxedEnvironment(extensions=[Generation, "jinja2.ext.loopcontrols"]).from_string(text)
    except TemplateError as error:
        line = getattr(error, "lineno", None)
        return str(error) + (f", line {line}" if line else "")
    except (TypeError, AttributeError):
        return f"it is a {type(text).__name__} and no text"
    return ""
