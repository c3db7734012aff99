"""Sample responses with the vLLM back-end, offline: the only module that imports vLLM, and only when it is asked to.

One request for each response, with a seed of its own. One seed for many requests would give all of them the same random
numbers (vllm-project/vllm#50440), and `n` responses of one request would share a seed.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfcontrast import artifacts
from selfcontrast.errors import StepError
from selfcontrast.finite import require_finite
from selfcontrast.sampling import Sampled, Sampling, Tokens

if TYPE_CHECKING:
    from vllm import LLM, RequestOutput

ENVIRONMENT = {
    # The engine runs in this process and sees a whole batch before it computes its first token. In a process of its own it
    # starts with whatever has arrived by then, so that the shapes of its matrices, and with them roundings, vary.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    # Several jobs run side by side, and would bind themselves to the same cores.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}
"""Switches of vLLM that hold unless the environment already says otherwise."""

ENGINE = {
    # Only token ids go in and come out: what text they are is the renderer's matter alone.
    "skip_tokenizer_init": True,
    "generation_config": "vllm",  # nothing that the checkpoint's generation_config.json would add
    "load_format": "safetensors",
    "seed": 0,
    "enable_prefix_caching": True,  # the prompt runs once for all of its responses
    # A prompt that is cut in two draws a token too many, and takes it back, which random generators on a CPU cannot do
    # ("CPU Generator does not use offset", vLLM 0.32).
    "enable_chunked_prefill": False,
    "max_num_seqs": 256,
    "disable_log_stats": True,
}
"""Settings of the engine that are the same for every model: vLLM's own defaults vary with the machine."""

MAX_BATCHED_TOKENS = 8192
"""Tokens of one pass of the engine; more for a model with a longer context, since prompts are not cut in two."""

_SWITCH = re.compile(r"VLLM_(?!.*(?:KEY|TOKEN(?!S)|SECRET|PASSWORD)).*")
"""Variables that are recorded: those of vLLM, but for secrets, such as VLLM_API_KEY of its server."""

_TOO_LITTLE_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "No available memory for the cache blocks",
    "available KV cache memory",
    "desired GPU memory utilization",
)


class VllmSampler:
    """A policy on the vLLM back-end.

    Args:
        max_length: longest prompt plus response, in tokens.
        gpus: GPUs over which each layer is divided (tensor parallelism); 0 and 1 do not divide.
        with_logps: also return the log-probability of each sampled token.
    """

    def __init__(
        self,
        folder: Path,
        *,
        dtype: str,
        max_length: int,
        gpus: int = 0,
        trust_remote_code: bool = False,
        with_logps: bool = False,
    ) -> None:
        vllm = _import_vllm()
        on_cpu = vllm.platforms.current_platform.is_cpu()
        if on_cpu:
            _check_heads(folder)
        engine = {
            **ENGINE,
            "dtype": dtype,
            "max_model_len": max_length,
            "max_num_batched_tokens": max(MAX_BATCHED_TOKENS, max_length),
            "tensor_parallel_size": max(1, gpus),
            "enforce_eager": on_cpu,  # compilation takes a minute, and gains nothing there
        }
        self.max_length = max_length
        self.with_logps = with_logps
        with _explained(folder):
            self.llm: LLM = vllm.LLM(str(folder), trust_remote_code=trust_remote_code, **engine)
        switches = {name: value for name, value in sorted(os.environ.items()) if _SWITCH.fullmatch(name)}
        self.folder = folder
        self.settings: dict[str, Any] = {
            "backend": "vllm",
            "vllm": vllm.__version__,
            "engine": engine,
            "environment": switches,
        }

    def sample(
        self,
        prompts: Sequence[Tokens],
        seeds: Sequence[Sequence[int]],
        sampling: Sampling,
        *,
        eos_ids: frozenset[int],
    ) -> list[list[Sampled]]:
        """Return the responses; see ``sampling.Sampler``."""
        from vllm import SamplingParams

        self._check_room(prompts, sampling)
        requests = [{"prompt_token_ids": list(p)} for p, row in zip(prompts, seeds, strict=True) for _ in row]
        params = [
            SamplingParams(
                seed=seed,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=sampling.room(prompt),
                stop_token_ids=sorted(eos_ids),
                ignore_eos=True,  # other than those
                detokenize=False,
                logprobs=0,  # of the token that was drawn: the only sign that logits were not finite
            )
            for prompt, row in zip(prompts, seeds, strict=True)
            for seed in row
        ]
        with _explained(self.folder):
            # What an earlier batch left behind would change which tokens are computed together, and so roundings.
            self.llm.reset_prefix_cache()
            outputs = self.llm.generate(requests, params, use_tqdm=False)
        owners = [i for i, row in enumerate(seeds) for _ in row]
        flat = iter([self._sampled(output, owner) for output, owner in zip(outputs, owners, strict=True)])
        return [[next(flat) for _ in row] for row in seeds]

    def _sampled(self, output: RequestOutput, owner: int) -> Sampled:
        answer = _sampled(output)
        require_finite(
            answer.logps or (),
            "the log-probability of a token that was drawn",
            f"prompt {owner} of a batch",
            model=f"{self.folder}, in {self.settings['engine']['dtype']}, by vLLM",
            row=owner,
        )
        return answer if self.with_logps else replace(answer, logps=None)

    def close(self) -> None:
        """End vLLM's worker processes: they outlive a step, which ends without Python's own tidying up (``cli.leave``)."""
        self.llm.llm_engine.engine_core.shutdown()

    def _check_room(self, prompts: Sequence[Tokens], sampling: Sampling) -> None:
        longest = max((len(p) for p in prompts), default=0)
        if any(len(p) + sampling.room(p) > self.max_length for p in prompts):
            raise StepError(
                "a response has no room in the context that vLLM was started with",
                expected=f"prompt plus response of at most {self.max_length} tokens",
                found=f"a prompt of {longest} and max_new_tokens of {sampling.max_new_tokens}",
                remedy="raise models.<id>.max_length, or lower max_new_tokens",
            )


