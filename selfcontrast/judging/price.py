"""What the judges of a study would cost, before anything runs."""

from __future__ import annotations

from pathlib import Path

from selfcontrast import plugins
from selfcontrast.judging.cases import Case
from selfcontrast.judging.exchange import BYTES_PER_TOKEN
from selfcontrast.judging.limits import Prices
from selfcontrast.judging.panel import Panel, Plan, plan
from selfcontrast.judging.questions import Question, read_questions
from selfcontrast.schema import Judge, Study


def price_of(study: Study, judge: Judge, *, n_arms: int, n_prompts: int) -> Plan:
    """Return requests and dollars of one data set and model with answers, and replies, as long as they may be.

    It is an estimate: a token is taken for four bytes, and a prompt of the split for half of the model's context.

    Args:
        n_arms: arms that are judged.
        n_prompts: prompts of the held-out split; of no account for a benchmark.
    """
    e = study.evaluation
    module = plugins.load("judges", judge.kind)
    panel = Panel(module, module.Params(**judge.params), judge.model, judge.revision, judge.repeats)
    if judge.questions is not None:
        asked = e.questions[judge.questions]
        questions, longest = read_questions(Path(asked.path), asked.layout), asked.max_new_tokens
        n_each = len(study.seeds)
    else:
        context = max(m.max_length for m in study.models.values())
        longest = e.max_new_tokens or context
        questions = [Question("", ("?" * (context // 2 * BYTES_PER_TOKEN),))]
        n_each = len(study.seeds) * judge.samples * min(n_prompts, judge.prompts or n_prompts)
    text = "." * (longest * BYTES_PER_TOKEN)
    prices = Prices(judge.limits.input_usd, judge.limits.output_usd)
    total = Plan(0, 0.0, 0.0)
    for q in questions:
        texts = (text,) * len(q.turns)
        games = module.games(Case(q.turns, texts, texts, texts, q.category), panel.params)
        one = plan([r for row in panel.requests(games) for r in row], prices)
        n = n_each * n_arms
        n_requests = len(games) * judge.repeats  # those of one text are equal, of many texts they are not
        scale = n * n_requests / one.requests if one.requests else 0.0
        total = Plan(
            total.requests + n * n_requests,
            total.likely_usd + one.likely_usd * scale,
            total.most_usd + one.most_usd * scale,
        )
    return total
