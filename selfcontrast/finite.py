"""A number of a model that is not finite ends the step that would store it, with the prompt, the model and the remedy.

NaN is neither above nor below another number. Where it is among the logits, the likeliest token is token 0; where it is among
the scores, a filter that keeps the least similar answers keeps the most similar ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfcontrast.errors import InputError, StepError

if TYPE_CHECKING:
    from selfcontrast.records import PromptPool

TOO_LARGE = (
    "if the model runs in float16, whose numbers end at 65504, set its `dtype` to bfloat16 or float32; if not, the "
    "checkpoint itself holds such numbers: fetch it again, or take another one"
)


class NotFiniteError(StepError):
    """A model computed NaN or infinity.

    Attributes:
        of: whose it is: prompt and response; empty where that is not known.
        remedy: what the user can do.
        found: what it is, and whose.
        row: of the rows that were computed together, the one with the number, counted from 0; None where that is not known.
    """

    def __init__(
        self,
        what: str,
        value: float,
        *,
        of: str = "",
        when: str = "",
        model: str = "",
        remedy: str = TOO_LARGE,
        row: int | None = None,
    ) -> None:
        """Take what the number is, and whose.

        Args:
            of: prompt and response.
            when: step of a training.
            model: its path, and the type of its weights.
        """
        self._parts = {"what": what, "value": value, "of": of, "when": when, "model": model, "remedy": remedy}
        self.row = row
        self.of, self.remedy = of, remedy
        self.found = ", ".join(filter(None, (f"{what} is {float(value)}", of, when)))
        super().__init__(
            "a number of a model is not finite",
            found=self.found,
            where=model,
            remedy=remedy,
        )

    def but(self, **parts: str) -> NotFiniteError:
        """Return the same error with some parts as given, where whoever raised it did not know them."""
        return NotFiniteError(**{**self._parts, **parts}, row=self.row)  # type: ignore[arg-type]


def name_of_model(model: Any) -> str:
    """Return the path of a model of transformers, and the type of its weights."""
    path, dtype = getattr(model, "name_or_path", ""), str(getattr(model, "dtype", ""))
    return f"{path or type(model).__name__}" + (f", in {dtype.removeprefix('torch.')}" if dtype else "")


def require_finite(
    values: Iterable[float], what: str, of: str | Callable[[int], str], *, model: str = "", row: int | None = None
) -> None:
    """Raise NotFiniteError at the first number that is not finite.

    Args:
        what: the numbers are, in the singular.
        of: prompt and response that the numbers belong to, or a function that says it of each position.
        row: see ``NotFiniteError``; None: the position of the number.
    """
    for i, value in enumerate(values):
        if not math.isfinite(value):
            whose = of if isinstance(of, str) else of(i)
            raise NotFiniteError(what, value, of=whose, model=model, row=i if row is None else row)


def finite_scores(
    pools: Iterable[PromptPool], scores: Iterable[Sequence[float]], *, scorer: str, model: str
) -> Iterator[list[float]]:
    """Yield what a scorer gave the answers of each pool, as numbers that are all finite.

    Raises:
        NotFiniteError: one is not.
    """
    for pool, numbers in zip(pools, scores, strict=True):
        given = [float(x) for x in numbers]
        require_finite(given, f"a score of `{scorer}`", partial(_answer, pool), model=model)
        yield given


def _answer(pool: PromptPool, place: int) -> str:
    answer = pool.answers[place]
    return f"{answer.response_id or repr(answer.text[:60])} of prompt {pool.prompt_id}"


def require_stored(
    values: Iterable[float | None], what: str, of: str | Callable[[int], str], *, where: str | Path
) -> None:
    """Raise InputError if a number that another step stored is not finite; None is a value that is missing."""
    try:
        require_finite((0.0 if value is None else value for value in values), what, of)
    except NotFiniteError as error:
        raise InputError(
            "a stored number of a model is not finite",
            found=error.found,
            where=str(where),
            remedy="delete the folder of the file and run snakemake again: the step that wrote it will say what is wrong",
        ) from None
