"""Let a language model judge the answers of every arm.

In: the answers of every arm and seed to a held-out split or to a benchmark. Out: judgements.parquet, one row for each answer;
summary.tsv, one for each arm and seed; files/, the same in the layout of AlpacaEval, MT-Bench or Arena-Hard. Beside them
replies.jsonl, which grows over all runs: what is in it is never asked again. Network, or a GPU for a server of its own.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from selfcontrast import artifacts, cli, plugins
from selfcontrast.errors import ConfigError, StepError
from selfcontrast.judging.alpaca_rate import check_gamed, published_rate
from selfcontrast.judging.cases import Judged, summarise
from selfcontrast.judging.client import Connection, Tally
from selfcontrast.judging.exchange import CUT, Request
from selfcontrast.judging.limits import Prices
from selfcontrast.judging.panel import Panel, judge, plan
from selfcontrast.judging.replies import Replies

if TYPE_CHECKING:
    from selfcontrast.judging.contests import Contest

log = logging.getLogger("selfcontrast")

LC_WITHIN, LC_PUBLISHED = "length_controlled_within_study", "length_controlled_winrate"
"""Figures of the summary: the rate by difficulties of this study, and that of AlpacaEval's leaderboard, by its name there."""

Contests = list[tuple["Contest", list[Judged]]]


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags and run the step."""
    parser = cli.step_parser(__doc__)
    parser.add_argument("--gamed", type=Path, help="AlpacaEval's df_gamed.csv, for the rate that its leaderboard gives")
    cli.add_fetched_flag(parser)
    return cli.run_step(parser.parse_args(argv), work)


def work(args: argparse.Namespace, step: cli.Step) -> None:
    """Ask what was not asked yet, and write what the replies say."""
    from selfcontrast.judging.contests import read_contests

    chosen = _with_checkpoint(step, args.fetched)
    module = plugins.load("judges", chosen["kind"])
    params = module.Params(**{name: chosen[name] for name in module.Params.model_fields})
    panel = Panel(module, params, chosen["model"], chosen["revision"], chosen["repeats"])
    contests: list[Contest] = []
    for contest, inputs in read_contests(step.folder.parent.parent, step.spec, compares=module.COMPARES):
        contests.append(contest)
        step.inputs |= {f"{contest.name}/{name}": digest for name, digest in inputs.items()}
    gamed: Path | None = args.gamed if module.COMPARES else None  # ratings are no preferences
    if gamed is not None:
        check_gamed(gamed, n_questions=len(contests[0].cases))
        step.inputs["gamed"] = artifacts.sha256(gamed)
    replies = Replies(step.folder / "replies.jsonl")
    try:
        tallies: list[Tally] = []
        judged = judge(
            [case for c in contests for case in c.cases],
            panel,
            replies,
            lambda requests: tallies.append(_ask(requests, chosen, params, module, replies, step.folder)),
        )
        _check_nulls(judged, chosen["max_nulls"], step)
        rest = iter(judged)
        parts = [(c, [next(rest) for _ in c.cases]) for c in contests]
        _write_table(step, parts)
        _write_summary(step, parts, module, params, gamed=gamed)
        _write_files(step, parts, module, replies)
        step.report |= {
            "judge": {"model": chosen["model"], "revision": chosen["revision"], **_source(chosen)},
            **cli.commit_of(step, args.fetched),
            "templates": {t.name: t.digest for t in module.templates(params)},
        }
        (tally,) = tallies
        step.cost = {
            "requests": tally.asked,
            "requests_cached": tally.cached,
            "attempts_repeated": dict(tally.retried),
            "judge_input_tokens": tally.input_tokens,
            "judge_output_tokens": tally.output_tokens,
            "spent_usd": round(replies.spent_usd, 6),
            "perhaps_spent_usd": round(replies.unsure_usd, 6),
        }
    finally:
        replies.close()


def _with_checkpoint(step: cli.Step, fetched: Path | None) -> dict[str, Any]:
    """Return the keys of the judge, with the folder of the checkpoint that was fetched for its server, if any."""
    judge: dict[str, Any] = step.spec["judge"]
    if fetched is None:
        return judge
    return {**judge, "server": {**judge["server"], "path": str(step.open(fetched).path("files"))}}


def _source(chosen: dict[str, Any]) -> dict[str, str]:
    server = chosen["server"]
    return {"endpoint": chosen["endpoint"]["url"]} if server is None else {"server": server["kind"]}


def _ask(
    requests: list[Request],
    chosen: dict[str, Any],
    params: Any,
    module: ModuleType,
    replies: Replies,
    folder: Path,
) -> Tally:
    """Ask what has no reply yet, of the endpoint or of a server that runs meanwhile."""
    from selfcontrast.judging.client import ask
    from selfcontrast.judging.servers import serving, wire_model

    limits = dict(chosen["limits"])
    prices = Prices(limits.pop("input_usd") or 0.0, limits.pop("output_usd") or 0.0)
    todo = plan(requests, prices, replies)
    log.info(
        "%d requests, %d without a reply: about $%.2f, at most $%.2f; $%.2f spent before",
        *(len(requests), todo.requests, todo.likely_usd, todo.most_usd, replies.spent_usd),
    )
    if not todo.requests:
        return Tally(cached=len({r.key for r in requests}))
    server, endpoint = chosen["server"], chosen["endpoint"]
    values = params.model_dump()
    with serving(server, chosen, values, folder / "server.log") if server else nullcontext(endpoint["url"]) as url:
        connection = Connection(
            url,
            None if server else _api_key(endpoint["key_env"]),
            prices=prices,
            model=wire_model(server, chosen["model"]),
            **limits,
        )
        allowed = math.floor(chosen["max_nulls"] * len(requests))
        return ask(requests, connection, replies, needs_logprobs=module.NEEDS_LOGPROBS, allowed_failures=allowed)


def _api_key(name: str | None) -> str | None:
    if name is None:
        return None
    if not os.environ.get(name):
        raise ConfigError(
            f"the environment variable {name} is not set",
            expected="the API key of the judge",
            where="evaluation.judges.<id>.endpoint.key_env",
            remedy=f"export {name}=... before the run; never write the key into a file of the study",
        )
    return os.environ[name]


def _check_nulls(judged: Sequence[Judged], most: float, step: cli.Step) -> None:
    """Count what has no score, and stop if it is too much."""
    nulls = Counter(j.null for j in judged if j.null)
    missing = Counter(why for j in judged for why in j.missing)
    step.report = {
        "judgements": len(judged),
        "nulls": dict(sorted(nulls.items())),
        "replies_without_verdict": dict(sorted(missing.items())),
    }
    if nulls.total() > most * len(judged):
        raise StepError(
            "too many judgements have no score",
            expected=f"at most {most:g} of them (max_nulls)",
            found=f"{nulls.total()} of {len(judged)}: "
            + ", ".join(f"{n} {reason}" for reason, n in nulls.most_common()),
            where=str(step.folder / "replies.jsonl"),
            remedy=(f"raise max_tokens of the judge: {nulls[CUT]} replies were {CUT}; " if nulls[CUT] else "")
            + "look at the replies; raise max_nulls only if what is missing does not depend on the arm",
        )


def _write_table(step: cli.Step, parts: Contests) -> None:
    rows = [(c, *key, j) for c, judged in parts for key, j in zip(c.ids, judged, strict=True)]
    step.write_table(
        "judgements.parquet",
        {
            "dataset": [c.dataset for c, *_ in rows],
            "model": [c.model for c, *_ in rows],
            "arm": [c.arm for c, *_ in rows],
            "seed": [c.seed for c, *_ in rows],
            "prompt_id": [i for _, i, _, _ in rows],
            "sample": [s for _, _, s, _ in rows],
            "value": [j.score.value for *_, j in rows],
            "weight": [j.score.weight for *_, j in rows],
            "null": [j.null for *_, j in rows],
            "verdicts": [[v for row in j.verdicts for v in row] for *_, j in rows],
        },
    )


def _write_summary(step: cli.Step, parts: Contests, module: ModuleType, params: Any, *, gamed: Path | None) -> None:
    """Write one line for each arm, seed and figure: the score with its error, the judge's own figures, length control."""
    lines = ["\t".join(["dataset", "model", "arm", "seed", "figure", "value", "se", "n", "nulls"])]
    controlled = _length_controlled(parts) if module.COMPARES else {}
    for c, judged in parts:
        s = summarise([j.score for j in judged], [prompt for prompt, _ in c.ids])
        figures: list[tuple[str, float, float | None, int]] = [("score", s.value, s.se, s.n)]
        figures += [(name, value, None, s.n) for name, value in module.details(judged, params).items()]
        if (lc := controlled.get(c.name)) is not None:
            figures += [(LC_WITHIN, lc.rate, lc.se, lc.n), ("length_weight", lc.length_weight, None, lc.n)]
        if gamed is not None:
            published = published_rate(*_preferences(judged), gamed)
            if published is not None:
                figures.append((LC_PUBLISHED, published.rate, published.se, s.n))
        for figure, value, se, n in figures:
            error = "" if se is None else f"{se:.6g}"
            lines.append(
                "\t".join([c.dataset, c.model, c.arm, str(c.seed), figure, f"{value:.6g}", error, str(n), str(s.nulls)])
            )
    with artifacts.atomic(step.folder / "summary.tsv") as partial:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    step.add_output("summary.tsv")


