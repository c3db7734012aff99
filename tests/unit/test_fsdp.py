"""Weights divided over two processes by FSDP2 give the gradients of undivided ones, for every way to share a prompt.

On a CPU with gloo; accelerate, which drives it on GPUs, has no FSDP for CPUs.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import json, random, sys
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from selfcontrast.training.engine import _TokenLogps
from selfcontrast.world.checkpoint import build_model

torch.set_num_threads(1)
rank, port, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
mesh = init_device_mesh("cpu", (2,))
rng = random.Random(0)
prompts = [[rng.randrange(50) for _ in range(n)] for n in (5, 2, 7)]
responses = [[[rng.randrange(50) for _ in range(rng.randint(1, 6))] for _ in range(3)] for _ in prompts]
found = {}
for sharing in ("prefix", "packed", "chosen", "none"):
    whole, divided = (_TokenLogps(build_model(n_layers=2, width=32, n_heads=2, max_length=64, seed=0)) for _ in "12")
    for layer in divided.model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(divided, mesh=mesh)
    shards = [tuple(p.to_local().shape) for p in divided.parameters()]
    assert all(s[0] * 2 == p.shape[0] for s, p in zip(shards, whole.parameters()) if p.shape[0] % 2 == 0)
    for model in (whole, divided):
        model(prompts, responses, sharing).sum().backward()
    pairs = [(p.grad, q.grad.full_tensor()) for p, q in zip(whole.parameters(), divided.parameters())]
    largest = max(p.abs().max().item() for p, _ in pairs)
    found[sharing] = [largest, max((p - q).abs().max().item() for p, q in pairs) / largest]
if rank == 0:
    open(out, "w").write(json.dumps(found))
dist.barrier()
dist.destroy_process_group()
"""


def test_divided_weights_have_the_same_gradients(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free_port = probe.getsockname()[1]
    out = tmp_path / "found.json"
    root = Path(__file__).resolve().parents[2]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(rank), str(free_port), str(out)],
            cwd=root,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    errors = [p.communicate(timeout=120)[1] for p in processes]
    assert [p.returncode for p in processes] == [0, 0], errors
    found = json.loads(out.read_text())
    assert found.keys() == {"prefix", "packed", "chosen", "none"}
    for largest, error in found.values():
        assert largest > 0.1
        assert error < 1e-6  # of the largest gradient, in float32
