"""The length-controlled win rate that AlpacaEval 2 publishes, computed by the package alpaca-eval itself.

The package fits its model `length_controlled_v1` to the preferences for one arm together with those for two gamed baselines,
and takes the difficulty of each instruction from the same file, `df_gamed.csv` of the data set tatsu-lab/alpaca_eval on the
Hugging Face hub. The package fetches that file while it computes; here the file is an input.

The rate compares with the leaderboard only if the questions are the 805 of AlpacaEval in their own order, the baseline is
gpt4_1106_preview, and the judge is the leaderboard's. The number of questions is checked here.

Source: arXiv 2404.04475 and tatsu-lab/alpaca_eval 0.6.6, `metrics/glm_winrate.py`.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from selfcontrast.errors import InputError

MODEL = "length_controlled_v1"
"""The model of the leaderboard, by its name in the package."""

N_FOLDS = 5
"""Parts of the package's cross-validation, each of which needs a preference."""

N_INSTRUCTIONS = 805
"""Of AlpacaEval, and of its file on the hub at every commit."""

COLUMNS = ("index", "preference", "std_delta_len", "instruction_difficulty", "not_gamed_baseline", "model")


@dataclass(frozen=True)
class PublishedRate:
    """A win rate as the leaderboard gives it, between 0 and 1, with the standard error of the package."""

    rate: float
    se: float


NUMBERS = ("std_delta_len", "instruction_difficulty")
"""Columns in which the package needs a number in every row."""


def _index_of(row: dict[str, str | None]) -> int:
    """Return the instruction of a row, or raise ValueError if a number that the package needs is missing, as in a cut row."""
    try:
        index, numbers = int(row["index"] or ""), [float(row[name] or "") for name in NUMBERS]
    except ValueError:
        numbers = [math.nan]
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"a row without {', '.join(NUMBERS)}: {', '.join(map(str, row.values()))}"[:200])
    return index


def check_gamed(path: Path, *, n_questions: int) -> None:
    """Raise InputError unless the file has the columns of `df_gamed.csv` and is about as many instructions as are asked."""
    expected = "the file df_gamed.csv of the data set tatsu-lab/alpaca_eval on the Hugging Face hub"
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = csv.DictReader(stream)
            lacking = [c for c in COLUMNS if c not in (rows.fieldnames or ())]
            indices = [] if lacking else [_index_of(row) for row in rows]
    except (OSError, UnicodeDecodeError, csv.Error, ValueError, TypeError) as error:
        raise InputError(
            "AlpacaEval's file of gamed baselines cannot be read", expected=expected, found=str(error), where=str(path)
        ) from None
    if lacking:
        raise InputError(
            "the file is not AlpacaEval's file of gamed baselines",
            expected=expected,
            found=f"no column {', '.join(lacking)}",
            where=str(path),
        )
    if set(indices) != set(range(n_questions)):
        raise _other_instructions(len(set(indices)), n_questions, where=str(path))
    # The package looks a difficulty up by the number of the row, so that the first rows must be of different instructions.
    n_first = len(set(indices[:n_questions]))
    if n_first < n_questions or len(indices) == n_questions:
        raise InputError(
            "AlpacaEval's file of gamed baselines is not whole, or its rows were moved",
            expected=f"each of the {n_questions} instructions once in the first {n_questions} rows, and again "
            "behind them, for another baseline",
            found=f"{n_first} instructions in those rows, and {len(indices) - n_questions} rows behind them",
            where=str(path),
            remedy="fetch it again",
        )


def check_number(n_questions: int, *, where: str) -> None:
    """Raise InputError unless as many questions are asked as the file on the hub, which is not fetched yet, is about."""
    if n_questions != N_INSTRUCTIONS:
        raise _other_instructions(N_INSTRUCTIONS, n_questions, where=where)


def _other_instructions(found: int, n_questions: int, *, where: str) -> InputError:
    return InputError(
        "AlpacaEval's gamed baselines answer other instructions than the study asks",
        expected=f"{n_questions} instructions, as many as the file of questions has",
        found=f"{found} instructions",
        where=where,
        remedy=f"ask all {N_INSTRUCTIONS} questions of AlpacaEval in their own order, or drop `length_control` of these "
        "questions",
    )


def published_rate(
    shares: Sequence[float | None], answers: Sequence[str | None], baseline: Sequence[str], gamed: Path
) -> PublishedRate | None:
    """Return the length-controlled win rate of one arm.

    None where all of its answers are as long as the baseline's, as they are if they are the same answers, and where there are
    none: the package divides by the spread of the differences in length, and ends with an error. None too for fewer
    preferences than folds, of which it would make a rate all the same.

    Args:
        shares: preference for the arm over the baseline, between 0 and 1, one for each instruction in the order of
            AlpacaEval; None where the judge gave none.
        answers: of the arm, in the same order. An instruction without an answer is left out, as in AlpacaEval's files.
        baseline: of the baseline, likewise.
        gamed: the file `df_gamed.csv`.
    """
    longer = [len(b) - len(a) for a, b in zip(answers, baseline, strict=True) if a is not None]
    if len(longer) < 2 or not any(longer) or sum(s is not None for s in shares) < N_FOLDS:
        return None
    import pandas as pd
    import sklearn
    from alpaca_eval.metrics import glm_winrate

    annotations = pd.DataFrame(
        {
            "instruction": [str(i) for i in range(len(shares))],  # the package looks instructions up by their place
            "output_1": list(baseline),
            "output_2": list(answers),
            "generator_1": "baseline",
            "generator_2": "arm",
            "annotator": "judge",
            "preference": [float("nan") if s is None else 1 + s for s in shares],
        }
    ).dropna(subset=["output_2"])
    # The package sets options of sklearn for the whole process, and has no argument for the file.
    with sklearn.config_context(), patch.object(glm_winrate, "hf_hub_download", lambda **_: str(gamed)):
        found = glm_winrate.get_length_controlled_winrate(
            annotations,
            glm_name=MODEL,
            save_weights_dir=None,
            is_add_glm_preference_inplace=False,
            is_warn_extreme_changes=False,
        )
    return PublishedRate(float(found["length_controlled_winrate"]) / 100, float(found["lc_standard_error"]) / 100)
