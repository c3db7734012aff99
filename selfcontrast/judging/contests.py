"""Which answers of a study a judge gets to see: every arm's, with their questions and opponents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfcontrast.artifacts import Artifact, read_jsonl
from selfcontrast.judging.cases import Case
from selfcontrast.judging.questions import Question, read_baseline, read_questions, with_references
from selfcontrast.layout import Layout

_SPEAKER = {"system": "System", "user": "Human", "assistant": "Assistant"}


@dataclass(frozen=True)
class Contest:
    """The answers of one arm and seed, in an order that all arms of a data set share.

    Attributes:
        ids: prompt or question of each case, and number of its sample.
        sources: the data set that a question is from.
        inputs: hashes of what was read, by name.
    """

    dataset: str
    model: str
    arm: str
    seed: int
    ids: tuple[tuple[str, int], ...]
    cases: tuple[Case, ...]
    sources: tuple[str, ...]

    @property
    def name(self) -> str:
        """Return the arm's name among those of other data sets, models and seeds."""
        return f"{self.dataset}-{self.model}-{self.arm}-s{self.seed}"


def read_contests(root: Path, spec: Mapping[str, Any], *, compares: bool) -> Iterator[tuple[Contest, dict[str, str]]]:
    """Yield a contest for each arm and seed, with the hashes of the manifests behind it.

    The SFT model does not meet itself: where it is the opponent, it has no contest.

    Args:
        root: results/<study>.
        spec: of the step judge.
        compares: whether the judge compares with an opponent.
    """
    read = _from_questions if spec["questions"] else _from_split
    for dataset, arms in spec["datasets"].items():
        models = spec["models"]
        for model in models if isinstance(models, list) else models[dataset]:
            yield from read(Layout(root, dataset, model), arms, spec, compares)


def conversation(messages: Sequence[Mapping[str, str]]) -> str:
    """Return a prompt as a judge reads it: the text of a single turn, or the dialogue with its speakers."""
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n\n".join(f"{_SPEAKER[m['role']]}: {m['content']}" for m in messages)


def _from_split(
    layout: Layout, arms: Sequence[str], spec: Mapping[str, Any], compares: bool
) -> Iterator[tuple[Contest, dict[str, str]]]:
    judge, split, baseline = spec["judge"], spec["split"], spec["baseline"]
    encoded = Artifact.open(layout.prompts)
    table = encoded.table(f"{split}.parquet", ["prompt_id", "target"])
    ids = table["prompt_id"][: judge["prompts"]]
    targets = dict(zip(table["prompt_id"], table["target"], strict=True))
    dialogues = Artifact.open(layout.root / layout.dataset / "prompts" / "manifest.json")
    turns = {
        record["prompt_id"]: conversation(record["messages"])
        for _, record in read_jsonl(dialogues.path("dialogues.jsonl.gz"))
        if record["prompt_id"] in targets
    }
    keys = tuple((i, j) for i in ids for j in range(judge["samples"]))
    meets_sft = compares and judge["opponent"] == "sft"
    for arm in arms:
        if meets_sft and arm == baseline:
            continue
        for seed in spec["seeds"]:
            answers, opponents = (_answers(layout, a, seed, split) for a in (arm, baseline))
            cases = tuple(
                Case(
                    (turns[i],),
                    (answers.texts[i, j],),
                    ((opponents.texts[i, j],) if meets_sft else (targets[i],)) if compares else None,
                )
                for i, j in keys
            )
            inputs = {
                "prompts": encoded.digest,
                arm: answers.digest,
                **({baseline: opponents.digest} if meets_sft else {}),
            }
            yield Contest(layout.dataset, layout.model, arm, seed, keys, cases, ("",) * len(keys)), inputs


@dataclass(frozen=True)
class _Texts:
    texts: dict[tuple[str, int], str]
    digest: str


def _answers(layout: Layout, arm: str, seed: int, split: str) -> _Texts:
    artifact = Artifact.open(layout.answers(arm, seed, split))
    table = artifact.table("responses.parquet", ["prompt_id", "response_id", "text"])
    samples = [int(r.rsplit(".", 1)[1]) for r in table["response_id"]]
    keys = zip(table["prompt_id"], samples, strict=True)
    return _Texts(dict(zip(keys, table["text"], strict=True)), artifact.digest)


def _from_questions(
    layout: Layout, arms: Sequence[str], spec: Mapping[str, Any], compares: bool
) -> Iterator[tuple[Contest, dict[str, str]]]:
    asked, name, baseline = spec["questions"], spec["judge"]["questions"], spec["baseline"]
    questions = read_questions(Path(asked["path"]), asked["layout"])
    if asked["references"]:
        questions = with_references(questions, Path(asked["references"]))
    given = read_baseline(Path(asked["baseline"]), asked["layout"], questions) if asked["baseline"] else None
    for arm in arms:
        if compares and given is None and arm == baseline:
            continue
        for seed in spec["seeds"]:
            answers, digest = _turns(layout, arm, seed, name, questions)
            inputs = {arm: digest}
            opponents: Mapping[str, tuple[str | None, ...]] | None = given
            if compares and given is None:
                opponents, inputs[baseline] = _turns(layout, baseline, seed, name, questions)
            cases = tuple(
                Case(
                    q.turns,
                    answers[q.id],
                    opponents[q.id] if compares and opponents else None,
                    q.references,
                    q.category,
                )
                for q in questions
            )
            keys = tuple((q.id, 0) for q in questions)
            yield (
                Contest(layout.dataset, layout.model, arm, seed, keys, cases, tuple(q.source for q in questions)),
                inputs,
            )


def _turns(
    layout: Layout, arm: str, seed: int, name: str, questions: Sequence[Question]
) -> tuple[dict[str, tuple[str | None, ...]], str]:
    """Return an arm's answers, None where it could not give one, and the hash behind them."""
    artifact = Artifact.open(layout.question_answers(arm, seed, name))
    table = artifact.table("responses.parquet", ["question_id", "turn", "text"])
    found = {(i, t): text for i, t, text in zip(*table.values(), strict=True)}
    return {q.id: tuple(found[q.id, t] for t in range(len(q.turns))) for q in questions}, artifact.digest
