"""The dataset card of a preference set."""

from __future__ import annotations

import json
from collections.abc import Mapping

from selfcontrast.artifacts import Artifact
from selfcontrast.exporting.cards import (
    PROJECT,
    UNKNOWN,
    block,
    code,
    data_licence,
    data_source,
    escape_markdown,
    front_matter,
    licence_tags,
    table,
)
from selfcontrast.exporting.folder import Export
from selfcontrast.exporting.targets import Target
from selfcontrast.sweep import arms_of, pool_of

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))

_COLUMNS = (
    ("prompt", "the messages up to the answer, `role` and `content`"),
    ("chosen", "one message: the preferred answer"),
    ("rejected", "one message: a worse answer (`pairs`), or a list of them (`groups`)"),
    ("prompt_id", "hash of the prompt's messages"),
    ("chosen_id, rejected_id", "`target`, the answer of the source data, or `<pool>.<number>` of a sampled one"),
    ("score", "similarity of the rejected answer to the target by the selection's scorer, where it has one"),
    ("margin, weight", "of the pair in the loss, where the selection gives them"),
)


def preference_card(
    target: Target, export: Export, files: Mapping[str, str], *, pool: Artifact, groups: Artifact, licence: str
) -> str:
    """Return the README.md of a preference set.

    Args:
        files: SHA-256 of each data file, by its path.
        licence: as the adaptor of the data set states it.
    """
    study, arm = target.study, target.arm
    licence = data_licence(target, licence)
    source, repo = data_source(target)
    n = export.counts["pairs"]
    pool_id = pool_of(study, arm.selection)
    sampled = study.pools[pool_id].kind == "policy"
    head = {
        "pretty_name": f"{study.name}: {target.groups_name}",
        **licence_tags(licence),
        "task_categories": ["text-generation"],
        "tags": ["preference", "dpo", "trl", "selfcontrast", *(["synthetic"] if sampled else [])],
        "size_categories": [next((size for most, size in _SIZES if n < most), "n>1M")],
        "source_datasets": [repo] if repo else None,
        "configs": [
            {"config_name": "pairs", "default": True, "data_files": [{"split": "train", "path": "pairs/*.parquet"}]},
            {"config_name": "groups", "data_files": [{"split": "train", "path": "groups/*.parquet"}]},
        ],
    }
    users = [a.id for a in arms_of(study, target.dataset).values() if (a.selection, a.n) == (arm.selection, arm.n)]
    settings = {
        "selection": {"id": arm.selection, **study.selections[arm.selection].model_dump()},
        "n": arm.n,
        "seed": target.seed,
        "pool": {"id": pool_id, **study.pools[pool_id].model_dump()},
        "groups": groups.manifest["report"],
    }
    unknown = " Nobody has stated it: find out before you pass the data on." if licence == UNKNOWN else ""
    how = (
        "The rejected answers were sampled from a policy and chosen by a filter; nobody has compared them with the "
        "preferred ones."
        if sampled
        else "The rejected answers are those of the source data."
    )
    parts = [
        front_matter(head),
        f"# {escape_markdown(target.groups_name)}",
        f"Preference pairs of the study {code(study.name)} ({escape_markdown(study.description)}), "
        f"written by {PROJECT}. {how}",
        f"Arms of the study that were trained on them: {', '.join(map(code, users))}.",
        table(
            ["what", "count"],
            [[escape_markdown(k), f"{v:,}"] for k, v in export.counts.items()],
        ),
        "## Use",
        block(
            "from datasets import load_dataset\n\n"
            'pairs = load_dataset("path/to/this/folder", "pairs", split="train")    # one row for each pair\n'
            'groups = load_dataset("path/to/this/folder", "groups", split="train")  # one row for each prompt',
            "python",
        ),
        "TRL's DPOTrainer takes `pairs` as it is. There is one split: held-out prompts of the study are not part of it.",
        "## Columns",
        table(["column", "meaning"], [[code(c), m] for c, m in _COLUMNS]),
        "## Source and licence",
        f"Prompts and preferred answers: {source}. Licence: {escape_markdown(licence)}.{unknown}",
        "The licence of a model that sampled answers may bind their use as well. Texts are as they are in the source or as a "
        "model wrote them: they may be wrong or offensive, and may name persons.",
        "## How they were made",
        block(json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False), "json"),
        "## Hashes",
        table(["file or step", "SHA-256"], [[code(k), code(v)] for k, v in [*files.items(), *export.inputs.items()]]),
        "`manifest.json` has them too.",
    ]
    return "\n\n".join(parts) + "\n"
