"""The command ``python -m selfcontrast export STUDY WHAT``: its flags, what is exported, and what is told of it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from selfcontrast.config import load_study
from selfcontrast.errors import ConfigError, InputError
from selfcontrast.exporting.answers import fill_alpaca_eval, fill_mt_bench, has_two_turns
from selfcontrast.exporting.folder import Export, check_free, write_export
from selfcontrast.exporting.model import fill_model, has_weights
from selfcontrast.exporting.preferences import fill_preferences
from selfcontrast.exporting.push import Kind, check_push, push
from selfcontrast.exporting.targets import Target, targets_of
from selfcontrast.schema import Study

KINDS = ("preferences", "alpaca_eval", "mt_bench", "model")
HUB_KIND: dict[str, Kind] = {"model": "model"}
"""Where a kind of export goes on the hub; all others are data sets."""


@dataclass(frozen=True)
class Job:
    """One folder to write."""

    kind: str
    name: str
    export: Export
    fill: Callable[[Path], None]


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument("study", help="name under config/, or path of a YAML file")
    parser.add_argument("what", nargs="?", choices=[*KINDS, "all"], default="all", help="default: all that is there")
    parser.add_argument("--arm", help="this arm alone, as tables/metrics.tsv names it")
    parser.add_argument("--seed", type=int, help="this training seed alone")
    parser.add_argument("--dataset", help="this data set alone")
    parser.add_argument("--model", help="this model of the study alone")
    parser.add_argument("--out", type=Path, help="folder for <what>/<name>/; default: results/STUDY/export")
    parser.add_argument("--card-only", action="store_true", help="model: write the card without weights")
    parser.add_argument("--push", metavar="OWNER/NAME", help="upload the one export to the Hugging Face hub as well")
    parser.add_argument("--public", action="store_true", help="with --push: let everybody see it; else it is private")


def export(args: argparse.Namespace, results: Path) -> int:
    """Write exports, tell what is in them, and upload one if asked to.

    Args:
        results: folder of all results.

    Raises:
        ConfigError: the study has no such arm, seed, data set or model, or flags contradict each other.
        InputError: the study is not finished, weights are gone, or a folder is taken.
    """
    study = load_study(args.study)
    root = results / study.name
    if args.public and not args.push:
        raise ConfigError("--public is for --push")
    if args.card_only and args.what != "model":
        raise ConfigError("--card-only is for the export `model`", found=args.what)
    if not root.is_dir():
        remedy = f"run it first: snakemake --cores all --config study={args.study}"
        raise InputError("the study has no results yet", where=root.as_posix(), remedy=remedy)
    targets = targets_of(study, root, arm=args.arm, seed=args.seed, dataset=args.dataset, model=args.model)
    jobs, notes = _jobs(study, targets, args.what, card_only=args.card_only, names_arm=args.arm is not None)
    out = args.out or root / "export"
    if args.push:
        if len(jobs) != 1:
            raise ConfigError(
                "--push uploads one export",
                found=f"{len(jobs)}: {', '.join(f'{j.kind}/{j.name}' for j in jobs[:4])}{', ...' * (len(jobs) > 4)}",
                remedy="name what it is, and --arm, --seed, --dataset and --model",
            )
        check_push(args.push, HUB_KIND.get(jobs[0].kind, "dataset"), public=args.public)
    for job in jobs:
        check_free(out / job.kind / job.name, job.export.about)
    for job in jobs:
        folder = out / job.kind / job.name
        write_export(folder, job.export, job.fill)
        print(f"{folder.as_posix()}/: {job.export.summary()}", flush=True)
        if args.push:
            address = push(folder, args.push, HUB_KIND.get(job.kind, "dataset"), public=args.public)
            print(f"uploaded, {'public' if args.public else 'private'}: {address}", flush=True)
    for note in notes:
        print(note)
    return 0


def _jobs(
    study: Study, targets: list[Target], what: str, *, card_only: bool, names_arm: bool
) -> tuple[list[Job], list[str]]:
    """Return the exports, and sentences on what is not among them."""
    jobs: list[Job] = []
    notes: list[str] = []
    trained = [t for t in targets if t.arm.is_trained]
    if what in ("preferences", "all"):
        if not trained and what == "preferences":
            raise ConfigError(
                "this arm is the SFT model itself, and has no preferences",
                found=targets[0].arm.id,
                remedy="name an arm that is trained on some",
            )
        jobs += _unique(_preferences(trained))
        if (n := len(targets) - len(trained)) and what == "preferences" and not names_arm:
            notes.append(f"Without preferences: {n} policies that are the SFT model itself.")
    if what in ("alpaca_eval", "all"):
        jobs += [_job("alpaca_eval", t, fill_alpaca_eval) for t in targets]
    if what == "mt_bench" or (what == "all" and has_two_turns(study)):
        jobs += [_job("mt_bench", t, fill_mt_bench) for t in targets]
    elif what == "all":
        notes.append("No `mt_bench`: the study has no questions in its layout.")
    if what in ("model", "all"):
        # One of many whose weights are gone gets its card; one that is asked for by itself gets the message.
        cards = [t for t in targets if card_only or (not has_weights(t) and (what == "all" or not names_arm))]
        jobs += _unique(_models(targets, cards))
        if cards and not card_only:
            n = len({t.policy_name for t in targets})
            notes.append(
                f"Cards alone for {len(cards)} of {n} policies: their weights were removed after the evaluation; "
                "`keep_policies: true` in the study keeps them."
            )
    return jobs, notes


def _preferences(targets: Iterable[Target]) -> Iterator[Job]:
    for t in targets:
        ids = {key: value for key, value in t.about.items() if key != "arm"}
        about = {"kind": "preferences", **ids, "selection": t.arm.selection, "n": t.arm.n}
        made = Export(about)
        yield Job("preferences", t.groups_name, made, partial(fill_preferences, t, made))


def _models(targets: Iterable[Target], cards: Sequence[Target]) -> Iterator[Job]:
    for t in targets:
        made = Export({"kind": "model", **t.about, "seed": t.seed if t.arm.is_trained else None})
        yield Job("model", t.policy_name, made, partial(fill_model, t, made, with_weights=t not in cards))


def _job(kind: str, target: Target, fill: Callable[[Target, Export, Path], None]) -> Job:
    made = Export({"kind": kind, **target.about})
    return Job(kind, target.name, made, partial(fill, target, made))


def _unique(jobs: Iterable[Job]) -> list[Job]:
    """Return the jobs without those that write a folder once more: methods may share their groups."""
    return list({(job.kind, job.name): job for job in jobs}.values())
