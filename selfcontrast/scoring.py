"""Score pools block by block for the steps that score, so that an interruption costs one block."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from selfcontrast import cli, cuts, plugins
from selfcontrast.chunks import RENDERING, Chunks, software
from selfcontrast.finite import finite_scores
from selfcontrast.records import PromptPool

_MODULES = ("checkpoints", "reward_models", "scorers/_reading", "weights", *RENDERING)
_PACKAGES = ("torch", "transformers", "sentence-transformers", "tokenizers")


@dataclass(frozen=True)
class Scorer:
    """A scorer with its parameters, and where its finished blocks outlive an interruption."""

    kind: str
    module: ModuleType
    params: Any
    chunks: Chunks

    @classmethod
    def open(cls, step: cli.Step, args: argparse.Namespace) -> Scorer:
        """Return the scorer of a step; call it when all other inputs are open.

        Args:
            args: with the flags of ``cli.add_model_flags``.
        """
        kind = step.spec["kind"]
        module = plugins.load("scorers", kind)
        params = module.Params(**cli.with_own_model(step, step.spec["params"], args))
        package, template = getattr(params, "package", None), getattr(params, "template", None)
        modules = [f"scorers/{kind}", *_MODULES, *([f"templates/{template}"] if template else [])]
        chunks = Chunks.open(
            step.folder / ".chunks",
            spec=step.spec,
            inputs=step.inputs,
            software=software(modules, [*_PACKAGES, *([package] if package else [])]),
            model=_fingerprint(getattr(params, "model", None)),
        )
        return cls(kind, module, params, chunks)

    def score(self, pools: Iterable[PromptPool], prompts: Sequence[str], counts: Counter[str]) -> Iterator[list[float]]:
        """Yield the scores of each pool's answers, in order.

        A scorer without ``blocks``, ``load`` and ``score_block`` is called once, and nothing of its work is kept.

        Args:
            prompts: last user turn of each pool's prompt.
            counts: what the scorer counts; complete behind the last pool.

        Raises:
            NotFiniteError: a score is not finite; its block is not kept.
        """
        if not hasattr(self.module, "blocks"):
            found = self.module.score(pools, prompts, self.params, counts)
            yield from self._finite(pools, found)
            return
        model = None
        for number, block in enumerate(self.module.blocks(zip(pools, prompts, strict=True))):
            name = f"block-{number:06d}"
            stored = self.chunks.find(name)
            if stored is None:
                model = model or self.module.load(self.params)
                mine: Counter[str] = Counter()
                found = self.module.score_block(block, self.params, mine, model)
                scores = list(self._finite([pool for pool, _ in block], found))
                stored = {"values": scores, "counts": [json.dumps(mine)] * len(scores)}
                self.chunks.store(name, stored)
            counts.update(json.loads(stored["counts"][0]))
            yield from stored["values"]
        cuts.settle(counts)

    def _finite(self, pools: Iterable[PromptPool], scores: Iterable[Sequence[float]]) -> Iterator[list[float]]:
        return finite_scores(pools, scores, scorer=self.kind, model=cli.model_of_scorer(self.params))


def _fingerprint(model: str | None) -> list[tuple[str, int, int]]:
    """Return names, sizes and times of the files of a local model, by which one that was replaced is told apart."""
    folder = Path(model or "")
    if model is None or not folder.is_dir():
        return []
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(p.relative_to(folder).as_posix(), p.stat().st_size, p.stat().st_mtime_ns) for p in files]
