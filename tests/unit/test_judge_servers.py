"""Servers that the step starts itself: they come up, answer, and are gone afterwards, however the step ended."""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from selfcontrast.errors import StepError
from selfcontrast.judges import alpaca_eval, pairwise
from selfcontrast.judging.cases import Case
from selfcontrast.judging.client import Connection, ask
from selfcontrast.judging.limits import Prices
from selfcontrast.judging.panel import Panel, judge, plan
from selfcontrast.judging.replies import Replies
from selfcontrast.judging.servers import server_command, serving, wire_model
from selfcontrast.schema import Server
from selfcontrast.world.dialogues import draw_question, mixed_answer
from selfcontrast.world.grader import grade

ROOT = Path(__file__).resolve().parents[2]
GOOD = "Of course! Tom lives in Rome and plays golf."
BAD = "Tom lives in Rome."
QUESTION = "Tom plays golf. Tom lives in Rome. Tom keeps a cat. Where does Tom live, and which game does Tom play?"
JUDGE = {"kind": "pairwise", "model": "pocket"}
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def keys(**server: object) -> dict:
    return Server(**server).model_dump()  # type: ignore[arg-type]


def is_up(port: int) -> bool:
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False


def is_gone(port: int, within_s: float = 10.0) -> bool:
    deadline = time.monotonic() + within_s
    while is_up(port) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not is_up(port)


@pytest.mark.parametrize(("module", "params"), [(pairwise, {}), (alpaca_eval, {"prompt": "own"})])
def test_pocket_judge_says_the_truth_over_http(module, params: dict, tmp_path: Path) -> None:
    panel = Panel(module, module.Params(**params), "pocket", repeats=2)
    chosen = {"kind": module.__name__.rsplit(".", 1)[1], "model": "pocket"}
    cases = [Case((QUESTION,), (a,), (b,)) for a, b in ((GOOD, BAD), (BAD, GOOD), (GOOD, GOOD))]
    replies = Replies(tmp_path / "replies.jsonl")
    with serving(keys(kind="pocket"), chosen, params, tmp_path / "server.log") as url:
        judged = judge(
            cases,
            panel,
            replies,
            lambda requests: ask(requests, Connection(url), replies, needs_logprobs=module.NEEDS_LOGPROBS),
        )
        port = int(url.rsplit(":", 1)[1].split("/")[0])
    assert [j.score.value for j in judged] == [1.0, 0.0, 0.5]
    assert all(len(j.verdicts) == 2 for j in judged)
    assert is_gone(port)
    assert plan([], Prices(), replies).requests == 0
    replies.close()


def test_judged_win_rate_is_that_of_the_grades(tmp_path: Path) -> None:
    """On 100 random pairs of pocket-world answers: proxy and truth are one, answer by answer, also behind a greeting."""
    rng = random.Random(0)
    questions = [draw_question(rng) for _ in range(100)]
    pairs = [[mixed_answer(rng, q, share_good=0.4) for _ in range(2)] for q in questions]
    texts = [
        q.text if i % 5 else f"Human: Hello!\n\nAssistant: Hello!\n\nHuman: {q.text}" for i, q in enumerate(questions)
    ]
    replies = Replies(tmp_path / "replies.jsonl")
    cases = [Case((text,), (a,), (b,)) for text, (a, b) in zip(texts, pairs, strict=True)]
    with serving(keys(kind="pocket"), JUDGE, {}, tmp_path / "server.log") as url:
        panel = Panel(pairwise, pairwise.Params(), "pocket")
        judged = judge(cases, panel, replies, lambda r: ask(r, Connection(url, in_flight=32), replies))
    grades = [(grade(q.text, a), grade(q.text, b)) for q, (a, b) in zip(questions, pairs, strict=True)]
    assert [j.score.value for j in judged] == [(a > b) + 0.5 * (a == b) for a, b in grades]
    assert len({a for a, _ in grades}) > 3
    replies.close()


def test_biased_pocket_judge_is_found_out(tmp_path: Path) -> None:
    """A judge that adds 2 to the grade of the first answer prefers it always: every pair is flipped, every score a tie."""
    replies = Replies(tmp_path / "replies.jsonl")
    panel = Panel(pairwise, pairwise.Params(), "pocket")
    with serving(keys(kind="pocket", bias=2.0), JUDGE, {}, tmp_path / "server.log") as url:
        cases = [Case((QUESTION,), (GOOD,), (BAD,))] * 2
        judged = judge(cases, panel, replies, lambda requests: ask(requests, Connection(url), replies))
    assert [j.score.value for j in judged] == [0.5, 0.5]
    assert pairwise.details(judged, pairwise.Params()) == {"flipped": 1.0, "first_place_wins": 1.0}
    replies.close()


def test_server_that_ends_is_told_with_the_end_of_its_log(tmp_path: Path) -> None:
    command = (sys.executable, "-c", "import sys; print('no such model'); sys.exit(3) # {port}")
    with (
        pytest.raises(StepError, match=r"(?s)ended with code 3.*no such model"),
        serving(keys(kind="command", command=command), JUDGE, {}, tmp_path / "log"),
    ):
        pass


