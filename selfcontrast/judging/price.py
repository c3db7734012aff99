"""What the judges of a study would cost, before anything runs."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from selfcontrast import plugins
from selfcontrast.judging.cases import Case
from selfcontrast.judging.exchange import BYTES_PER_TOKEN
from selfcontrast.judging.limits import Prices
from selfcontrast.judging.panel import Panel, Plan, plan
from selfcontrast.judging.questions import Question, read_questions
from selfcontrast.schema import Judge, Study
from selfcontrast.sweep import arms_of


@dataclass(frozen=True)
class Price:
    """What one judge is asked over all data sets and models, and what that costs.

    Attributes:
        usd: about, if every text is as long as it may be; None if the study does not say what a token costs.
        cap_usd: at which it stops; None is nowhere.
    """

    requests: int
    usd: float | None
    cap_usd: float | None

    def __str__(self) -> str:
        """Return it as the end of a sentence on the judge."""
        asked = f"up to {self.requests} requests"
        if self.usd is None:
            return f"{asked}, price unknown: limits.input_usd and output_usd say what a million tokens cost (0: free)"
        if not self.usd:
            return f"{asked}, no dollars"
        cap = "" if self.cap_usd is None else f"; it stops at ${self.cap_usd:.2f}"
        return f"{asked}, about ${self.usd:.2f} if every text is as long as it may be{cap}"


def has_price(judge: Judge) -> bool:
    """Return whether it is known what a judge costs: it has a price, or runs on this machine and asks for no key."""
    if judge.endpoint is None or judge.limits.input_usd is not None or judge.limits.output_usd is not None:
        return True
    if judge.endpoint.key_env is not None:  # a gateway on this machine may pass requests on to one that costs money
        return False
    host = urlsplit(judge.endpoint.url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def judge_price(study: Study, key: str) -> Price:
    """Return the price of a judge of the study, with nothing asked yet."""
    judge = study.evaluation.judges[key]
    plans = [
        price_of(
            study,
            judge,
            n_arms=len(arms_of(study, dataset)),
            n_prompts=study.datasets[dataset].splits.model_dump()[study.evaluation.split],
        )
        for dataset in study.datasets
        for _ in study.models
    ]
    usd = sum(p.likely_usd for p in plans) if has_price(judge) else None
    return Price(sum(p.requests for p in plans), usd, judge.limits.cap_usd)


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
    prices = Prices(judge.limits.input_usd or 0.0, judge.limits.output_usd or 0.0)
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
