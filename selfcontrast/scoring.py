"""Score pools block by block for the steps that score, so that an interruption costs one block."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from selfcontrast import plugins
from selfcontrast.chunks import Chunks, software
from selfcontrast.cli import Step
from selfcontrast.records import PromptPool

_PACKAGES = ("torch", "transformers", "sentence-transformers", "tokenizers")


@dataclass(frozen=True)
class Scorer:
    """A scorer with its parameters, and where its finished blocks outlive an interruption."""

    module: ModuleType
    params: Any
    chunks: Chunks

    @classmethod
    def open(cls, step: Step, kind: str, params: Mapping[str, Any]) -> Scorer:
        """Return the scorer of a step; call it when all inputs are open.

        Args:
            params: with the folder of a trained reward model as ``model``.
        """
        module = plugins.load("scorers", kind)
        checked = module.Params(**params)
        package = getattr(checked, "package", None)
        chunks = Chunks.open(
            step.folder / ".chunks",
            spec=step.spec,
            inputs=step.inputs,
            software=software([f"scorers/{kind}", "reward_models"], [*_PACKAGES, *([package] if package else [])]),
            model=_fingerprint(getattr(checked, "model", None)),
        )
        return cls(module, checked, chunks)

    def score(
        self, pools: Iterable[PromptPool], prompts: Sequence[str], counts: Counter[str]
    ) -> Iterator[Sequence[float]]:
        """Yield the scores of each pool's answers, in order.

        A scorer without ``blocks``, ``load`` and ``score_block`` is called once, and nothing of its work is kept.

        Args:
            prompts: last user turn of each pool's prompt.
            counts: what the scorer counts; added to.
        """
        if not hasattr(self.module, "blocks"):
            yield from self.module.score(pools, prompts, self.params, counts)
            return
        model = None
        for number, block in enumerate(self.module.blocks(zip(pools, prompts, strict=True))):
            name = f"block-{number:06d}"
            stored = self.chunks.find(name)
            if stored is None:
                model = model or self.module.load(self.params)
                mine: Counter[str] = Counter()
                scores = self.module.score_block(block, self.params, mine, model)
                stored = {"values": scores, "counts": [json.dumps(mine)] * len(scores)}
                self.chunks.store(name, stored)
            counts.update(json.loads(stored["counts"][0]))
            yield from stored["values"]


def _fingerprint(model: str | None) -> list[tuple[str, int, int]]:
    """Return names, sizes and times of the files of a local model, by which one that was replaced is told apart."""
    folder = Path(model or "")
    if model is None or not folder.is_dir():
        return []
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(p.relative_to(folder).as_posix(), p.stat().st_size, p.stat().st_mtime_ns) for p in files]
