"""Let a policy answer the questions of a benchmark, turn by turn.

In: the file of questions, the policy. Out: responses.parquet, one row for each turn. Each turn sees the answers before it. A
turn without room left in the context has no answer, and neither have those behind it: null, counted. One GPU at full size.
Finished batches are kept until the table is written.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfcontrast import cli
from selfcontrast.records import Message
from selfcontrast.seeds import derive_seed
from selfcontrast.threads import use_threads
from selfcontrast.token_rows import Rows

if TYPE_CHECKING:
    from selfcontrast.backends import Policy
    from selfcontrast.chunks import Chunks
    from selfcontrast.judging.questions import Question
    from selfcontrast.rendering import Renderer
    from selfcontrast.sampling import Sampled

NO_ROOM = "no room"


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags and run the step."""
    parser = cli.step_parser(__doc__)
    parser.add_argument("--questions", type=Path, required=True, help="file of questions")
    parser.add_argument("--policy", type=Path, required=True, metavar="MANIFEST", help="of the policy")
    parser.add_argument(
        "--policy-spec", type=Path, required=True, help="spec of the policy: how its weights are loaded"
    )
    parser.add_argument("--template", required=True, help="chat template of the model")
    parser.add_argument("--max-length", type=int, required=True, help="context of the model, in tokens")
    parser.add_argument("--seed", type=int, required=True, help="training seed")
    parser.add_argument("--stream", choices=["baseline", "trained"], required=True, help="as in the step respond")
    parser.add_argument("--gpus", type=int, default=0, help="GPUs that the job was granted")
    return cli.run_step(parser.parse_args(argv), work)


def work(args: argparse.Namespace, step: cli.Step) -> None:
    """Write the answers."""
    from selfcontrast import artifacts
    from selfcontrast.backends import Policy
    from selfcontrast.checkpoints import embedding_rows, load_tokenizer, stated_ends
    from selfcontrast.judging.questions import read_questions
    from selfcontrast.rendering import Renderer

    use_threads(args.threads)
    spec = step.spec
    loading = artifacts.read_json(args.policy_spec)
    folder = step.open(args.policy).path("model")
    code = loading["trust_remote_code"]
    rows = Rows(embedding_rows(folder, trust_remote_code=code))
    renderer = Renderer(load_tokenizer(folder, trust_remote_code=code), args.template, rows=rows)
    step.join_template(renderer.digest, where=str(folder))
    questions = read_questions(args.questions, spec["layout"])
    step.inputs["questions"] = artifacts.sha256(args.questions)

    with Policy(step, folder, loading=loading, gpus=args.gpus) as policy:
        chunks = policy.chunks()

        def sample(prompts: dict[str, list[int]], turn: int) -> dict[str, Sampled]:
            asked = [q for q in questions if q.id in prompts]
            for key, ids in prompts.items():
                renderer.rows.check(renderer.tokenizer, ids, where=f"question {key} of {args.questions}")
            seeds = {q.id: derive_seed(spec["seed"], args.stream, args.seed, q.id, turn) for q in asked}
            eos_ids = renderer.stop_ids(stated_ends(folder))
            return _sample(asked, prompts, seeds, spec, policy, eos_ids, chunks)

        turns = converse(questions, renderer, sample, most_prompt_tokens=args.max_length - spec["max_new_tokens"])
    step.write_table(
        "responses.parquet",
        {
            "question_id": [r.question_id for r in turns],
            "turn": [r.turn for r in turns],
            "text": [r.text for r in turns],
            "n_tokens": [r.n_tokens for r in turns],
            "finish": [r.finish for r in turns],
        },
    )
    chunks.remove()
    counts = Counter(r.finish for r in turns)
    step.report = {"responses": len(turns), "cut_by_length": counts["length"], "without_room": counts[NO_ROOM]}
    step.report |= renderer.unreadable()
    step.cost |= {"sampled_tokens": sum(r.n_tokens for r in turns)}


@dataclass(frozen=True)
class Turn:
    """The answer to one turn of a question; ``text`` is None if the prompt had no room."""

    question_id: str
    turn: int
    text: str | None = None
    n_tokens: int = 0
    finish: str = NO_ROOM


def converse(
    questions: Sequence[Question],
    renderer: Renderer,
    sample: Callable[[dict[str, list[int]], int], dict[str, Sampled]],
    *,
    most_prompt_tokens: int,
) -> list[Turn]:
    """Return the turns of every question, in order.

    Args:
        sample: answers the prompts of a turn, token ids by question id; gets the number of the turn as well.
        most_prompt_tokens: a longer prompt is not answered.
    """
    from selfcontrast.sampling import text_ids

    dialogues: dict[str, list[Message]] = {q.id: [] for q in questions}
    answered: dict[tuple[str, int], Turn] = {}
    for turn in range(max((len(q.turns) for q in questions), default=0)):
        going = [q for q in questions if turn < len(q.turns) and (turn == 0 or (q.id, turn - 1) in answered)]
        for q in going:
            dialogues[q.id].append(Message("user", q.turns[turn]))
        prompts = {q.id: renderer.prompt_ids(dialogues[q.id]) for q in going}
        fitting = {i: ids for i, ids in prompts.items() if len(ids) <= most_prompt_tokens}
        for i, drawn in sample(fitting, turn).items():
            text = renderer.response_text(text_ids(drawn))
            dialogues[i].append(Message("assistant", text))
            answered[i, turn] = Turn(i, turn, text, len(drawn.ids) - (drawn.finish == "stop"), drawn.finish)
    places = [(q.id, turn) for q in questions for turn in range(len(q.turns))]
    return [answered.get(place, Turn(*place)) for place in places]


def _sample(
    questions: Sequence[Question],
    prompts: dict[str, list[int]],
    seeds: dict[str, int],
    spec: dict[str, Any],
    policy: Policy,
    eos_ids: frozenset[int],
    chunks: Chunks,
) -> dict[str, Sampled]:
    """Return one answer to each question by its id; questions of one temperature are sampled together."""
    from selfcontrast.sampling import Request, Sampling, sample_shard

    given = spec["temperature"]
    by_temperature: dict[float, list[str]] = {}
    for q in questions:
        by_temperature.setdefault(q.temperature if given is None else given, []).append(q.id)
    found: dict[str, Sampled] = {}
    for temperature, ids in sorted(by_temperature.items()):
        request = Request(
            n=1,
            seed_of=lambda i, j, ids=ids: seeds[ids[i]],  # type: ignore[misc]
            sampling=Sampling(spec["max_new_tokens"], temperature, spec["top_p"]),
            eos_ids=eos_ids,
            prompts_per_batch=spec["batch_responses"],
            name_of=lambda i, ids=ids: f"question {ids[i]}",  # type: ignore[misc]
        )
        sampled = sample_shard([prompts[i] for i in ids], request, policy.sampler, chunks=chunks)
        found |= {ids[k]: answers[0] for k, answers in sampled.items()}
    return found


if __name__ == "__main__":
    cli.leave(main())
