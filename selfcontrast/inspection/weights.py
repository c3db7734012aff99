"""The weights of a checkpoint by their headers: which files hold them, whether all are there, and what is in them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from selfcontrast.errors import InputError
from selfcontrast.inspection.files import AGAIN, PICKLED, Tensor, read_header, read_json

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"

_PACKED = (".qweight", ".weight_packed", ".weight_scale", ".weight_scale_inv", ".weight.absmax")
"""Endings of tensors that only quantised checkpoints have."""


def read_weights(folder: Path, *, every_file: bool = False) -> dict[str, Tensor]:
    """Return the tensors that loading a checkpoint would read, by name; none if it has no safetensors file.

    Args:
        every_file: read all safetensors files, as a reward model with a value head is read, and not those that
            transformers looks for.

    Raises:
        InputError: a file is damaged or missing, or the index and the files disagree.
    """
    files = sorted(p for p in folder.glob("*.safetensors") if not p.name.startswith("consolidated"))
    if every_file:
        return {name: tensor for file in files for name, tensor in read_header(file).items()}
    if (folder / SINGLE) in files:
        return read_header(folder / SINGLE)
    if (folder / INDEX).exists() or (folder / INDEX).is_symlink():
        return _indexed(folder / INDEX)
    if files:
        raise InputError(
            "the weights of a checkpoint have names under which they are not looked for",
            expected=f"{SINGLE}, or shards and {INDEX}",
            found=", ".join(file.name for file in files[:5]),
            where=str(folder),
            remedy="fetch the index too, or rename the file if it is the only one",
        )
    return {}


def _indexed(index: Path) -> dict[str, Tensor]:
    content = read_json(index)
    places = content.get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(file, str) for file in places.values()):
        raise InputError("the index of the weights has no `weight_map`", where=str(index), remedy=AGAIN)
    shards = sorted(set(places.values()))
    missing = [s for s in shards if not (index.parent / s).exists() and not (index.parent / s).is_symlink()]
    if missing:
        raise InputError(
            "shards of the weights are missing",
            expected=f"{len(shards)} files, as the index says",
            found=f"{len(missing)} are not there, among them {missing[0]}",
            where=str(index),
            remedy="fetch them",
        )
    tensors = {name: tensor for shard in shards for name, tensor in read_header(index.parent / shard).items()}
    for name, file in places.items():
        if name not in tensors or tensors[name].file != file:
            raise InputError(
                "the index of the weights and their files disagree: they belong to two checkpoints",
                expected=f"{name} in {file}",
                found=f"it is in {tensors[name].file}" if name in tensors else "it is in no file that the index names",
                where=str(index),
                remedy="fetch the index and all shards again, into an empty folder",
            )
    _check_total(content.get("metadata"), tensors, index)
    return tensors


def _check_total(metadata: Any, tensors: dict[str, Tensor], index: Path) -> None:
    """Compare the sum in an index with its files.

    Software is known to leave out small buffers and to count a tied weight twice or not at all, so that such sums pass.
    """
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    found = sum(tensor.n_bytes for tensor in tensors.values())
    if not isinstance(total, int) or abs(found - total) <= total / 1000:
        return
    if abs(found - total) not in {tensor.n_bytes for tensor in tensors.values()}:
        raise InputError(
            "the weights of a checkpoint have another size than their index says",
            expected=f"{total:,} bytes (metadata.total_size)",
            found=f"{found:,} bytes in all",
            where=str(index),
            remedy="fetch the index and all shards again; if the files are right, correct total_size",
        )


def no_safetensors(names: Iterable[str], *, where: str, is_reward: bool) -> InputError:
    """Return the error for a checkpoint without weights as safetensors, given the names of its files."""
    pickled = sorted(name for name in names if name.endswith(PICKLED) and "/" not in name)
    return InputError(
        "a checkpoint has no weights as safetensors, and pickled weights are not opened",
        found=", ".join(pickled) or "no weights at all",
        where=where,
        remedy="convert them once where you trust the file, "
        + ("as docs/reward-models.md says" if is_reward else "with save_pretrained")
        + ", and name the new folder; or take a revision or a copy that has them",
    )


def quantised_by(config: dict[str, Any], tensors: Iterable[str]) -> str:
    """Return the method by which a checkpoint was quantised, or a tensor that shows that it was; nothing if it was not.

    Args:
        config: its config.json.
        tensors: names of its weights.
    """
    settings = config.get("quantization_config")
    if isinstance(settings, dict):
        return str(settings.get("quant_method", "quantization_config"))
    return next((name for name in tensors if name.endswith(_PACKED)), "")
