"""Fetch the files of a data set or a checkpoint from the Hugging Face hub: the only step that needs a network.

Out: files, a folder with the files under their paths in the repository. Minutes for a gigabyte; at once if HF_HOME has it.
A file of the cache is linked, not copied, where the file system can. Of a checkpoint only what loading it needs is fetched,
and its headers are checked.
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selfcontrast import artifacts, cli, hub, sources
from selfcontrast.inspection.folders import Needs, check_checkpoint
from selfcontrast.inspection.weights import no_safetensors
from selfcontrast.schema.judges import GAMED_REPO

OWN_TEMPLATE = ("model", "reward", "value_head")
"""Uses that may read the chat template of a checkpoint's tokenizer."""


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags and run the step."""
    return cli.run_step(cli.step_parser(__doc__).parse_args(argv), work)


def work(args: argparse.Namespace, step: cli.Step) -> None:
    """Write the files."""
    repo, revision = step.spec["repo"], step.spec["revision"]
    is_checkpoint = "uses" in step.spec
    key = "evaluation.questions.<id>.length_control" if repo == GAMED_REPO else hub.DATA_SET
    snapshot = _checkpoint(step.spec) if is_checkpoint else hub.fetch(repo, revision, step.spec["files"], key=key)
    if not hub.is_pinned(revision):
        cli.log.warning(
            "the revision `%s` of %s is not pinned: it may move. Now it is %s; to keep that, %s",
            revision,
            repo,
            snapshot.commit,
            f"write {repo}@{snapshot.commit}" if is_checkpoint else f"set {key}.revision",
        )
    with artifacts.atomic(step.folder / "files") as folder:
        for name, cached in snapshot.files.items():
            _link(cached.resolve(), folder / name)
        hashes = {name: artifacts.sha256(folder / name) for name in snapshot.files}
        for name, cached in snapshot.files.items():
            hub.check_blob(cached.resolve(), hashes[name])
    step.add_output("files")
    step.report = {
        "repo": repo,
        "revision": revision,
        "commit": snapshot.commit,
        "files": hashes,
        "sha256": sources.content_hash(list(hashes.values())),
    }
    cli.log.info("%s at %s: %d files, SHA-256 %s", repo, snapshot.commit, len(hashes), step.report["sha256"])


def _checkpoint(spec: dict[str, Any]) -> hub.Snapshot:
    """Return the files of a checkpoint, after checking that they can be loaded as what the study uses them for."""
    snapshot = hub.fetch_checkpoint(spec["repo"], spec["revision"], code=spec["code"])
    where = f"{spec['repo']}@{snapshot.commit}"
    if not any(name.endswith(".safetensors") for name in snapshot.files):
        names = hub.names_of_files(where) or []
        raise no_safetensors(names, where=where, is_reward=bool({"reward", "value_head"} & set(spec["uses"])))
    for use in spec["uses"]:
        check_checkpoint(
            snapshot.folder, Needs(use, template=spec["template"] and use in OWN_TEMPLATE, code=spec["code"])
        )
    return snapshot


def _link(cached: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(cached, path)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(cached, path)


if __name__ == "__main__":
    cli.leave(main())