def _sampled(output: RequestOutput) -> Sampled:
    (answer,) = output.outputs
    ids = list(answer.token_ids)
    if answer.finish_reason not in ("stop", "length"):
        raise StepError(
            "vLLM ended a response for a reason of its own",
            expected="stop or length",
            found=str(answer.finish_reason),
            remedy="read its messages above; run snakemake again",
        )
    return Sampled(
        ids, answer.finish_reason, [at[token].logprob for at, token in zip(answer.logprobs, ids, strict=True)]
    )


def _import_vllm() -> Any:
    """Return vLLM, imported under the switches that it reads at import."""
    remedy = (
        "`make env-vllm` makes an environment with vLLM, and the workflow finds it; "
        "or set `backend: hf` for this model in the study file"
    )
    if find_spec("vllm") is None:
        raise StepError("the model's back-end is vLLM, which is not installed", where=sys.executable, remedy=remedy)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import vllm
        import vllm.platforms
        from vllm import LLM  # noqa: F401 - most of vLLM is imported only now
    except (ImportError, RuntimeError) as error:
        raise StepError(
            "vLLM is installed but cannot be imported",
            found=_first_line(error),
            where=sys.executable,
            remedy=remedy,
        ) from None
    return vllm


def _check_heads(folder: Path) -> None:
    """Raise StepError for attention heads of a width for which vLLM has no kernel on a CPU.

    vLLM itself finds out only after it has loaded the model.
    """
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    config = artifacts.read_json(folder / "config.json")
    width = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    supported = CPUAttentionBackend.get_supported_head_sizes()
    if width not in supported:
        raise StepError(
            "vLLM on a CPU cannot run a model with attention heads of this width",
            expected=f"one of {', '.join(map(str, supported))}",
            found=f"{width} (hidden size / attention heads)",
            where=str(folder / "config.json"),
            remedy="set `backend: hf` for this model in the study file, or sample it on a GPU",
        )


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Turn what users can mend into one message; everything else keeps its traceback."""
    try:
        yield
    except (RuntimeError, ValueError, MemoryError) as error:
        text = str(error)
        if isinstance(error, MemoryError) or any(sign in text for sign in _TOO_LITTLE_MEMORY):
            raise StepError(
                "vLLM ran out of memory",
                found=_first_line(error),
                where=str(folder),
                remedy="give the job more GPUs (models.<id>.inference_gpus), free the GPU of other processes, lower "
                "models.<id>.max_length, or, on a CPU, set VLLM_CPU_KVCACHE_SPACE (GiB)",
            ) from None
        if isinstance(error, ValueError):
            raise StepError(
                "vLLM refuses the model or its settings",
                found=_first_line(error),
                where=str(folder),
                remedy="correct the model's keys in the study file, or set `backend: hf` for it",
            ) from None
        raise


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