def _preferences(judged: Sequence[Judged]) -> tuple[list[float | None], list[str | None], list[str]]:
    """Return the preference for each answer, the answer, and the baseline's."""
    cases = [j.case for j in judged]
    baseline = [(case.opponents or (None,))[-1] or "" for case in cases]
    return [j.score.value for j in judged], [case.answers[-1] for case in cases], baseline


def _length_controlled(parts: Contests) -> dict[str, Any]:
    """Return the length-controlled win rate of every arm and seed by the name of its contest; difficulties are per seed."""
    import numpy as np

    from selfcontrast.judging.length_control import difficulties, length_controlled

    found: dict[str, Any] = {}
    groups: dict[tuple[str, str, int], Contests] = {}
    for c, judged in parts:
        groups.setdefault((c.dataset, c.model, c.seed), []).append((c, judged))
    for group in groups.values():
        shares = np.array([[np.nan if j.score.value is None else j.score.value for j in js] for _, js in group])
        hard = difficulties(shares)
        for i, (c, judged) in enumerate(group):
            chars = np.array(
                [[len(t or "") for t in (j.case.answers[-1], (j.case.opponents or (None,))[-1])] for j in judged]
            )
            prompts = [prompt for prompt, _ in c.ids]
            found[c.name] = length_controlled(
                shares[i], chars[:, 0], chars[:, 1], None if hard is None else hard[i], prompts
            )
    return found


def _write_files(step: cli.Step, parts: Contests, module: ModuleType, replies: Replies) -> None:
    from selfcontrast.judging.formats import Entry, write_formats

    spec = step.spec
    asked, chosen = spec["questions"], spec["judge"]
    opponent = Path(asked["baseline"]).stem if asked and asked["baseline"] else spec["baseline"]
    if not asked and chosen["opponent"] == "target":
        opponent = "target"
    with artifacts.atomic(step.folder / "files") as partial:
        partial.mkdir()
        for c, judged in parts:
            entries = [Entry(i, j, source) for (i, _), j, source in zip(c.ids, judged, c.sources, strict=True)]
            names = {"generator": c.name, "baseline": opponent, "judge": step.folder.name}
            write_formats(partial / c.name, module.FILES, entries, replies, **names)
    step.add_output("files")


if __name__ == "__main__":
    cli.leave(main())
