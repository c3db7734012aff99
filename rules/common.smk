"""The study, its arms and specs, and what helpers of all kinds need."""

import json
import os
import re
import shlex
import sys
from pathlib import Path

from snakemake.settings.types import DeploymentMethod

from selfcontrast import config as study_config
from selfcontrast import gpu, plugins, slurm, specs, sweep
from selfcontrast.errors import SelfContrastError

# Modules that make the numbers of several rules: their inputs, so that an edit reruns those.
LOGPROBS = ["selfcontrast/lm_head.py", "selfcontrast/logprobs.py"]
RENDERER = [
    f"selfcontrast/{module}.py"
    for module in (
        "chat_heads",
        "chat_tokenizers",
        "escaping",
        "rendering",
        "token_rows",
        "turn_ends",
    )
]
SAMPLERS = {
    "hf": [*LOGPROBS, "selfcontrast/sampling.py", "selfcontrast/generation.py"],
    "vllm": ["selfcontrast/sampling.py", "selfcontrast/vllm_engine.py"],
}
JOINS = ["selfcontrast/joins.py"]
TRAINER = [
    *LOGPROBS,
    *(
        f"selfcontrast/training/{module}.py"
        for module in ("adapters", "deepspeed", "engine", "loop", "sft", "state", "trl")
    ),
]

LINTING = [
    f"selfcontrast/linting/{module}.py"
    for module in (
        "across",
        "findings",
        "passes",
        "reading",
        "text_checks",
        "token_checks",
        "words",
    )
]

INSPECTION = ("files", "folders", "tokenizer", "weights")

WITH_CONDA = DeploymentMethod.CONDA in workflow.deployment_settings.deployment_method


def fail(error):
    """End Snakemake with the message alone and exit code 2, as the steps do."""
    print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    os._exit(2)  # Snakemake turns SystemExit into exit code 1


# Steps run with the Python that runs Snakemake, whether or not its environment was activated.
os.environ.update(
    PATH=os.pathsep.join([str(Path(sys.executable).parent), *os.get_exec_path()])
)

try:
    study_config.check_braces(str(workflow.basedir))
    cfg = study_config.load_study(str(config.get("study", "tiny")))
    study_config.check_files(cfg)
    ARMS = {dataset: sweep.arms_of(cfg, dataset) for dataset in cfg.datasets}
    SPECS = specs.expand_specs(cfg)
except SelfContrastError as error:
    fail(error)

FIGURES = sweep.figures_of(cfg)


wildcard_constraints:
    dataset="|".join(cfg.datasets),
    model="|".join(cfg.models),
    pool="|".join(cfg.pools) or "none",
    scorer="|".join(cfg.scorers) or "none",
    reward="|".join(cfg.reward_models) or "none",
    selection="|".join(cfg.selections) or "none",
    arm="|".join({arm for arms in ARMS.values() for arm in arms}),
    split="validation|test",
    n=r"\d+",
    seed=r"-?\d+",
    shard=r"\d+-of-\d+",
    figure="|".join(FIGURES),
    judge="|".join(cfg.evaluation.judges) or "none",
    questions="|".join(cfg.evaluation.questions) or "none",
    benchmark="|".join(cfg.evaluation.benchmarks) or "none",
    key="|".join(map(re.escape, SPECS)),
    fetched="|".join(
        re.escape(str(Path(key).parent)) for key in SPECS if Path(key).name == "fetch"
    )
    or "none",


def spec_json(wildcards):
    """Return the spec of a step, as the text of its spec.json."""
    return json.dumps(
        SPECS[wildcards.key], sort_keys=True, indent=2, ensure_ascii=False
    )


def plugin_file(kind, name):
    """Return the source file of a plug-in: an input of the jobs that run it, so that editing it reruns only those."""
    plugins.load(kind, name)
    return f"selfcontrast/{kind}/{name}.py"
