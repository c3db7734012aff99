"""Peak memory and seconds of the steps that read a whole pool, on a synthetic pool of any size.

    python benchmarks/bench_scale.py                          # 20,000 prompts x 33 responses x 100 tokens
    python benchmarks/bench_scale.py --size 61000 33 300 32   # the paper's size; 9 GB of disk

Every step runs in a process of its own on the files of the step before it. Models are stand-ins that cost nothing: the
embedding model returns random vectors, the reference a multiple of the token ids, and of `train` only what comes before its
first step runs.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from selfcontrast import artifacts, cli

WORDS = [f"{chr(97 + i % 26)}{i}" for i in range(5000)]
SIZE = ("PROMPTS", "RESPONSES", "TOKENS", "SHARDS")
WIDTH = 384
"""Numbers of a stand-in embedding."""


class Study:
    """The files of a synthetic study under one folder, laid out as the workflow does."""

    def __init__(self, folder: Path) -> None:
        self.prompts = folder / "m/prompts/manifest.json"
        self.policy = folder / "m/sft/manifest.json"
        self.pool = folder / "pools/sft/manifest.json"
        self.shards = folder / "shards"
        self.scores = folder / "scores/cosine/manifest.json"
        self.logp_shards = folder / "logp_shards"
        self.ref_shard = folder / "ref/1/manifest.json"
        self.logps = folder / "logps/sft/manifest.json"
        self.groups = folder / "groups/s0/manifest.json"

    def shard_manifests(self, folder: Path) -> list[Path]:
        """Return the manifests of the shards under a folder."""
        return sorted(folder.glob("*/manifest.json"))


def write_step(manifest: Path, inputs: dict[str, str], **tables: pa.Table) -> None:
    """Write tables and their manifest as a step does."""
    manifest.parent.mkdir(parents=True, exist_ok=True)
    outputs = {}
    for name, table in tables.items():
        path = manifest.parent / f"{name}.parquet"
        pq.write_table(table, path, compression="zstd", row_group_size=16_384)
        outputs[path.name] = artifacts.sha256(path)
    artifacts.write_json(manifest, {"step": "synthetic", "inputs": inputs, "outputs": outputs, "report": {}})


def lists(rng: np.random.Generator, n: int, tokens: int, kind: str) -> pa.Array:
    """Return n lists of half to one and a half times ``tokens`` random ids or log-probabilities."""
    offsets = np.concatenate([[0], np.cumsum(rng.integers(tokens // 2, tokens + tokens // 2 + 1, n))]).astype(np.int32)
    values = (
        rng.integers(3, 32_000, offsets[-1], dtype=np.int32)
        if kind == "ids"
        else -rng.random(offsets[-1], dtype=np.float32)
    )
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))


def texts(rng: np.random.Generator, n: int, tokens: int) -> list[str]:
    """Return n texts of about ``tokens`` words, some of them equal."""
    return [" ".join(WORDS[i : i + tokens]) + str(i) for i in rng.integers(0, len(WORDS) - tokens, n)]


@dataclass(frozen=True)
class Size:
    """Prompts, responses to each, tokens of a response on average, and shards."""

    prompts: int
    responses: int
    tokens: int
    shards: int


def build(study: Study, size: Size) -> None:
    """Write the split and the shards of the pool: prompts are dealt to the shards in turn, as lengths do."""
    rng = np.random.default_rng(0)
    ids = [f"{i:016x}" for i in range(size.prompts)]
    split = pa.table(
        {
            "prompt_id": ids,
            "prompt": texts(rng, size.prompts, size.tokens),
            "prompt_ids": lists(rng, size.prompts, size.tokens, "ids"),
            "target": texts(rng, size.prompts, size.tokens),
            "target_ids": lists(rng, size.prompts, size.tokens, "ids"),
            "rejected": pa.array([[] for _ in ids], pa.list_(pa.string())),
        }
    )
    write_step(study.prompts, {}, pool=split)
    write_step(study.policy, {})
    inputs = {"m/prompts": artifacts.sha256(study.prompts), "m/sft": artifacts.sha256(study.policy)}
    for shard in range(size.shards):
        mine = ids[shard :: size.shards]
        rows = len(mine) * size.responses
        table = pa.table(
            {
                "prompt_id": np.repeat(mine, size.responses),
                "response_id": [f"sft.{j}" for j in range(size.responses)] * len(mine),
                "text": texts(rng, rows, size.tokens),
                "response_ids": lists(rng, rows, size.tokens, "ids"),
                "finish": ["stop"] * rows,
            }
        )
        write_step(study.shards / f"{shard:03}/manifest.json", inputs, shard=table)


def build_logps(study: Study, size: Size) -> None:
    """Write the shards of the reference's log-probabilities, for the pool as it was gathered."""
    rng = np.random.default_rng(1)
    paths = (study.prompts, study.pool, study.policy)
    inputs = {f"{p.parent.parent.name}/{p.parent.name}": artifacts.sha256(p) for p in paths}
    ids = pq.read_table(study.prompts.parent / "pool.parquet", columns=["prompt_id"])["prompt_id"].to_pylist()
    names = pq.read_table(study.pool.parent / "responses.parquet", columns=["response_id"])["response_id"]
    keys = ["target", "elsewhere", *names.unique().to_pylist()]
    for shard in range(size.shards):
        mine = ids[shard :: size.shards]
        values = lists(rng, len(mine) * len(keys), size.tokens, "logps")
        table = pa.table(
            {
                "prompt_id": np.repeat(mine, len(keys)),
                "response_id": keys * len(mine),
                "logp": rng.random(len(values)),
                "token_logps": values,
            }
        )
        write_step(study.logp_shards / f"{shard:03}/manifest.json", inputs, shard=table)


