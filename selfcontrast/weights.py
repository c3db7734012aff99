"""Load weights as a whole or not at all: the one place that refuses a checkpoint whose weights are not those of its model.

Transformers gives a weight that is missing random numbers, others at every load. It leaves out a weight that has no place in
the model. Of both it writes a report to the log, and goes on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from selfcontrast.errors import InputError
from selfcontrast.pins import split_revision

T = TypeVar("T")

ADAPTERS = "adapter_config.json"

COMPUTED = r"\.attn(\.attention)?\.bias$|\.masked_bias$|\.causal_mask$|\.inv_freq$"
"""Masks and rotary frequencies, which old versions of transformers stored as if they were weights."""

OUTPUT_LAYER = r"^(lm_head|embed_out)\."
"""The layer of a causal language model that a classifier does without."""

_SHOWN = 3
"""Names of weights in a message, of each kind."""


def load_whole(load: Callable[[], T], *, where: str | Path, remedy: str, may_lack: str = "", may_hold: str = "") -> T:
    """Return what ``load`` returns, if every checkpoint that it reads has all weights of its model, and no others.

    Args:
        load: calls ``from_pretrained`` of one of the classes of transformers, by itself or by way of another library.
        where: the checkpoint, as it is named in the study.
        remedy: what the user can do.
        may_lack: regular expression of the names of weights that a checkpoint need not have.
        may_hold: the same of weights that it may have besides; those of ``COMPUTED`` always.

    Raises:
        InputError: weights are missing, not expected or of another shape, or the checkpoint holds adapters.
    """
    if (Path(split_revision(where)[0]) / ADAPTERS).is_file():
        raise _only_adapters(where)

    def check(model: Any, info: dict[str, Collection[Any]]) -> None:
        if getattr(model, "_hf_peft_config_loaded", False):
            raise _only_adapters(where)
        if info.get("error_msgs"):
            raise ValueError("; ".join(map(str, info["error_msgs"])))
        check_names(
            type(model).__name__,
            missing=_but_for(may_lack, info["missing_keys"]),
            unexpected=_but_for(may_hold, _but_for(COMPUTED, info["unexpected_keys"])),
            mismatched={name: (tuple(there), tuple(wanted)) for name, there, wanted in info["mismatched_keys"]},
            where=where,
            remedy=remedy,
        )

    with _observed(check):
        return load()


def check_names(
    model: str,
    *,
    missing: Collection[str],
    unexpected: Collection[str],
    mismatched: dict[str, tuple[tuple[int, ...], tuple[int, ...]]],
    where: str | Path,
    remedy: str,
) -> None:
    """Raise InputError if the weights of a checkpoint are not those of the model.

    Args:
        model: name of its class.
        mismatched: for each weight of another shape, the shape in the checkpoint and that of the model.
    """
    shapes = [f"{name} {list(there)} for {list(wanted)}" for name, (there, wanted) in sorted(mismatched.items())]
    kinds = (("missing", sorted(missing)), ("not expected", sorted(unexpected)), ("of another shape", shapes))
    found = [f"{len(names)} {kind} ({_some(names)})" for kind, names in kinds if names]
    if found:
        raise InputError(
            "the weights of a checkpoint are not those of the model it is loaded as",
            expected=f"all weights of {model}, and no others",
            found="; ".join(found),
            where=str(where),
            remedy=remedy,
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def _but_for(pattern: str, names: Collection[str]) -> list[str]:
    return [name for name in names if not pattern or re.search(pattern, name) is None]


def _only_adapters(where: str | Path) -> InputError:
    return InputError(
        "the checkpoint holds adapters, which change the weights of another checkpoint",
        expected="a whole model",
        found=ADAPTERS,
        where=str(where),
        remedy="merge them once, and name the new folder: AutoPeftModelForCausalLM.from_pretrained(...)"
        ".merge_and_unload().save_pretrained(...), with the tokenizer beside it",
    )


@contextmanager
def _observed(check: Callable[[Any, dict[str, Collection[Any]]], None]) -> Iterator[None]:
    """Let ``check`` see every model that transformers loads in the block, and its report on the weights.

    The report is to be had by an argument of ``from_pretrained`` alone, which sentence-transformers does not hand on: hence
    the argument is added where all classes of models come past.
    """
    from transformers import PreTrainedModel

    original = PreTrainedModel.__dict__["from_pretrained"]

    def observed(cls: Any, /, *args: Any, output_loading_info: bool = False, **options: Any) -> Any:
        # Weights of another shape are then told by name, as the others are, and not by an error of their own.
        options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
        model, info = original.__func__(cls, *args, **options)
        check(model, info)
        return (model, info) if output_loading_info else model

    PreTrainedModel.from_pretrained = classmethod(observed)
    try:
        yield
    finally:
        PreTrainedModel.from_pretrained = original
