"""Pools as they lie in tables, read prompt by prompt: what scorers and selections are given."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

from selfcontrast import parquet
from selfcontrast.errors import InputError
from selfcontrast.finite import require_stored
from selfcontrast.records import TARGET, Answer, PromptPool


@dataclass(frozen=True)
class StoredPools:
    """The responses of a table with their prompts' targets; each loop over it reads the table anew, from front to back.

    Attributes:
        prompt_ids: of the split, in whose order the tables are.
        targets: of these prompts.
        responses: table with ``prompt_id``, ``response_id`` and ``text``.
        scores: table with a ``score`` for each of them, None without a scorer.
        with_target: whether the target comes last among the answers too.
    """

    prompt_ids: Sequence[str]
    targets: Sequence[str]
    responses: Path
    scores: Path | None = None
    with_target: bool = False

    def __len__(self) -> int:
        """Return the number of prompts."""
        return len(self.prompt_ids)

    def __iter__(self) -> Iterator[PromptPool]:
        """Yield the pool of each prompt.

        Raises:
            InputError: a response has no score or one that is not finite, or a table is not in the order of the prompts.
        """
        answers = by_prompt(self.prompt_ids, self.responses, ("response_id", "text"))
        scores: Iterable[Any] = itertools.repeat(None, len(self))
        if self.scores is not None:
            scores = map(dict, by_prompt(self.prompt_ids, self.scores, ("response_id", "score")))
        for prompt_id, target, rows, score in zip(self.prompt_ids, self.targets, answers, scores, strict=True):
            if score is not None and (missing := [r for r, _ in rows if r not in score]):
                raise InputError(
                    "a response has no score",
                    found=f"{missing[0]} of prompt {prompt_id}",
                    where=str(self.scores),
                    remedy="delete the scores and run snakemake again",
                )
            if score is not None:
                require_stored(
                    score.values(), "a score", partial(_name, prompt_id, list(score)), where=str(self.scores)
                )
            mine = [Answer(r, text, None if score is None else score[r]) for r, text in rows]
            if self.with_target:
                mine.append(Answer(TARGET, target))
            yield PromptPool(prompt_id, target, tuple(mine))


def _name(prompt_id: str, response_ids: Sequence[str], place: int) -> str:
    return f"{response_ids[place]} of prompt {prompt_id}"


def by_prompt(prompt_ids: Iterable[str], path: Path, columns: Sequence[str]) -> Iterator[list[tuple[Any, ...]]]:
    """Yield the rows of each prompt, none for a prompt without any.

    Raises:
        InputError: the table holds other prompts, or is not in the order of these.
    """
    batches = (b.to_pydict() for b in parquet.read_batches(path, ["prompt_id", *columns]))
    rows = (row for batch in batches for row in zip(*batch.values(), strict=True))
    found = itertools.groupby(rows, key=itemgetter(0))
    name, mine = next(found, (None, iter(())))
    for prompt_id in prompt_ids:
        if name != prompt_id:
            yield []
            continue
        # Of the few ids of responses one copy is enough for the whole pool.
        yield [(sys.intern(response_id), *rest) for _, response_id, *rest in mine]
        name, mine = next(found, (None, iter(())))
    if name is not None:
        raise InputError(
            "a table is not in the order of the prompts, or holds others",
            found=f"prompt {name}",
            where=str(path),
            remedy="delete it and run snakemake again",
        )
