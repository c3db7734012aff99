"""The study, its arms and specs, and every helper of the rules; the rules themselves are in the other files."""

import fcntl
import json
import os
import sys
from pathlib import Path

from selfcontrast import config as study_config
from selfcontrast import plugins, sweep
from selfcontrast.errors import SelfContrastError

# Modules that make the numbers of several rules: their inputs, so that an edit reruns those.
LOGPROBS = ["selfcontrast/lm_head.py", "selfcontrast/logprobs.py"]
SAMPLER = [*LOGPROBS, "selfcontrast/generation.py"]
TRAINER = [
    *LOGPROBS,
    *(
        f"selfcontrast/training/{module}.py"
        for module in ("adapters", "engine", "loop", "sft", "state", "trl")
    ),
]

FIGURES = ("scaling", "filters", "similarity", "length")


def fail(error):
    """End Snakemake with the message alone and exit code 2, as the steps do."""
    print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    os._exit(2)  # Snakemake turns SystemExit into exit code 1


# Steps run with the Python that runs Snakemake, whether or not its environment was activated.
os.environ.update(
    PATH=os.pathsep.join([str(Path(sys.executable).parent), *os.get_exec_path()])
)

try:
    cfg = study_config.load_study(str(config.get("study", "tiny")))
    study_config.check_files(cfg)
    ARMS = {dataset: sweep.arms_of(cfg, dataset) for dataset in cfg.datasets}
    SPECS = sweep.expand_specs(cfg)
except SelfContrastError as error:
    fail(error)


wildcard_constraints:
    dataset="|".join(cfg.datasets),
    model="|".join(cfg.models),
    pool="|".join(cfg.pools) or "none",
    scorer="|".join(cfg.scorers) or "none",
    selection="|".join(cfg.selections) or "none",
    arm="|".join({arm for arms in ARMS.values() for arm in arms}),
    split="validation|test",
    n=r"\d+",
    seed=r"-?\d+",
    shard=r"\d+-of-\d+",
    figure="|".join(FIGURES),
    judge="|".join(cfg.evaluation.judges) or "none",
    questions="|".join(cfg.evaluation.questions) or "none",
    key="|".join(SPECS),


def spec_json(wildcards):
    """Return the spec of a step, as the text of its spec.json."""
    return json.dumps(
        SPECS[wildcards.key], sort_keys=True, indent=2, ensure_ascii=False
    )


def plugin_file(kind, name):
    """Return the source file of a plug-in: an input of the jobs that run it, so that editing it reruns only those."""
    plugins.load(kind, name)
    return f"selfcontrast/{kind}/{name}.py"


# Data and models


def records_of(wildcards):
    """Return the record file of a data set: the user's, or the one that the rule world writes."""
    dataset = cfg.datasets[wildcards.dataset]
    if dataset.path is not None:
        return dataset.path
    return f"<results>/{wildcards.dataset}/world/records"


def adaptor_files(wildcards):
    """Return the adaptor of a data set, and what all adaptors share."""
    return [
        plugin_file("datasets", cfg.datasets[wildcards.dataset].adaptor),
        "selfcontrast/datasets/_records.py",
    ]


def base_manifest(wildcards):
    """Return the manifest of a base model that the study trains from scratch; nothing for one that is given."""
    return (
        f"<results>/models/{wildcards.model}/base/manifest.json"
        if cfg.models[wildcards.model].scratch
        else []
    )


def base_folder(wildcards, input):
    """Return the folder or hub id of the base model."""
    return cfg.models[wildcards.model].path or str(Path(input.base).parent / "model")


def room(wildcards):
    """Return the tokens that sampling needs behind a prompt, over all pools and the evaluation."""
    pools = [
        p.params["max_new_tokens"]
        for p in cfg.pools.values()
        if "max_new_tokens" in p.params
    ]
    return max([cfg.evaluation.max_new_tokens, *pools])


# Pools, scores, groups


def shards_of(wildcards, part=""):
    """Return the manifests of a pool's shards, or of the shards of a part of it."""
    n = cfg.pools[wildcards.pool].params["shards"]
    base = f"<results>/{wildcards.dataset}/{wildcards.model}/pools/{wildcards.pool}"
    return [f"{base}/{part}shards/{i}-of-{n}/manifest.json" for i in range(1, n + 1)]


def logp_shards_of(wildcards):
    """Return the manifests of the shards of the reference's log-probabilities: as many as the pool has."""
    return shards_of(wildcards, "logps/sft/")


