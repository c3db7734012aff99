"""A real checkpoint with a sliding window: what is sampled is what a plain forward pass gives, alone and in company."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from selfcontrast.checkpoints import load_model, load_tokenizer
from selfcontrast.generation import HuggingFaceSampler
from selfcontrast.logprobs import supported_sharing, token_logps
from selfcontrast.sampling import Sampling

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT = ROOT.parent / "shared" / "data" / "stories260K"

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(not CHECKPOINT.is_dir(), reason="the checkpoint is not at ../shared/data/stories260K"),
]

WINDOW = 32
TEXT = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park with her big red ball. One "
    "day, Lily and her mom went to the park to play on the swings and the slide with all of her best friends from school."
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the checkpoint as Mistral with a window of 32 tokens: the same weights, another config.json."""
    sys.path.insert(0, str(ROOT / "tests" / "real"))
    try:
        from stories260k import convert
    finally:
        sys.path.pop(0)
    folder = tmp_path_factory.mktemp("stories")
    convert(CHECKPOINT, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": WINDOW}
    config.pop("attention_bias", None)
    config.pop("mlp_bias", None)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> PreTrainedModel:
    return load_model(folder, dtype="float32")


@pytest.fixture(scope="module")
def prompts(folder: Path) -> list[list[int]]:
    """Return prompts of 29 and 64 tokens: one shorter than the window, one longer."""
    ids = load_tokenizer(folder)(TEXT)["input_ids"]
    assert len(ids) >= 64
    return [ids[:29], ids[:64]]


def plain(model: PreTrainedModel, prompt: list[int], n: int) -> list[int]:
    row = list(prompt)
    with torch.no_grad():
        for _ in range(n):
            row.append(int(model(input_ids=torch.tensor([row]), use_cache=False).logits[0, -1].argmax()))
    return row[len(prompt) :]


def test_greedy_answers_are_those_of_a_plain_forward_pass_alone_and_beside_a_longer_prompt(
    model: PreTrainedModel, prompts: list[list[int]]
) -> None:
    sampler, greedy = HuggingFaceSampler(model), Sampling(40, temperature=0)
    expected = [plain(model, prompt, 40) for prompt in prompts]
    together = sampler.sample(prompts, [[0], [1]], greedy, eos_ids=frozenset())
    assert [rows[0].ids for rows in together] == expected
    for prompt, tokens in zip(prompts, expected, strict=True):
        ((alone,),) = sampler.sample([prompt], [[0]], greedy, eos_ids=frozenset())
        assert alone.ids == tokens


def test_window_changes_what_is_sampled(folder: Path, model: PreTrainedModel, prompts: list[list[int]]) -> None:
    """Guards the other test against a window that is not there."""
    whole = load_model(folder, dtype="float32")
    whole.config.sliding_window = None
    assert plain(whole, prompts[1], 40) != plain(model, prompts[1], 40)


def test_log_probabilities_are_those_of_a_plain_forward_pass(model: PreTrainedModel, prompts: list[list[int]]) -> None:
    answers = [[plain(model, prompt, 12), prompts[0][5:9]] for prompt in prompts]
    assert supported_sharing(model, "prefix", longest_row=76) == "chosen"
    with torch.no_grad():
        expected = []
        for prompt, responses in zip(prompts, answers, strict=True):
            for response in responses:
                logps = model(input_ids=torch.tensor([prompt + response])).logits[0].log_softmax(-1)
                expected += [float(logps[len(prompt) + i - 1, t]) for i, t in enumerate(response)]
        for sharing in ("chosen", "none", "prefix"):
            found = token_logps(model, prompts, answers, sharing=sharing).values.tolist()  # type: ignore[arg-type]
            assert found == pytest.approx(expected, abs=1e-4), sharing
