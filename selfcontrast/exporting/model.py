"""A trained policy as a checkpoint of the Hugging Face layout, whose chat template renders what training read."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfcontrast import plugins
from selfcontrast.artifacts import Artifact, files_of, read_jsonl
from selfcontrast.errors import InputError
from selfcontrast.exporting.cards import checkpoint_name
from selfcontrast.exporting.folder import Export
from selfcontrast.exporting.model_card import model_card
from selfcontrast.exporting.targets import Target
from selfcontrast.records import training_column

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEMPLATE = "chat_template.jinja"
TRAINING_TEMPLATE = "additional_chat_templates/training.jinja"
"""For `apply_chat_template(..., chat_template="training")`, where training reads other prompts than sampling."""


def has_weights(target: Target) -> bool:
    """Return whether the weights of a policy are still there."""
    return (target.policy.parent / "model").is_dir()


def fill_model(target: Target, export: Export, folder: Path, *, with_weights: bool) -> None:
    """Write checkpoint and model card; without weights the card alone.

    Raises:
        InputError: the weights were removed, or the chat template does not render the ids that training read.
    """
    policy = export.note(target.open(target.policy), target.root)
    tables = export.note(target.open(target.root / "tables" / "manifest.json"), target.root)
    settings = target.spec_of(policy, target.policy_spec)
    if settings.get("base"):
        settings["base"] = checkpoint_name(settings["base"])
    export.more |= {"training": policy.manifest, "settings": settings}
    if with_weights:
        _copy(target, policy, folder)
        _check_template(target, export, folder)
    else:
        export.counts["card without weights"] = 1
    dialogues = export.note(target.open(target.root / target.dataset / "prompts" / "manifest.json"), target.root)
    licence = str(dialogues.manifest["report"].get("licence", ""))
    card = model_card(target, export, tables.path("metrics.tsv"), settings=settings, licence=licence)
    (folder / "README.md").write_text(card, encoding="utf-8")


def _copy(target: Target, policy: Artifact, folder: Path) -> None:
    if not has_weights(target):
        weights = (target.policy.parent / "model").as_posix()
        name = target.study.name
        raise InputError(
            "the weights of this arm were removed after their evaluation",
            where=weights,
            remedy="set `keep_policies: true` in the study before it runs; or train this arm once more, to the same "
            f"weights: snakemake --cores all --notemp --config study={name} -- {weights}; or write the card alone: "
            "--card-only",
        )
    source = policy.path("model")
    for file in files_of(source):
        place = folder / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)


def _check_template(target: Target, export: Export, folder: Path) -> None:
    """Make the chat template render the prompts of training, and count how many of them it does."""
    prompts = export.note(target.open(target.layout.prompts), target.root)
    spec = target.spec_of(prompts, target.layout.prompts.parent / "spec.json")
    name, column = spec["template"], training_column(prompts.manifest)
    rows = _prompts_of(target, prompts, column)
    chats = [(TEMPLATE, None, "prompt_ids")]
    definition = plugins.load("templates", name)
    if column != "prompt_ids":
        chats.append((TRAINING_TEMPLATE, definition.TRAINING_CHAT, column))
    for file, given, ids in chats:
        tokenizer = _tokenizer(folder, spec)
        chat = str(given or tokenizer.get_chat_template())
        fitted = _with_bos(tokenizer, chat, rows, ids)
        if given or fitted != chat:
            _write_template(folder, file, fitted)
    tokenizer = _tokenizer(folder, spec)
    same, escaped = _compare(tokenizer, "training" if len(chats) > 1 else None, rows, column)
    export.counts |= {"prompts of training that the chat template renders to the same ids": same}
    if escaped:
        export.counts |= {"prompts with the name of a control token, which only this project keeps as text": escaped}
    export.more["template"] = {"name": name, "trains_apart": len(chats) > 1}
    if same + escaped < len(rows):
        raise InputError(
            "the chat template does not render the ids that training read",
            expected=f"all of {len(rows)} prompts",
            found=f"{same} equal, {escaped} with names of control tokens",
            where=(target.policy.parent / "model").as_posix(),
            remedy="the tokenizer of the checkpoint is not the one it was trained with: delete both and run snakemake",
        )


def _prompts_of(target: Target, prompts: Artifact, column: str) -> list[tuple[list[dict[str, str]], dict[str, Any]]]:
    """Return messages and token ids of every prompt of the split pool."""
    columns = list(dict.fromkeys(["prompt_id", "prompt_ids", column]))
    table = prompts.table("pool.parquet", columns)
    rows = {i: {c: table[c][n] for c in columns} for n, i in enumerate(table["prompt_id"])}
    dialogues = target.open(target.root / target.dataset / "prompts" / "manifest.json")
    found = read_jsonl(dialogues.path("dialogues.jsonl.gz"))
    return [(r["messages"], rows[r["prompt_id"]]) for _, r in found if r["prompt_id"] in rows]


def _tokenizer(folder: Path, spec: dict[str, Any]) -> PreTrainedTokenizerBase:
    from selfcontrast.checkpoints import load_tokenizer

    return load_tokenizer(folder, trust_remote_code=spec["trust_remote_code"])


def _with_bos(tokenizer: PreTrainedTokenizerBase, chat: str, rows: Sequence[Any], column: str) -> str:
    """Return a template that writes the BOS token, where training had one and the template leaves it to the tokenizer."""
    messages, row = rows[0]
    bos, ids = tokenizer.bos_token_id, _render(tokenizer, messages, chat)
    return "{{ bos_token }}" + chat if bos is not None and row[column][:1] == [bos] != ids[:1] else chat


def _render(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], chat: str | None) -> list[int]:
    ids: Any = tokenizer.apply_chat_template(
        messages, chat_template=chat, tokenize=True, add_generation_prompt=True, return_dict=False
    )
    return list(ids)


def _compare(tokenizer: PreTrainedTokenizerBase, chat: str | None, rows: Sequence[Any], column: str) -> tuple[int, int]:
    """Return how many prompts render to their ids, and how many do not since a text has a control token's name in it."""
    control = [t.content for t in tokenizer.added_tokens_decoder.values() if t.special]
    same = escaped = 0
    for messages, row in rows:
        if _render(tokenizer, messages, chat) == row[column]:
            same += 1
        elif any(name in m["content"] for m in messages for name in control):
            escaped += 1
    return same, escaped


def _write_template(folder: Path, file: str, chat: str) -> None:
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_text(chat, encoding="utf-8")
