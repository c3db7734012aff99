"""A small server that speaks OpenAI's chat completions and judges by known grades: for the pocket world, and for tests.

    python -m selfcontrast.judging.pocket --judge pairwise --params '{}' --port 8000

It reads the answers back from the prompt, grades each with the pocket world's grader, and says what a judge says that knows
the grades. So its verdicts are the truth, and what the numbers behind it say of an arm can be checked against the grade.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from selfcontrast import plugins
from selfcontrast.errors import InputError
from selfcontrast.judging.cases import Utterance
from selfcontrast.judging.exchange import BYTES_PER_TOKEN
from selfcontrast.records import Message

Grader = Callable[[str, str], float]
"""From a question and an answer to a grade between 0 and 1."""

QUESTIONS = ("question_2", "question", "instruction")
FIRST_ANSWERS = ("answer_2", "answer_a", "answer", "output_1")
SECOND_ANSWERS = ("answer_b", "output_2")
"""Slots of the judges' templates, by what they hold; of several the first that a template has."""


def world_grade(question: str, answer: str) -> float:
    """Return the true grade of an answer of the pocket world; of a dialogue the last turn counts."""
    from selfcontrast.world.grader import grade

    return grade(question.rpartition("Human: ")[2], answer)


def judge(messages: Sequence[Message], module: ModuleType, params: Any, grade: Grader, *, bias: float) -> Utterance:
    """Return what a judge says that knows the grades.

    Args:
        bias: added to the grade of the answer that is shown first, for a judge that prefers a place.

    Raises:
        InputError: the messages are no prompt of this judge.
    """
    for template in module.templates(params):
        if (slots := template.read(messages)) is not None:
            question = next(slots[name] for name in QUESTIONS if name in slots)
            first = grade(question, next(slots[name] for name in FIRST_ANSWERS if name in slots))
            second = next((grade(question, slots[name]) for name in SECOND_ANSWERS if name in slots), None)
            return module.say(first + bias if second is not None else first, second, params)
    raise InputError("the messages are no prompt of this judge", found=messages[-1].content[:80])


def completion(said: Utterance, body: dict[str, Any]) -> dict[str, Any]:
    """Return the body of a reply; its tokens are words, and log-probabilities are there only if they were asked for."""
    choice: dict[str, Any] = {
        "index": 0,
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": said.text},
        "logprobs": None,
    }
    if body.get("logprobs") and said.first_logprobs is not None:
        likeliest = sorted(said.first_logprobs.items(), key=lambda item: -item[1])[: body.get("top_logprobs", 0)]
        top = [{"token": token, "logprob": logprob} for token, logprob in likeliest]
        choice["logprobs"] = {"content": [{"token": said.text, "logprob": top[0]["logprob"], "top_logprobs": top}]}
    n_bytes = sum(len(m["content"].encode()) for m in body["messages"])
    read, written = n_bytes // BYTES_PER_TOKEN, math.ceil(len(said.text) / BYTES_PER_TOKEN)
    usage = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
    head = {"id": "pocket", "object": "chat.completion", "created": 0, "model": body["model"]}
    return {**head, "choices": [choice], "usage": usage}


def answer(path: str, body: bytes, module: ModuleType, params: Any, grade: Grader, *, bias: float) -> tuple[int, Any]:
    """Return the status and the JSON of the reply to one HTTP request."""
    if not path.endswith("/chat/completions"):
        return (200, {"status": "ok"}) if path == "/health" else (404, {"error": {"message": f"no {path} here"}})
    try:
        asked = json.loads(body)
        messages = [Message(m["role"], m["content"]) for m in asked["messages"]]
        return 200, completion(judge(messages, module, params, grade, bias=bias), asked)
    except (ValueError, KeyError, TypeError, InputError) as error:
        return 400, {"error": {"message": str(error)}}


async def serve(
    port: int, reply: Callable[[str, bytes], tuple[int, Any]], ready: asyncio.Future[int] | None = None
) -> None:
    """Answer requests on loopback until cancelled; ``ready`` gets the port."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                lines = head.split("\r\n")
                lengths = [line.partition(":")[2] for line in lines if line.lower().startswith("content-length:")]
                body = await reader.readexactly(int(lengths[0])) if lengths else b""
                status, value = reply(lines[0].split(" ")[1], body)
                data = json.dumps(value).encode()
                writer.write(f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n".encode())
                writer.write(f"Content-Length: {len(data)}\r\n\r\n".encode() + data)
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError, ValueError, IndexError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", port)
    if ready is not None:
        ready.set_result(server.sockets[0].getsockname()[1])
    async with server:
        await server.serve_forever()


def main() -> None:
    """Serve until ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--judge", required=True, help="kind of judge whose prompts are understood")
    parser.add_argument("--params", default="{}", help="its parameters, as JSON")
    parser.add_argument("--bias", type=float, default=0.0, help="added to the grade of the answer shown first")
    parser.add_argument("--port", type=int, required=True)
    args = parser.parse_args()
    module = plugins.load("judges", args.judge)
    params = module.Params(**json.loads(args.params))
    asyncio.run(serve(args.port, lambda path, body: answer(path, body, module, params, world_grade, bias=args.bias)))


if __name__ == "__main__":
    main()
