"""Run the command `transformers` with checkpoints that say nothing about their decoding.

`transformers serve` takes every setting that a request leaves out from the checkpoint's generation_config.json: penalties,
forbidden tokens, top_k, and whether a temperature counts at all. It has no flag against that. Here only the ids of BOS, EOS
and padding are read, so that a judge answers as its requests say. The script (`python plain_transformers.py serve PATH`) runs
in the environment of the server, and imports nothing of this project.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

KEPT = ("bos_token_id", "eos_token_id", "pad_token_id")
OBEYED = {"do_sample": True, "top_k": 0}
"""A request's temperature is obeyed; the server itself takes a temperature of 0 for a greedy search."""


def read_ids_alone() -> None:
    """Make every generation config that transformers reads a plain one with the ids of the checkpoint's."""
    from transformers import GenerationConfig

    load = GenerationConfig.from_pretrained.__func__

    def plain(cls: Any, *args: Any, **kwargs: Any) -> Any:
        found = load(cls, *args, **kwargs)
        config, *rest = found if isinstance(found, tuple) else (found,)
        made = cls(**{name: getattr(config, name, None) for name in KEPT}, **OBEYED)
        return (made, *rest) if rest else made

    GenerationConfig.from_pretrained = classmethod(plain)


def main() -> None:
    """Run the command line of transformers."""
    here = Path(__file__).resolve().parent
    sys.path[:] = [p for p in sys.path if Path(p).resolve() != here]  # modules here are none of its libraries
    from transformers.cli.transformers import main

    read_ids_alone()
    main()


if __name__ == "__main__":
    main()
