"""Small random models of every causal language model that transformers knows, made from its default configurations."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

ARCHITECTURES = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
VOCABULARY = 40
WINDOW = 4
ROW = 64
LARGEST = 10_000_000
"""Weights of a model that still counts as small."""

_SIZES: dict[str, tuple[str, ...]] = {
    "32": (
        *("hidden_size", "n_embd", "d_model", "dim", "embed_dim", "word_embed_proj_dim", "embedding_size", "emb_dim"),
        *("lru_width", "altup_dim"),
    ),
    "2": (
        *("num_hidden_layers", "n_layer", "num_layers", "decoder_layers", "encoder_layers", "n_layers"),
        *("num_decoder_layers", "num_key_value_heads", "num_kv_heads", "n_head_kv", "linear_num_key_heads"),
        *("num_experts_per_tok", "moe_k", "moe_topk", "num_experts_per_token", "top_k_experts", "moe_top_k"),
        *("linear_num_value_heads", "num_encoder_layers"),
    ),
    "48": (
        *("intermediate_size", "ffn_dim", "n_inner", "d_ff", "dim_ff", "dff", "decoder_ffn_dim", "encoder_ffn_dim"),
        *("ffn_hidden_size", "moe_intermediate_size", "shared_expert_intermediate_size", "mlp_hidden_size", "d_inner"),
        *("intermediate_size_mlp", "block_ff_dim", "moe_shared_expert_intermediate_size", "dense_intermediate_size"),
        *("shared_intermediate_size", "expert_ffn_hidden_size"),
    ),
    "4": (
        *(
            "num_attention_heads",
            "n_head",
            "n_heads",
            "decoder_attention_heads",
            "encoder_attention_heads",
            "num_heads",
        ),
        *("attention_heads", "num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"),
        *("num_routed_experts", "mamba_d_conv", "time_step_rank", "mamba_dt_rank", "rotary_dim", "zero_expert_num"),
    ),
    "8": (
        *("head_dim", "attention_head_dim", "qk_nope_head_dim", "v_head_dim", "kv_channels", "qk_rope_head_dim"),
        *("mamba_d_state", "mamba_n_heads", "mamba_d_head", "state_size", "linear_key_head_dim"),
        *("linear_value_head_dim", "hidden_size_per_layer_input", "global_head_dim", "laurel_rank"),
        *("mamba_chunk_size", "chunk_size", "ssm_state_size", "mamba_num_heads", "mamba_head_dim"),
    ),
    "16": ("qk_head_dim", "kv_lora_rank", "q_lora_rank"),
    "1": (
        *("n_group", "topk_group", "num_expert_group"),
        *("mamba_n_groups", "first_k_dense_replace", "bos_token_id", "decoder_start_token_id"),
    ),
    "0": ("pad_token_id", "num_kv_shared_layers"),
    str(VOCABULARY): ("vocab_size", "text_vocab_size", "n_words", "vocab_size_per_layer_input"),
    str(ROW): (
        *("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "context_length", "max_sequence_length"),
        *("max_target_positions", "max_source_positions"),
    ),
}
SMALL = {name: int(size) for size, names in _SIZES.items() for name in names} | {"eos_token_id": 2, "mamba_expand": 2}
WINDOWS = (
    *("sliding_window", "attention_window_size", "window_size", "attention_chunk_size", "sliding_window_size"),
    "local_attention",
)
KINDS_OF_LAYERS = ("layer_types", "mlp_layer_types", "layers_block_type")

_ONE_HEAD_EACH = {"num_key_value_heads": 4}
SPECIAL: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        (
            *("axk1", "axk2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite", "glm_moe_dsa", "longcat_flash"),
            *("minicpm3", "youtu"),
        ),
        _ONE_HEAD_EACH,
    ),
    "kimi_linear": {**_ONE_HEAD_EACH, "linear_head_dim": 8, "linear_num_heads": 4},
    "bailing_hybrid": {**_ONE_HEAD_EACH, "layer_types": ["linear_attention", "full_attention"]},
    "deepseek_v2": {**_ONE_HEAD_EACH, "num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1},
    "falcon_h1": {"mamba_d_ssm": 64},
    "zaya": {"num_experts_per_tok": 1},
    "zamba": {"num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid"] * 2},
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "kv_n_heads": 2, "clip_qkv": 8.0}},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "bamba": {"attn_layer_indices": [1]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 10000.0} for kind in ("sliding_attention", "full_attention")
        },
    },
    "dots3_note_text": {**_ONE_HEAD_EACH, "head_dim": 16, "index_head_dim": 8, "index_n_heads": 4},
    "qwen4_exp_text": {
        **{"indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 8, "indexer_budget": 64},
        **{"indexer_compress_ratio": 2, "hc_lowrank": 8, "ngram_vocab_size_base": 64, "split_ngram_parts": 1},
        "make_ngram_vocab_size_divisible_by": 1,
    },
}
"""What an architecture needs beyond ``SMALL``."""


def small_config(architecture: str, *, window: int = WINDOW, **more: Any) -> PreTrainedConfig:
    """Return the default configuration of an architecture with two layers, small sizes and a window of so many tokens."""
    made = CONFIG_MAPPING[architecture]
    return _shrunk(made, made(), window, {**SPECIAL.get(architecture, {}), **more})


def _shrunk(made: Any, base: PreTrainedConfig, window: int, more: dict[str, Any]) -> PreTrainedConfig:
    found, kept = base.to_dict(), {}
    switched_on = {"use_sliding_window": True, "max_window_layers": 1}
    for name, size in (SMALL | switched_on | dict.fromkeys(WINDOWS, window)).items():
        is_optional = name in ("head_dim", "num_key_value_heads", *WINDOWS)
        if name in found and not isinstance(found[name], dict | list) and (found[name] is not None or is_optional):
            kept[name] = size
    for name in KINDS_OF_LAYERS:
        if isinstance(found.get(name), list) and name not in more:
            kinds = list(dict.fromkeys(found[name]))
            kept |= {name: (kinds * 2)[: max(2, len(kinds))]}
            kept |= {n: len(kept[name]) for n in ("num_hidden_layers", "num_layers") if n in found}
    for name in found:
        part = vars(base).get(name)
        if isinstance(part, PreTrainedConfig):
            kept[name] = _shrunk(type(part), part, window, SPECIAL.get(part.model_type, {})).to_dict()
    return made(**kept | more)


def small_model(config: PreTrainedConfig) -> PreTrainedModel:
    """Return a random model in float32 whose logits differ from token to token by about 1.

    In float64 transformers' own attention makes NaN of padding that sees nothing.

    Raises:
        ValueError: it is not small.
    """
    with torch.device("meta"):
        size = sum(p.numel() for p in transformers.AutoModelForCausalLM.from_config(config).parameters())
    if size > LARGEST:
        raise ValueError(f"{size} weights")
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.is_floating_point() and weight.ndim > 1:
                weight.copy_(0.25 * torch.randn(weight.shape, generator=generator))
    return model
