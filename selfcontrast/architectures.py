"""Which models cannot be served at all, told from their configuration alone, so before the first job."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from selfcontrast import hub
from selfcontrast.errors import InputError
from selfcontrast.schema import Study

Config = Mapping[str, Any]

HEAD = "its head is more than one matrix, so its log-probabilities are not known here"
BOTH_WAYS = "a token sees what comes after it, so a text has no log-probability token by token"
PARTS = "it is no language model by itself: it needs audio, an image, bytes, a language code or a second model"

REFUSED = {
    **dict.fromkeys(
        (
            *("bert", "big_bird", "camembert", "data2vec-text", "electra", "ernie", "inkling2_text", "inkling_text"),
            *("megatron-bert", "modernbert-decoder", "rembert", "roberta", "roberta-prelayernorm", "roc_bert"),
            *("roformer", "xlm-roberta", "xlm-roberta-xl", "xlstm", "xmod"),
        ),
        HEAD,
    ),
    **dict.fromkeys(("cpmant", "prophetnet", "reformer", "xlm", "xlnet"), BOTH_WAYS),
    **dict.fromkeys(("blt", "gemma4_assistant", "gemma4_unified_assistant", "musicgen", "musicgen_melody"), PARTS),
}
"""Architectures (``model_type``) that transformers loads as causal language models and that cannot be served, and why."""

TABLE = {
    **dict.fromkeys(("codegen", "ctrl", "gpt2", "gpt_bigcode", "gptj", "openai-gpt"), "n_positions"),
    **dict.fromkeys(
        (
            *("bart", "bigbird_pegasus", "biogpt", "blenderbot", "blenderbot-small", "git", "gpt_neo", "marian"),
            *("mbart", "mvp", "opt", "pegasus", "plbart", "trocr"),
        ),
        "max_position_embeddings",
    ),
    "mpt": "max_seq_len",
}
"""Architectures with a table of positions, and the key of config.json that says how many there are."""


def refusal(config: Config) -> str | None:
    """Return why a model with this configuration cannot be served, or None.

    Args:
        config: the content of its config.json.
    """
    kind = config.get("model_type")
    if kind in REFUSED:
        return REFUSED[str(kind)]
    if config.get("is_encoder_decoder"):
        return "it is an encoder with a decoder, and only decoders are served"
    if kind == "bert-generation" and not config.get("is_decoder"):
        return BOTH_WAYS
    return None


def longest_row(config: Config) -> int | None:
    """Return the longest row, in tokens, whose tokens have positions that do not depend on other rows; None: no such limit.

    A table of positions has an end. LongRoPE and dynamic NTK scaling take, beyond some length, other frequencies for all
    tokens of all rows that run together: a cache then holds keys of the wrong frequencies, and a row's log-probability
    depends on its company.
    """
    config = _text(config)
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    limits = [_table(config)]
    for rope in (scaling, *(part for part in scaling.values() if isinstance(part, Mapping))):
        kind, most = rope.get("rope_type", rope.get("type")), config.get("max_position_embeddings")
        if kind in ("longrope", "su"):
            before = rope.get("original_max_position_embeddings") or config.get("original_max_position_embeddings")
            limits.append(before or most)
        elif kind == "dynamic":
            limits.append(most)
    return min((int(limit) for limit in limits if limit), default=None)


def check_architectures(study: Study) -> None:
    """Refuse a model that cannot be served, by its name.

    A model whose config.json is in no folder and not in the hub's cache is left to the job that loads it.

    Raises:
        InputError: there is one, or a context is longer than a model's ``longest_row``.
    """
    for where, name, length, is_classifier in _models(study):
        config = hub.config_of(name)
        if config is None:
            continue
        if not is_classifier:
            refuse(config, where=f"{where}: {name}")
            _check_known(config, where=f"{where}: {name}")
            _check_classifier(study, config, where=f"{where}: {name}")
        limit = longest_row(config)
        if limit is not None and length > limit:
            raise too_long(config, length, where=f"{where.rpartition('.')[0]}.max_length")


def refuse(config: Config, *, where: str) -> None:
    """Raise InputError if a model with this configuration cannot be served."""
    if (reason := refusal(config)) is not None:
        raise InputError(
            f"models of the architecture `{config['model_type']}` cannot be served",
            expected="a decoder that reads from left to right, with one matrix as its head",
            found=reason,
            where=where,
            remedy="take a model of another architecture",
        )


def too_long(config: Config, length: int, *, where: str) -> InputError:
    """Return the error of a row that is longer than ``longest_row``."""
    expected = f"at most {longest_row(config)} tokens for prompt and response ({_text(config).get('model_type')})"
    if _table(_text(config)) is not None:
        return InputError(
            "the model has no positions for rows of this length",
            expected=expected,
            found=f"{length} tokens",
            where=where,
            remedy="lower `max_length` (and `max_new_tokens`), or take a model with a longer context",
        )
    return InputError(
        "the model's rotary scaling gives other positions to rows of this length",
        expected=expected,
        found=f"{length} tokens",
        where=where,
        remedy="lower `max_length` (and `max_new_tokens`), or take a model whose scaling does not change with the length",
    )


def _models(study: Study) -> Iterator[tuple[str, str, int, bool]]:
    """Yield key, name and context of every checkpoint that the study names, and whether it is a reward model."""
    for key, model in study.models.items():
        if model.path is not None:
            yield f"models.{key}.path", model.path, model.max_length, False
    for key, scorer in study.scorers.items():
        if scorer.kind == "reward" and scorer.params.get("model") is not None:
            yield f"scorers.{key}.model", str(scorer.params["model"]), int(scorer.params["max_length"]), True


def _check_known(config: Config, *, where: str) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if not config.get("auto_map") and config.get("model_type") not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise InputError(
            f"models of the architecture `{config.get('model_type')}` cannot be served",
            expected="a causal language model that the installed transformers knows, or that brings its own code",
            found="neither",
            where=where,
            remedy="take another model, or a newer transformers",
        )


def _check_classifier(study: Study, config: Config, *, where: str) -> None:
    if not study.reward_models or config.get("auto_map"):
        return
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

    if config.get("model_type") not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES:
        raise InputError(
            "`reward_models` cannot be trained from this model",
            expected="an architecture of which transformers has a sequence classifier",
            found=f"`{config.get('model_type')}`, which has none",
            where=where,
            remedy="drop `reward_models`, or take a model of another architecture",
        )


def _text(config: Config) -> Config:
    text: Config = config.get("text_config") or config
    return text


def _table(config: Config) -> int | None:
    length = config.get(TABLE.get(str(config.get("model_type")), ""))
    return length if isinstance(length, int) else None