def test_server_that_stays_silent_is_given_up(tmp_path: Path) -> None:
    command = (sys.executable, "-c", "import time; time.sleep(60) # {port}")
    server = keys(kind="command", command=command, startup_s=0.5)
    with pytest.raises(StepError, match=r"no answer in 0\.5 s"), serving(server, JUDGE, {}, tmp_path / "log"):
        pass


def test_command_that_is_not_there_is_told(tmp_path: Path) -> None:
    server = keys(kind="command", command=("no-such-server", "{port}"))
    with pytest.raises(StepError, match="did not come up"), serving(server, JUDGE, {}, tmp_path / "log"):
        pass


OWNER = """
import signal, sys, time
from pathlib import Path
from selfcontrast.schema import Server
from selfcontrast.judging.servers import serving
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started all this in the background
server = Server(kind="pocket").model_dump()
with serving(server, {"kind": "pairwise", "model": "pocket"}, {}, Path(sys.argv[1])) as url:
    print(url, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("ended_by", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_server_goes_with_its_owner(ended_by: int, tmp_path: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path / "log")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert owner.stdout is not None
    port = int(owner.stdout.readline().rsplit(":", 1)[1].split("/")[0])
    assert is_up(port)
    os.kill(owner.pid, ended_by)
    owner.wait(20)
    assert is_gone(port)


def test_group_that_ignores_being_asked_is_killed_with_its_children(tmp_path: Path) -> None:
    """The command starts a child and both ignore SIGTERM; the guard gets 0.3 s of patience here."""
    script = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {STUBBORN!r}]).pid, flush=True); {STUBBORN}"
    patient = "import sys; from selfcontrast.judging import guard; guard.GRACE_S = 0.3; sys.exit(guard.main())"
    guard = subprocess.Popen(
        [sys.executable, "-c", patient, sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert guard.stdin is not None
    assert guard.stdout is not None
    child = int(guard.stdout.readline())
    guard.stdin.close()
    assert guard.wait(10) != 0
    with pytest.raises(ProcessLookupError):
        for _ in range(100):
            os.kill(child, 0)
            if Path(f"/proc/{child}/stat").exists() and Path(f"/proc/{child}/stat").read_text().split()[2] == "Z":
                raise ProcessLookupError  # killed; nobody has taken notice yet
            time.sleep(0.05)


def test_commands_of_the_known_servers() -> None:
    chosen = {"kind": "pairwise", "model": "judge7b"}
    vllm = server_command(keys(kind="vllm", path="/m/j", args=("--dtype", "bfloat16")), chosen, {}, 99)
    assert vllm[1:5] == ["-m", "vllm.entrypoints.openai.api_server", "--model", "/m/j"]
    assert vllm[-2:] == ["--dtype", "bfloat16"]
    assert vllm[vllm.index("--served-model-name") + 1] == "judge7b"
    serve = server_command(keys(kind="transformers", path="/m/j", python="/env/bin/python"), chosen, {}, 99)
    assert serve[0] == "/env/bin/python"
    assert serve[1].endswith("selfcontrast/judging/plain_transformers.py")
    assert serve[2:4] == ["serve", "/m/j"]
    # What a request leaves out is not taken from the checkpoint.
    assert vllm[vllm.index("--generation-config") + 1] == "vllm"
    assert all(c[c.index("--host") + 1] == "127.0.0.1" and c[c.index("--port") + 1] == "99" for c in (vllm, serve))
    assert wire_model(keys(kind="transformers", path="/m/j"), "judge7b") == "/m/j"
    assert wire_model(keys(kind="vllm", path="/m/j"), "judge7b") == wire_model(None, "judge7b") == "judge7b"


LOADED = """
import json, runpy, sys
space = runpy.run_path(sys.argv[1])
space["read_ids_alone"]()
from transformers import LlamaForCausalLM
config = LlamaForCausalLM.from_pretrained(sys.argv[2]).generation_config
print(json.dumps({k: v for k, v in config.to_dict().items() if v is not None and not k.startswith("_")}))
"""


@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
def test_transformers_server_takes_ids_alone_from_the_checkpoint(file: str, tmp_path: Path) -> None:
    """An old checkpoint has its wishes in config.json. The script runs without this project on its path."""
    from selfcontrast.world.checkpoint import build_model

    build_model(n_layers=1, width=16, n_heads=2, max_length=64, seed=0).save_pretrained(tmp_path)
    wishes = {"repetition_penalty": 1.5, "suppress_tokens": [9], "top_k": 3, "do_sample": False, "eos_token_id": [2, 5]}
    (tmp_path / file).write_text(json.dumps(json.loads((tmp_path / file).read_text()) | wishes))
    if file == "config.json":
        (tmp_path / "generation_config.json").unlink()
    script = ROOT / "selfcontrast/judging/plain_transformers.py"
    done = subprocess.run(
        [sys.executable, "-I", "-c", LOADED, str(script), str(tmp_path)], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    found.pop("transformers_version")
    assert found == {"bos_token_id": 1, "eos_token_id": [2, 5], "pad_token_id": 0, "do_sample": True, "top_k": 0}
