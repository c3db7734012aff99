"""Preference training on groups against TRL's DPOTrainer, and against itself without sharing, in one run.

    python benchmarks/bench_train.py                      # CPU shapes: a Llama of 4 layers, width 256, vocabulary 8,192
    python benchmarks/bench_train.py --prompt 512         # P = 4 R
    python benchmarks/bench_train.py --gpu 1b             # a Llama of about 1 (or 7) billion parameters in bfloat16

Same model, data, batch in prompts, type and threads for all; the variants take turns, one step each, and the median over the
turns counts. TRL runs with the reference's log-probabilities computed beforehand (that pass is shown apart) and with a live
reference, as people run it. `every` is `none` with every token through the LM head instead of those of responses alone: pairs
as they are usually run, for which the count of tokens is the whole cost. Memory is measured in a process for each variant:
the peak above what it held before its first step.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from selfcontrast.lm_head import label_logps
from selfcontrast.threads import use_threads

BETA = 0.1
LR = 1e-5
VOCABULARY = 8192
EOS = 2
OURS = ("prefix", "packed", "chosen", "none", "every")
PEERS = ("trl", "trl-live")
SIZES = {
    "cpu": {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 4},
    "1b": {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32},
    "7b": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
}


@dataclass(frozen=True)
class Shape:
    """What is trained on: ``batch`` prompts of P tokens, each with one chosen and k rejected answers of R tokens."""

    size: str
    k: int
    prompt: int
    response: int
    batch: int

    @property
    def vocabulary(self) -> int:
        """Return the size of the vocabulary."""
        return VOCABULARY if self.size == "cpu" else 32_000

    def flops(self, model: Any) -> float:
        """Return the operations that a step needs with the prompt run once: 6 for each weight and token."""
        tokens = self.batch * (self.prompt + (self.k + 1) * self.response)
        return 6.0 * tokens * sum(p.numel() for p in model.parameters())


def make_model(shape: Shape) -> Any:
    """Return a Llama with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        max_position_embeddings=shape.prompt + shape.response + 8,
        bos_token_id=1,
        eos_token_id=EOS,
        pad_token_id=0,
        tie_word_embeddings=False,
        **SIZES[shape.size],
    )
    config.num_key_value_heads = config.num_attention_heads
    if shape.size == "cpu":
        return LlamaForCausalLM(config)
    with torch.device("cuda"):
        return LlamaForCausalLM(config).to(torch.bfloat16)


def make_tokens(shape: Shape, seed: int) -> list[tuple[list[int], list[list[int]]]]:
    """Return random prompts and answers, EOS last."""
    rng = random.Random(seed)

    def draw(n: int) -> list[int]:
        return [rng.randrange(3, shape.vocabulary) for _ in range(n)]

    return [
        (draw(shape.prompt), [[*draw(shape.response - 1), EOS] for _ in range(shape.k + 1)]) for _ in range(shape.batch)
    ]


def ours(shape: Shape, sharing: str, seed: int) -> Callable[[], float]:
    """Return a function that takes one step of this project's trainer and returns its seconds."""
    from selfcontrast import logprobs, plugins
    from selfcontrast.logprobs import response_logps
    from selfcontrast.training.engine import Engine
    from selfcontrast.training.groups import TokenGroup
    from selfcontrast.training.preference import Execution, Objective, accumulate

    model = make_model(shape).eval()
    groups = []
    with torch.no_grad():
        for prompt, responses in make_tokens(shape, seed):
            groups.append(TokenGroup(prompt, responses, response_logps(model, [prompt], [responses]).tolist()))
    module = plugins.load("objectives", "dpo")
    objective = Objective(module, module.Params(beta=BETA))
    engine = Engine(model)
    execution = Execution("none" if sharing == "every" else sharing)  # type: ignore[arg-type]
    hidden_of_rows = logprobs._hidden_of_rows

    def step() -> float:
        start = _now()
        accumulate(engine, groups, objective, execution)
        engine.step(LR)
        return _now() - start

    def step_of_every() -> float:
        logprobs._hidden_of_rows, logprobs.label_logps = _every_position, _of_responses
        try:
            return step()
        finally:
            logprobs._hidden_of_rows, logprobs.label_logps = hidden_of_rows, label_logps

    return step_of_every if sharing == "every" else step


def _every_position(model: Any, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> Any:
    """Return the hidden states of all positions but the last of each row, with their labels and which are of responses."""
    rows = [[*p, *r] for p, r in zip(prompts, responses, strict=True)]
    ids = torch.tensor(rows, device=model.device)  # all of one length here
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1].flatten(0, 1)
    is_response = torch.zeros_like(ids, dtype=torch.bool)
    is_response[:, len(prompts[0]) :] = True
    return hidden, ids[:, 1:].flatten(), is_response[:, 1:].flatten()


def _of_responses(model: Any, found: Any, _: torch.Tensor) -> torch.Tensor:
    """Return the log-probabilities of the tokens of responses, out of those of all tokens."""
    hidden, labels, is_response = found
    return label_logps(model, hidden, labels)[is_response]


