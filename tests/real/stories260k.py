"""Convert the llama2.c checkpoint stories260K to the Hugging Face layout: ``python tests/real/stories260k.py FROM TO``.

FROM holds stories260K.bin and tok512.model; TO becomes a folder that ``models.<id>.path`` of a study can name.

Layout of the file: seven int32 (width, hidden width, layers, heads, key-value heads, vocabulary, context), then float32
weights layer kind by layer kind (karpathy/llama2.c, export.py, legacy version 0).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast


def read_weights(path: Path) -> tuple[LlamaConfig, dict[str, torch.Tensor]]:
    """Return the configuration and the weights under their Hugging Face names."""
    width, hidden, layers, heads, kv_heads, vocabulary, context = np.fromfile(path, np.int32, 7).tolist()
    flat = np.fromfile(path, np.float32, offset=28)
    place = 0

    def take(*shape: int) -> torch.Tensor:
        nonlocal place
        size = int(np.prod(shape))
        place += size
        return torch.from_numpy(flat[place - size : place].reshape(shape).copy())

    kv_width = width // heads * kv_heads
    stacked = {"model.embed_tokens.weight": take(vocabulary, width)}
    kinds = [
        ("input_layernorm", (width,)),
        ("self_attn.q_proj", (width, width)),
        ("self_attn.k_proj", (kv_width, width)),
        ("self_attn.v_proj", (kv_width, width)),
        ("self_attn.o_proj", (width, width)),
        ("post_attention_layernorm", (width,)),
        ("mlp.gate_proj", (hidden, width)),
        ("mlp.down_proj", (width, hidden)),
        ("mlp.up_proj", (hidden, width)),
    ]
    for name, shape in kinds:
        for i, weight in enumerate(take(layers, *shape)):
            if name.endswith(("q_proj", "k_proj")):
                weight = _rotary_halves(weight, heads if name.endswith("q_proj") else kv_heads)
            stacked[f"model.layers.{i}.{name}.weight"] = weight
    stacked["model.norm.weight"] = take(width)
    stacked["lm_head.weight"] = stacked["model.embed_tokens.weight"]
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=context,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    return config, stacked


def _rotary_halves(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Reorder the rows of each head from interleaved pairs (llama2.c) to two halves (Hugging Face)."""
    rows, width = weight.shape
    return weight.view(heads, rows // heads // 2, 2, width).transpose(1, 2).reshape(rows, width)


def read_tokenizer(path: Path, *, max_length: int) -> PreTrainedTokenizerFast:
    """Return the SentencePiece tokenizer as a fast one: BPE with byte fall-back."""
    from sentencepiece import SentencePieceProcessor
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers

    pieces = SentencePieceProcessor(model_file=str(path))
    vocabulary = {pieces.id_to_piece(i): i for i in range(pieces.get_piece_size())}
    merges = []
    for piece, rank in vocabulary.items():
        pairs = [(piece[:i], piece[i:]) for i in range(1, len(piece))]
        merges += [(rank, left, right) for left, right in pairs if left in vocabulary and right in vocabulary]
    merges.sort(key=lambda m: (m[0], vocabulary[m[1]], vocabulary[m[2]]))
    bpe = models.BPE(
        vocabulary, [(left, right) for _, left, right in merges], unk_token="<unk>", byte_fallback=True, fuse_unk=True
    )
    tokenizer = Tokenizer(bpe)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Replace(Regex(" {2,}"), " "), normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<unk>",
        model_max_length=max_length,
    )


def convert(source: Path, folder: Path) -> None:
    """Write the checkpoint in ``source`` to ``folder``: safetensors, configuration, tokenizer."""
    config, weights = read_weights(source / "stories260K.bin")
    model = LlamaForCausalLM(config)
    model.load_state_dict(weights)
    model.save_pretrained(folder)
    read_tokenizer(source / "tok512.model", max_length=config.max_position_embeddings).save_pretrained(folder)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