def tables_beside(manifests):
    """Return the input function of the tables of shards: listed beside their manifests, since both are temporary."""
    return lambda wildcards: [
        m.replace("manifest.json", "shard.parquet") for m in manifests(wildcards)
    ]


shard_tables_of = tables_beside(shards_of)
logp_tables_of = tables_beside(logp_shards_of)


def pool_file(wildcards):
    """Return the plug-in that makes a pool."""
    return plugin_file("pools", cfg.pools[wildcards.pool].kind)


def scorer_files(wildcards):
    """Return the plug-in of a scorer, and what its numbers rest on."""
    kind = cfg.scorers[wildcards.scorer].kind
    world = (
        ["selfcontrast/world/grader.py", "selfcontrast/world/language.py"]
        if kind == "grade"
        else []
    )
    return [plugin_file("scorers", kind), *world]


def selection_files(wildcards):
    """Return the plug-ins of a selection: its kind and its filter."""
    selection = cfg.selections[wildcards.selection]
    files = [plugin_file("selections", selection.kind), "selfcontrast/selection.py"]
    if chosen := selection.params.get("filter"):
        files.append(plugin_file("filters", chosen["kind"]))
    return files


def of_selection(template):
    """Return an input function that fills the pool and scorer of a selection into a path; nothing without scorer."""

    def paths(wildcards):
        selection = wildcards.get("selection") or arm_of(wildcards).selection
        params = cfg.selections[selection].params
        if "{scorer}" in template and params.get("scorer") is None:
            return []
        return template.format(
            dataset=wildcards.dataset,
            model=wildcards.model,
            pool=params["pool"],
            scorer=params.get("scorer"),
        )

    return paths


# Arms


def arm_of(wildcards):
    """Return the arm of a job."""
    return ARMS[wildcards.dataset][wildcards.arm]


def arm_groups(wildcards):
    """Return the groups that an arm trains on."""
    arm, w = arm_of(wildcards), wildcards
    return f"<results>/{w.dataset}/{w.model}/groups/{arm.selection}/n{arm.n}/s{w.seed}/manifest.json"


def objective_file(wildcards):
    """Return the objective of an arm."""
    return plugin_file(
        "objectives", cfg.methods[arm_of(wildcards).method].objective.kind
    )


def policy_of(wildcards):
    """Return the manifest and the weights of an arm's policy: both, since weights may be temporary."""
    base = f"<results>/{wildcards.dataset}/{wildcards.model}"
    if arm_of(wildcards).is_trained:
        base = f"{base}/arms/{wildcards.arm}/s{wildcards.seed}"
    else:
        base = f"{base}/sft"
    return {"policy": f"{base}/manifest.json", "weights": f"{base}/model"}


def policy_spec(wildcards):
    """Return the spec of an arm's policy."""
    base = f"<results>/{wildcards.dataset}/{wildcards.model}"
    return (
        f"{base}/arms/{wildcards.arm}/spec.json"
        if arm_of(wildcards).is_trained
        else f"{base}/sft/spec.json"
    )


def template_of(wildcards):
    """Return the chat template of a model."""
    return cfg.models[wildcards.model].template


def stream_of(wildcards):
    """Return from which random streams an arm's answers are sampled."""
    return "trained" if arm_of(wildcards).is_trained else "baseline"


def keep_or_temp(path):
    """Mark the weights of an arm as temporary, unless the study keeps them."""
    return path if cfg.keep_policies else temp(path)


# Benchmarks and judges


def of_questions(key):
    """Return the input function of a file of a benchmark; nothing where the study gives none."""
    return (
        lambda wildcards: getattr(cfg.evaluation.questions[wildcards.questions], key)
        or []
    )


def max_length(wildcards):
    """Return the context of a model, in tokens."""
    return cfg.models[wildcards.model].max_length


def judged_answers(wildcards):
    """Return what a judge judges: the answers of every arm and seed to the held-out split or to a benchmark."""
    questions = cfg.evaluation.judges[wildcards.judge].questions
    answered = f"questions/{questions}" if questions else f"eval/{cfg.evaluation.split}"
    return [
        f"<results>/{dataset}/{model}/arms/{arm}/s{seed}/{answered}/manifest.json"
        for dataset, arms in ARMS.items()
        for model in cfg.models
        for arm in arms
        for seed in cfg.seeds
    ]


