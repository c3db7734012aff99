"""Fetch the record files of a data set from the Hugging Face hub: the only step that needs a network.

Out: records, a folder with the files under their paths in the repository. Minutes for a gigabyte; at once if HF_HOME has it.
A file of the cache is linked, not copied, where the file system can.
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from selfcontrast import artifacts, cli, hub, sources


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags and run the step."""
    return cli.run_step(cli.step_parser(__doc__).parse_args(argv), work)


def work(args: argparse.Namespace, step: cli.Step) -> None:
    """Write the files."""
    repo, revision = step.spec["repo"], step.spec["revision"]
    snapshot = hub.fetch(repo, revision, step.spec["files"])
    if not hub.is_pinned(revision):
        cli.log.warning(
            "the revision `%s` of %s is not pinned: it may move. Now it is %s; to keep that, set datasets.<id>.hub.revision",
            revision,
            repo,
            snapshot.commit,
        )
    with artifacts.atomic(step.folder / "records") as folder:
        for name, cached in snapshot.files.items():
            _link(cached.resolve(), folder / name)
    step.add_output("records")
    hashes = {name: artifacts.sha256(step.folder / "records" / name) for name in snapshot.files}
    step.report = {
        "repo": repo,
        "revision": revision,
        "commit": snapshot.commit,
        "files": hashes,
        "sha256": sources.content_hash(list(hashes.values())),
    }
    cli.log.info("%s at %s: %d files, SHA-256 %s", repo, snapshot.commit, len(hashes), step.report["sha256"])


def _link(cached: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(cached, path)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(cached, path)


if __name__ == "__main__":
    cli.leave(main())
