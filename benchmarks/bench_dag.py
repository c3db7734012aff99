"""How long Snakemake takes to build the plan of a large study, and in how much memory: a dry run, in a process of its own.

    python benchmarks/bench_dag.py [--study config/paper.yaml] [--shards 256]

Aim: the paper's study under 20 s and 2 GiB. Sizes of splits do not matter to the plan; shards, arms and seeds do.
"""

from __future__ import annotations

import argparse
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Time one dry run and print jobs, seconds and peak memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, default=ROOT / "config" / "paper.yaml")
    parser.add_argument("--shards", type=int, help="of every pool; those of the study if not given")
    args = parser.parse_args()
    raw = yaml.safe_load(args.study.read_text(encoding="utf-8"))
    for pool in raw["pools"].values():
        if args.shards:
            pool["shards"] = args.shards
    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder, "large.yaml")
        study.write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
        command = [sys.executable, "-m", "snakemake", "-n", "--quiet", "rules", "host", "reason"]
        command += ["--config", f"study={study}"]
        started = time.perf_counter()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - started
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    jobs = re.search(r"^total\s+(\d+)", done.stdout + done.stderr, re.MULTILINE)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"{jobs[1] if jobs else '?'} jobs, {seconds:.1f} s, {peak:.2f} GiB")


if __name__ == "__main__":
    main()