def judge_data(wildcards):
    """Return the other data of a judge: the prompts of the split, or the files of the benchmark, and a file of wordings."""
    judge = cfg.evaluation.judges[wildcards.judge]
    wording = judge.params.get("prompts_file")
    found = [wording] if wording else []
    if judge.questions is None:
        found += [f"<results>/{dataset}/prompts/manifest.json" for dataset in ARMS]
        return found + [
            f"<results>/{dataset}/{model}/prompts/manifest.json"
            for dataset in ARMS
            for model in cfg.models
        ]
    questions = cfg.evaluation.questions[judge.questions]
    return found + [
        path
        for path in (questions.path, questions.references, questions.baseline)
        if path
    ]


def judge_files(wildcards):
    """Return the plug-in of a judge, and what its numbers rest on."""
    judge = cfg.evaluation.judges[wildcards.judge]
    modules = [
        "cases",
        "contests",
        "exchange",
        "formats",
        "length_control",
        "panel",
        "prompts",
        "questions",
    ]
    files = [f"selfcontrast/judging/{module}.py" for module in modules]
    if judge.server is not None and judge.server.kind == "pocket":
        files.append("selfcontrast/judging/pocket.py")
    return [
        plugin_file("judges", judge.kind),
        "selfcontrast/judges/_wording.py",
        *files,
    ]


def judge_gpus(wildcards):
    """Return the GPUs that a job with a judge's own server asks for."""
    server = cfg.evaluation.judges[wildcards.judge].server
    return server.gpus if server is not None else 0


# Summary


def table_files(wildcards):
    """Return the modules on which the tables rest, all metrics among them."""
    metrics = [plugin_file("metrics", name) for name in plugins.names("metrics")]
    return [
        *metrics,
        "selfcontrast/metrics/_answers.py",
        "selfcontrast/tables.py",
        "selfcontrast/judge_tables.py",
        "selfcontrast/stats.py",
    ]


def every_answer(wildcards):
    """Return the scored answers of every arm and seed."""
    e = cfg.evaluation
    return [
        f"<results>/{dataset}/{model}/arms/{arm}/s{seed}/eval/{e.split}/scores/{e.judge}/manifest.json"
        for dataset, arms in ARMS.items()
        for model in cfg.models
        for arm in arms
        for seed in cfg.seeds
    ]


def every_group(wildcards):
    """Return the groups of every trained arm and seed."""
    return [
        f"<results>/{dataset}/{model}/groups/{arm.selection}/n{arm.n}/s{seed}/manifest.json"
        for dataset, arms in ARMS.items()
        for model in cfg.models
        for arm in arms.values()
        if arm.is_trained
        for seed in cfg.seeds
    ]


def every_similarity(wildcards):
    """Return the scores behind the similarity figure."""
    shown = cfg.figures.similarity
    if shown is None:
        return []
    return [
        f"<results>/{dataset}/{model}/pools/{shown.pool}/scores/{scorer}/manifest.json"
        for dataset in cfg.datasets
        for model in cfg.models
        for scorer in dict.fromkeys((shown.scorer, cfg.evaluation.judge))
    ]


def gpus(wildcards):
    """Return the GPUs that a job with a model asks for."""
    return cfg.models[wildcards.model].gpus


def launcher(wildcards):
    """Return what starts a training: Python, or accelerate with a process for each GPU."""
    model = cfg.models[wildcards.model]
    if model.gpus < 2:
        return "python"
    return (
        f"accelerate launch --config_file envs/accelerate/{model.execution.strategy}.yaml"
        f" --num_processes {model.gpus}"
    )


def execution(wildcards):
    """Return the flags of a training that change its speed and memory: as a resource, since a change reruns nothing."""
    e = cfg.models[wildcards.model].execution
    return (
        f"--sharing {e.sharing} --tokens {e.tokens or 0} --save-every {e.save_every}"
        f" --gradient-checkpointing {int(e.gradient_checkpointing)} --track {e.track}"
    )


def grow(mb):
    """Return a memory request in MiB that doubles at the second attempt."""

    def mem_mb(wildcards, attempt):
        return mb * attempt

    return mem_mb


# One run at a time


def lock_study():
    """Hold the study's lock for as long as this process lives; a second run of the same study ends with a message.

    It stands in for Snakemake's own lock, which outlives a killed run: the kernel drops this one with the process.
    """
    path = Path(f"results/{cfg.name}/.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    global held_lock
    held_lock = path.open("w")
    try:
        fcntl.flock(held_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        fail(
            SelfContrastError(
                f"another run of the study `{cfg.name}` is going on here",
                where=str(path),
                remedy="wait for it, or stop it first",
            )
        )


onstart:
    lock_study()