def trl(shape: Shape, *, live: bool, seed: int) -> tuple[Callable[[], float], float]:
    """Return the same for TRL's DPOTrainer, and the seconds that its pass over the reference took."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    from selfcontrast.world.checkpoint import build_tokenizer

    class TokenDPOTrainer(DPOTrainer):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

    rows = [
        {"prompt_ids": prompt, "chosen_ids": responses[0], "rejected_ids": rejected}
        for prompt, responses in make_tokens(shape, seed)
        for rejected in responses[1:]
    ]
    model = make_model(shape)
    config = DPOConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=len(rows),
        max_steps=1,
        learning_rate=LR,
        beta=BETA,
        max_length=None,
        precompute_ref_log_probs=not live,
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=shape.size == "cpu",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_strategy="no",
        weight_decay=0.0,
    )
    start = _now()
    trainer = TokenDPOTrainer(
        model,
        ref_model=make_model(shape) if live else None,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=build_tokenizer(max_length=128),
    )
    seconds = _now() - start
    clock = _Clock()
    trainer.add_callback(clock.callback())

    def step() -> float:
        trainer.train()
        return clock.seconds

    return step, seconds


class _Clock:
    """Times a step of the Hugging Face Trainer between its own two marks: without set-up and without loading data."""

    seconds = 0.0

    def callback(self) -> Any:
        from transformers import TrainerCallback

        clock = self

        class Callback(TrainerCallback):  # type: ignore[misc]
            def on_step_begin(self, *_: Any, **__: Any) -> None:
                self.start = _now()

            def on_step_end(self, *_: Any, **__: Any) -> None:
                clock.seconds = _now() - self.start

        return Callback()


def make_variant(shape: Shape, name: str) -> tuple[Callable[[], float], float]:
    """Return a variant's step and the seconds that it spent on the reference beforehand (TRL's own pass alone)."""
    if name in PEERS:
        return trl(shape, live=name == "trl-live", seed=0)
    return ours(shape, name, seed=0), 0.0


def compare(shape: Shape, names: Sequence[str], repeats: int) -> dict[str, dict[str, float]]:
    """Return median seconds a step of every variant; they take turns."""
    made = {name: make_variant(shape, name) for name in names}
    for step, _ in made.values():
        step()  # the first step allocates
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(repeats):
        for name, (step, _) in made.items():
            gc.collect()
            times[name].append(step())
    return {
        name: {"median": statistics.median(t), "min": min(t), "max": max(t), "before": made[name][1]}
        for name, t in times.items()
    }


def peak_memory(shape: Shape, name: str) -> int:
    """Return the MiB by which two steps raise the peak of this process (on a GPU: of its memory)."""
    step, _ = make_variant(shape, name)
    if shape.size != "cpu":
        torch.cuda.reset_peak_memory_stats()
        step()
        step()
        return torch.cuda.max_memory_allocated() // 2**20
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # sets the peak back to what is held now
    before = _status("VmRSS")
    step()
    step()
    return (_status("VmHWM") - before) // 1024


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    """Print a table for each k, and as the last line the ratio to TRL at the largest k."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--k", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--prompt", type=int, default=128, help="P, tokens of a prompt")
    parser.add_argument("--response", type=int, default=128, help="R, tokens of an answer")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--variants", nargs="+", default=[*OURS, *PEERS], choices=[*OURS, *PEERS])
    parser.add_argument("--gpu", choices=["1b", "7b"], help="run on the GPU with a model of this size")
    parser.add_argument(
        "--no-memory", action="store_true", help="leave the memory out: it takes a process for each variant"
    )
    parser.add_argument("--memory-of", choices=[*OURS, *PEERS], help=argparse.SUPPRESS)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    use_threads(args.threads)
    size = args.gpu or "cpu"
    shapes = [Shape(size, k, args.prompt, args.response, batch=max(1, 4 // k) if size == "cpu" else 1) for k in args.k]
    if args.memory_of:
        print(json.dumps(peak_memory(shapes[0], args.memory_of)))
        return
    where = torch.cuda.get_device_name() if args.gpu else f"CPU, {args.threads} threads"
    print(f"{where}, torch {torch.__version__}; {SIZES[size]}, vocabulary {shapes[0].vocabulary}")
    ratio = 0.0
    for shape in shapes:
        found = compare(shape, args.variants, args.repeats)
        print(
            f"\nk={shape.k}, P={shape.prompt}, R={shape.response}, {shape.batch} prompts a step, {args.repeats} steps each"
        )
        print("| variant | s a step (min to max) | prompts/s | times the first | before | peak MiB | useful |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        for name, t in found.items():
            ratio = t["median"] / found[args.variants[0]]["median"]
            before = f"{t['before']:.1f} s" if name == "trl" else ""
            print(
                f"| {name} | {t['median']:.2f} ({t['min']:.2f} to {t['max']:.2f}) | {shape.batch / t['median']:.2f} "
                f"| {ratio:.2f} | {before} | {_memory(args, shape, name)} | {_tflops(shape, t['median'])} |",
                flush=True,
            )
        if "trl" in found:
            ratio = found["trl"]["median"] / found[args.variants[0]]["median"]
    print(f"ratio k={shapes[-1].k}: {ratio:.2f}")


def _memory(args: argparse.Namespace, shape: Shape, name: str) -> str:
    if args.no_memory:
        return ""
    command = [sys.executable, __file__, "--memory-of", name, "--k", str(shape.k), "--threads", str(args.threads)]
    command += ["--prompt", str(shape.prompt), "--response", str(shape.response)]
    command += ["--gpu", args.gpu] if args.gpu else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return "failed: " + done.stderr.strip().splitlines()[-1][:60]
    return str(json.loads(done.stdout.strip().splitlines()[-1]))


def _tflops(shape: Shape, seconds: float) -> str:
    """Return useful operations a second, and on a GPU their share of what it can do."""
    from selfcontrast.training.monitor import peak_flops

    with torch.device("meta"):
        from transformers import LlamaConfig, LlamaForCausalLM

        model = LlamaForCausalLM(LlamaConfig(vocab_size=shape.vocabulary, **SIZES[shape.size]))
    speed, peak = shape.flops(model) / seconds, peak_flops()
    return f"{speed / 1e12:.3f} TFLOP/s" + (f", {100 * speed / peak:.0f} %" if peak else "")


if __name__ == "__main__":
    main()