# The steps, by name: each is given the files and returns the arguments and settings of `work`.


def gather_pool(study: Study) -> None:
    """Join the shards of the pool."""
    from selfcontrast.steps.gather_pool import work

    run(work, study.pool, {}, prompts=study.prompts, shards=study.shard_manifests(study.shards))


def score(study: Study) -> None:
    """Score the pool with vectors that are drawn at random."""
    from selfcontrast.scorers import cosine
    from selfcontrast.steps.score import work

    rng = np.random.default_rng(0)

    def embed(block: Sequence[str]) -> np.ndarray:
        vectors = rng.standard_normal((len(block), WIDTH), dtype=np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors

    cosine.load = lambda params: cosine.Embedder(embed)
    spec = {"kind": "cosine", "params": {"model": "stand-in"}}
    run(work, study.scores, spec, prompts=study.prompts, split="pool", responses=study.pool)


def ref_logps(study: Study) -> None:
    """Compute one shard of the reference's log-probabilities with a model that makes them of the ids."""
    import torch

    from selfcontrast import checkpoints, lm_head, logprobs
    from selfcontrast.steps.ref_logps import work

    def token_logps(model: Any, prompts: Any, responses: Any, *, sharing: str) -> logprobs.TokenLogps:
        flat = [r for rs in responses for r in rs]
        return logprobs.TokenLogps(torch.tensor([t for r in flat for t in r]) / -32_000, [len(r) for r in flat])

    checkpoints.load_model = lambda *_, **__: None
    lm_head.check_head = lambda model: None
    logprobs.supported_sharing = lambda *_, **__: "prefix"
    logprobs.token_logps = token_logps
    (study.policy.parent / "model").mkdir(exist_ok=True)
    manifest = artifacts.read_json(study.policy)
    manifest["outputs"]["model"] = artifacts.sha256(study.policy.parent / "model")
    policy = study.ref_shard.parent.parent / "m/sft/manifest.json"
    (policy.parent / "model").mkdir(parents=True, exist_ok=True)
    artifacts.write_json(policy, manifest)
    spec = {"dtype": "float32", "trust_remote_code": False}
    shard = f"1-of-{len(study.shard_manifests(study.shards))}"
    run(work, study.ref_shard, spec, prompts=study.prompts, pool=study.pool, reference=policy, shard=shard)


def gather_logps(study: Study) -> None:
    """Join the shards of the reference's log-probabilities."""
    from selfcontrast.steps.gather_logps import work

    shards = study.shard_manifests(study.logp_shards)
    run(work, study.logps, {}, prompts=study.prompts, pool=study.pool, reference=study.policy, shards=shards)


def select_groups(study: Study) -> None:
    """Choose 16 negatives among the half that is least alike."""
    from selfcontrast.steps.select_groups import work

    params = {"pool": "sft", "scorer": "cosine", "filter": {"kind": "least", "keep": 0.75}, "dedup": True}
    spec = {"n": 16, "common_n": 0, "nested": True, "seed": 1, "kind": "target", "params": params}
    run(work, study.groups, spec, prompts=study.prompts, pool=study.pool, scores=study.scores, seed=0)


def join_of_train(study: Study) -> None:
    """Join groups with their tokens and log-probabilities, those of tokens too, and read each group once."""
    from selfcontrast import plugins
    from selfcontrast.steps.train import _token_groups
    from selfcontrast.training.preference import Objective

    module = plugins.load("objectives", "ld_dpo")
    args = argparse.Namespace(prompts=study.prompts, pool=study.pool, groups=study.groups, ref_logps=study.logps)
    groups = _token_groups(args, cli.Step({}, study.groups), Objective(module, module.Params(alpha=0.5)))
    print(f"{len(groups):,} groups, {sum(sum(map(len, g.responses)) for g in groups):,} tokens", file=sys.stderr)


STEPS: dict[str, Callable[[Study], None]] = {
    f.__name__: f for f in (gather_pool, score, ref_logps, gather_logps, select_groups, join_of_train)
}


def run(work: Callable[[Any, cli.Step], None], manifest: Path, spec: dict[str, Any], **flags: Any) -> None:
    """Run the work of a step and write its manifest."""
    step = cli.Step(spec, manifest)
    step.folder.mkdir(parents=True, exist_ok=True)
    work(argparse.Namespace(threads=1, reward=None, fetched=None, **flags), step)
    artifacts.write_json(
        manifest, {"step": "bench", "inputs": step.inputs, "outputs": step.outputs, "report": step.report}
    )


BUILDS: dict[str, Callable[[Study, Size], None]] = {f.__name__: f for f in (build, build_logps)}


def measure(name: str, folder: Path, size: Size) -> dict[str, float]:
    """Return seconds, seconds of CPU and peak MiB of one step, or of making its files, in a process of its own.

    This process stays small: on Linux a process starts with the peak of the one that started it.
    """
    numbers = [str(value) for value in vars(size).values()]
    command = [sys.executable, __file__, "--folder", str(folder), "--only", name, "--size", *numbers]
    done = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Print seconds and peak memory of each step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=4, default=[20_000, 33, 100, 8], metavar=SIZE)
    parser.add_argument("--folder", type=Path, help="keep the files here; those that are there are used again")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--only", choices=[*STEPS, *BUILDS], help=argparse.SUPPRESS)
    args = parser.parse_args()
    size = Size(*args.size)
    if args.only:
        study, start, cpu = Study(args.folder), time.perf_counter(), time.process_time()
        BUILDS[args.only](study, size) if args.only in BUILDS else STEPS[args.only](study)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        seconds = {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}
        print(json.dumps({**seconds, "peak_mib": peak}))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        study = Study(folder)
        if not study.shards.exists():
            measure("build", folder, size)
        print(f"{size.prompts:,} prompts x {size.responses} responses x {size.tokens} tokens, {size.shards} shards")
        print(f"{'step':16}{'seconds':>10}{'of CPU':>10}{'peak MiB':>10}")
        for name in args.steps:
            if name == "gather_logps" and not study.logp_shards.exists():
                measure("build_logps", folder, size)
            found = measure(name, folder, size)
            peak = math.ceil(found["peak_mib"])
            print(f"{name:16}{found['seconds']:10.1f}{found['cpu']:10.1f}{peak:10,}", flush=True)


if __name__ == "__main__":
    main()
