"""Whether the folder of a checkpoint holds, whole, what loading it needs."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from selfcontrast.errors import InputError
from selfcontrast.inspection.files import AGAIN, PICKLED, check_content, is_there, read_header, read_json
from selfcontrast.inspection.tokenizer import check_chat_template, check_tokenizer
from selfcontrast.inspection.weights import no_safetensors, quantised_by, read_weights

Use = Literal["model", "reward", "value_head", "embedder", "judge"]

_EMBEDDER = ("config_sentence_transformers.json", "sentence_bert_config.json")

ADAPTER = "adapter_config.json"

UNFINISHED = (".incomplete", ".aria2", ".part", ".partial", ".crdownload", ".lock")
"""Endings that a download gives to a file which has not arrived, or to a mark beside it."""


@dataclass(frozen=True)
class Needs:
    """What is asked of a checkpoint.

    Attributes:
        use: what it is loaded as; a ``judge`` is loaded by a server, whose formats are not judged here.
        template: whether its own chat template is used.
        code: whether it may bring code of its own (`trust_remote_code`).
        tokenizer: whether it must bring a tokenizer.
    """

    use: Use = "model"
    template: bool = False
    code: bool = False
    tokenizer: bool = True


def check_checkpoint(folder: Path, needs: Needs) -> None:
    """Raise InputError, with the name of the file, unless a checkpoint can be loaded as far as its headers tell."""
    check_layout(folder)
    if needs.use == "embedder" and is_there(folder / "modules.json"):
        _check_modules(folder, needs)
    else:
        _check_model(folder, needs)


def check_damage(folder: Path, use: Use | Literal["tokenizer"]) -> None:
    """Raise InputError if a file is damaged of a checkpoint that could not be loaded; what is no folder passes."""
    if use != "tokenizer" and folder.is_dir():
        check_checkpoint(folder, Needs(use, tokenizer=False))
    elif folder.is_dir():
        if is_there(folder / "config.json"):
            read_json(folder / "config.json")
        check_tokenizer(folder, required=True)


def check_layout(folder: Path) -> None:
    """Raise InputError unless a folder has the layout of Hugging Face, judged by the names of its files alone."""
    if not folder.is_dir():
        raise InputError("there is no such folder of a checkpoint", where=str(folder), remedy="correct its path")
    try:
        names = {p.name for p in folder.iterdir()}
    except OSError as error:
        raise InputError(
            "the folder of a checkpoint cannot be read",
            found=error.strerror or str(error),
            where=str(folder),
            remedy="give yourself the right to read it (`chmod u+rx`)",
        ) from None
    if ADAPTER in names:
        # transformers would load the base model that the adapter names, from wherever that is.
        raise InputError(
            "the folder of a checkpoint holds a LoRA adapter",
            found=ADAPTER,
            where=str(folder),
            remedy="merge it into its base model (peft: `merge_and_unload`) and name the merged checkpoint; if this is one, "
            f"delete {ADAPTER} there",
        )
    if names & {"config.json", "modules.json"}:
        return
    inside = sorted(p.parent for p in (*folder.glob("*/config.json"), *folder.glob("snapshots/*/config.json")))
    gguf = sorted(name for name in names if name.endswith(".gguf"))
    found, remedy = ", ".join(sorted(names)[:5]) or "nothing", "put a checkpoint in the Hugging Face layout there"
    if inside:
        remedy = f"name the folder inside it: {inside[0]}"
    elif gguf:
        found, remedy = f"a GGUF file, {gguf[0]}", "name the checkpoint that it was made from"
    elif "params.json" in names:
        found, remedy = "params.json: Meta's or Mistral's own layout", "take the same model in the Hugging Face layout"
    raise InputError("the folder of a checkpoint has no config.json", found=found, where=str(folder), remedy=remedy)


def read_modules(path: Path) -> list[tuple[str, str]]:
    """Return folder and type of each module that a modules.json of sentence-transformers names.

    Raises:
        InputError: the file is damaged.
    """
    check_content(path)
    try:
        return [(str(m["path"]), str(m["type"])) for m in json.loads(path.read_text(encoding="utf-8"))]
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            "a modules.json is damaged", found=f"{type(error).__name__}: {error}", where=str(path), remedy=AGAIN
        ) from None


def _check_modules(folder: Path, needs: Needs) -> None:
    """Check an embedding model of sentence-transformers: each of its modules has a folder, often that of the whole."""
    for name in _EMBEDDER:
        if is_there(folder / name):
            read_json(folder / name)
    for place, kind in read_modules(folder / "modules.json"):
        module = folder / place
        if kind.endswith("Transformer"):
            _check_model(module, needs)
        elif module.is_dir():
            _check_module(module)
        elif not kind.endswith("Normalize"):  # it has nothing to store
            raise InputError(
                "a folder that modules.json names is missing",
                found=f"{place}, of {kind.rpartition('.')[2]}",
                where=str(folder / "modules.json"),
                remedy="fetch it too",
            )


def _check_module(module: Path) -> None:
    if is_there(module / "config.json"):
        read_json(module / "config.json")
    weights = sorted(module.glob("*.safetensors"))
    for file in weights:
        read_header(file)
    pickled = [p.name for p in module.iterdir() if p.name.endswith(PICKLED)]
    if pickled and not weights:
        raise no_safetensors(pickled, where=str(module), is_reward=False)


def _check_model(folder: Path, needs: Needs) -> None:
    config = read_json(folder / "config.json")
    if needs.use != "judge":
        _check_config(config, folder / "config.json", code=needs.code)
    weights = read_weights(folder, every_file=needs.use == "value_head")
    _check_unfinished(folder)
    if needs.use != "judge":
        if not weights:
            names = [p.name for p in folder.iterdir()]
            raise no_safetensors(names, where=str(folder), is_reward=needs.use in ("reward", "value_head"))
        if method := quantised_by(config, weights):
            raise _quantised(method, folder, needs)
    check_tokenizer(folder, required=needs.tokenizer and needs.use != "judge")
    if is_there(folder / "generation_config.json"):
        read_json(folder / "generation_config.json")
    if needs.template:
        check_chat_template(folder)


def _check_config(config: dict[str, Any], path: Path, *, code: bool) -> None:
    kind = config.get("model_type")
    own = config.get("auto_map")
    if code and isinstance(own, dict):
        # A tokenizer has two classes, slow and fast, of which one may be missing.
        places = [place for value in own.values() for place in (value if isinstance(value, list) else [value])]
        for name in sorted(str(place) for place in places if place is not None):
            if "--" not in name and not (path.parent / f"{name.split('.')[0]}.py").exists():
                raise InputError(
                    "a file of code that a config.json names is missing",
                    found=f"no {name.split('.')[0]}.py",
                    where=str(path),
                    remedy="fetch it too",
                )
        return
    if not isinstance(kind, str):
        raise InputError(
            "a config.json names no architecture",
            expected="the key `model_type`",
            found=f"the keys {', '.join(list(config)[:5])}" if config else "no key",
            where=str(path),
            remedy=AGAIN,
        )
    if not is_known(kind):
        remedy = "take a checkpoint of a known architecture, or a newer transformers"
        if "auto_map" in config:
            remedy += "; or, if you trust the code that it brings, set `trust_remote_code: true`"
        raise InputError(
            "the installed transformers does not know the architecture of a checkpoint",
            found=f"model_type {kind}",
            where=str(path),
            remedy=remedy,
        )


def is_known(kind: str) -> bool:
    """Return whether transformers has an architecture; its folders are asked first, since importing it takes seconds."""
    spec = importlib.util.find_spec("transformers")
    if spec is None or spec.origin is None:
        return True  # it is not installed here; the step that loads the checkpoint will tell
    if kind.isidentifier() and Path(spec.origin).parent.joinpath("models", kind).is_dir():
        return True
    from transformers import CONFIG_MAPPING

    return kind in CONFIG_MAPPING


def _check_unfinished(folder: Path) -> None:
    """Refuse what a download leaves that did not finish; a file beside such a mark may be full of zeros."""
    here = [p for p in folder.iterdir() if p.name.endswith(UNFINISHED)]
    here = [p for p in here if p.suffix != ".lock" or not p.with_suffix("").exists()]
    hidden = folder.glob(".cache/huggingface/download/**/*.incomplete")
    if left := sorted([*here, *hidden]):
        raise InputError(
            "a download of a checkpoint was not finished",
            found=", ".join(p.name for p in left[:3]),
            where=str(folder),
            remedy="finish it (the same `hf download` again); if all files are there, delete the leftovers",
        )


def _quantised(method: str, folder: Path, needs: Needs) -> InputError:
    if needs.use == "model":
        what = "a checkpoint is quantised, and its weights cannot be trained"
        remedy = "name the checkpoint that it was made from; `lora: {quantise: nf4}` trains that in 4 bits"
    else:
        what, remedy = "a checkpoint is quantised, which is not read here", "name the checkpoint that it was made from"
    return InputError(what, found=method, where=str(folder), remedy=remedy)
