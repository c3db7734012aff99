"""AlpacaEval 2: one game in an order drawn from the instruction; the share of a win is read from log-probabilities.

The judge names the better model, `m` or `M`; the score is the probability of the judged one beside the other, from the
log-probabilities of the first token. With the package alpaca-eval installed its own prompt is used, and order, reading and
value are those of its annotator `weighted_alpaca_eval_gpt4_turbo` (tested against the package).

Source: arXiv 2404.04475 and tatsu-lab/alpaca_eval 0.6.6 (Apache-2.0); the prompt `own` has wording of our own.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from pydantic import Field

from selfcontrast.errors import ConfigError
from selfcontrast.judges._wording import IMPARTIAL
from selfcontrast.judging.cases import Case, Game, Judged, Score, Utterance
from selfcontrast.judging.exchange import Reply
from selfcontrast.judging.prompts import Template
from selfcontrast.schema import Count, Strict

COMPARES = True
NEEDS_LOGPROBS = True
FILES = "alpaca_eval"

FIRST, SECOND = "m", "M"
"""What the answer shown first is called, and the other."""

OWN = Template(
    "own",
    (
        ("system", f"{IMPARTIAL}You choose the better of two answers to an instruction, as people would."),
        (
            "user",
            "## Instruction\n\n{instruction}\n\n## Output of the model `m`\n\n{output_1}\n\n"
            "## Output of the model `M`\n\n{output_2}\n\n"
            "## Task\n\nWhich model gave the better output? Say m or M: this one letter and nothing else.",
        ),
    ),
)

_PROMPT_FILE = "evaluators_configs/alpaca_eval_clf_gpt4_turbo/alpaca_eval_clf.txt"


class Params(Strict):
    """Parameters of the judge."""

    prompt: Literal["alpaca_eval", "own"] = Field(
        "alpaca_eval", description="the prompt of the installed package alpaca-eval, or one of our own"
    )
    temperature: float = Field(1.0, ge=0, description="of the judge; log-probabilities do not depend on it everywhere")
    top_logprobs: Count = Field(5, description="tokens whose log-probabilities are asked for")
    strip_tokens: bool = Field(
        False,
        description="count a name with spaces around it as the name, as some tokenizers write it; alpaca-eval does not",
    )
    max_tokens: Count = Field(1, description="longest reply of the judge, in tokens")


def templates(params: Params) -> tuple[Template, ...]:
    """Return every template that a game may use."""
    return (OWN if params.prompt == "own" else _official(),)


def games(case: Case, params: Params) -> list[Game]:
    """Return one game; none where an answer is missing."""
    answer, opponent = case.answers[-1], (case.opponents or (None,))[-1]
    if answer is None or opponent is None:
        return []
    (template,) = templates(params)
    leads = is_switched(case.turns[-1])
    first, second = (answer, opponent) if leads else (opponent, answer)
    values = {"instruction": case.turns[-1], "output_1": first, "output_2": second}
    sampling = {
        "temperature": params.temperature,
        "max_tokens": params.max_tokens,
        "logprobs": True,
        "top_logprobs": params.top_logprobs,
    }
    return [Game(template, values, sampling, leads)]


def is_switched(instruction: str) -> bool:
    """Return whether the judged answer is shown first: alpaca-eval's draw for this instruction, with its seed 0."""
    return random.Random(f"is_switched_outputs{instruction}0").choices([False, True], k=1)[0]


def read(reply: Reply, game: Game, params: Params) -> float | None:
    """Return the probability that the judged answer is the better one; None if the first token is likely something else.

    A name that is not among the likeliest tokens has probability 0; if neither is there, there is no verdict. Equal answers
    are a draw, as in alpaca-eval: shown in one order only, they would be told apart by their places.
    """
    if game.values["output_1"] == game.values["output_2"]:
        return 0.5
    shares = {FIRST: 0.0, SECOND: 0.0}
    for token, logprob in (reply.first_logprobs or {}).items():
        name = token.strip() if params.strip_tokens else token
        if name in shares:
            shares[name] += math.exp(logprob)
    first, second = shares[FIRST], shares[SECOND]
    if first + second == 0:
        return None
    return (first if game.leads else second) / (first + second)


def settle(verdicts: Sequence[float | None], params: Params) -> Score:
    """Return the verdict of the one game."""
    return Score(verdicts[0] if verdicts else None)


def details(judged: Sequence[Judged], params: Params) -> dict[str, float]:
    """Return the win rate of hard decisions beside the weighted one."""
    values = [j.score.value for j in judged if j.score.value is not None]
    return {"discrete": sum(0.5 if v == 0.5 else float(v > 0.5) for v in values) / len(values)} if values else {}


def say(first: float, second: float | None, params: Params) -> Utterance:
    """Return what a judge says that grades the answer shown first ``first``, and the other ``second``."""
    assert second is not None
    if first == second:
        return Utterance(FIRST, {FIRST: math.log(0.5), SECOND: math.log(0.5)})
    name = FIRST if first > second else SECOND
    return Utterance(name, {name: 0.0})


@cache
def _official() -> Template:
    spec = find_spec("alpaca_eval")
    if spec is None or spec.origin is None:
        raise ConfigError(
            "the judge `alpaca_eval` takes its prompt from the package alpaca-eval, which is not installed",
            remedy="pip install alpaca-eval==0.6.6, or set `prompt: own`, whose numbers are no AlpacaEval numbers",
        )
    text = (Path(spec.origin).parent / _PROMPT_FILE).read_text(encoding="utf-8")
    parts = [part.split("<|im_end|>")[0] for part in text.split("<|im_start|>")[1:]]
    return Template("alpaca_eval", tuple((r.strip(), c.strip()) for r, _, c in (p.partition("\n") for p in parts)))
