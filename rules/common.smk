"""The study, its arms and specs, and every helper of the rules; the rules themselves are in the other files."""

import atexit
import fcntl
import json
import os
import shlex
import sys
from collections import Counter
from pathlib import Path

from snakemake.settings.types import DeploymentMethod

from selfcontrast import config as study_config
from selfcontrast import gpu, plugins, slurm, specs, sweep
from selfcontrast.errors import SelfContrastError

# Modules that make the numbers of several rules: their inputs, so that an edit reruns those.
LOGPROBS = ["selfcontrast/lm_head.py", "selfcontrast/logprobs.py"]
RENDERER = ["selfcontrast/escaping.py", "selfcontrast/rendering.py"]
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
    cfg = study_config.load_study(str(config.get("study", "tiny")))
    study_config.check_files(cfg)
    ARMS = {dataset: sweep.arms_of(cfg, dataset) for dataset in cfg.datasets}
    SPECS = specs.expand_specs(cfg)
except SelfContrastError as error:
    fail(error)


FIGURES = ["scaling", "filters", "similarity", "length", "negatives"]
if cfg.figures.gradient is not None:
    FIGURES.append("gradient")
if cfg.evaluation.judges:
    FIGURES.append("judges")
if cfg.evaluation.scorers:
    FIGURES.append("overoptimisation")


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


def maker_of_records(wildcards):
    """Return the manifest of the step that writes the records of a data set; nothing for files of the user's."""
    dataset = cfg.datasets[wildcards.dataset]
    if dataset.path is not None:
        return []
    step = "fetch" if dataset.hub is not None else "world"
    return f"<results>/{wildcards.dataset}/{step}/manifest.json"


def records_of(wildcards):
    """Return the record files of a data set: the user's, or what the step world or fetch writes."""
    if maker := maker_of_records(wildcards):
        return maker.replace("manifest.json", "records")
    return study_config.record_files(cfg.datasets[wildcards.dataset])


def template_files(wildcards):
    """Return what makes text of a dialogue and token ids of the text: the model's chat template, and the renderer."""
    template = plugin_file("templates", cfg.models[wildcards.model].template)
    return [template, *RENDERER]


def adaptor_files(wildcards):
    """Return the adaptor of a data set, and what all adaptors share."""
    return [
        plugin_file("datasets", cfg.datasets[wildcards.dataset].adaptor),
        "selfcontrast/datasets/_records.py",
        "selfcontrast/sources.py",
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
    """Return the tokens that sampling needs behind a prompt, over all pools and the evaluation; 1 if they have no limit."""
    pools = [p.params.get("max_new_tokens") for p in cfg.pools.values()]
    return max([1, *(n for n in (cfg.evaluation.max_new_tokens, *pools) if n)])


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
    own = {
        "grade": ["selfcontrast/world/grader.py", "selfcontrast/world/language.py"],
        "reward": ["selfcontrast/reward_models.py"],
    }
    return [
        plugin_file("scorers", kind),
        "selfcontrast/stored_pools.py",
        *own.get(kind, []),
    ]


def trained_reward(wildcards):
    """Return the manifest and the weights of the reward model that a scorer reads, if the study trains it."""
    trained = cfg.scorers[wildcards.scorer].params.get("trained")
    if trained is None:
        return {}
    base = f"<results>/{wildcards.dataset}/{wildcards.model}/rewards/{trained}"
    return {"reward": f"{base}/manifest.json", "weights": f"{base}/model"}


def reward_flag(wildcards, input):
    """Return the flag that names the manifest of that reward model; nothing for other scorers."""
    return f"--reward {input.reward}" if "reward" in input.keys() else ""


def of_reward(template):
    """Return an input function that fills the pool and the labels of a reward model into a path."""

    def paths(wildcards):
        reward = cfg.reward_models[wildcards.reward]
        base = f"<results>/{wildcards.dataset}/{wildcards.model}/pools/{reward.pool}"
        return f"{base}/{template.format(labels=reward.labels)}"

    return paths


def selection_files(wildcards):
    """Return the plug-ins of a selection: its kind and its filter."""
    return files_of_selection(wildcards.selection)


def files_of_selection(name):
    """Return the same by the id of the selection."""
    selection = cfg.selections[name]
    files = [
        plugin_file("selections", selection.kind),
        "selfcontrast/selection.py",
        "selfcontrast/stored_pools.py",
    ]
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


def trained_selections(wildcards):
    """Return the selections of a data set's trained arms, as its spec of the negatives lists them."""
    return SPECS[f"{wildcards.dataset}/{wildcards.model}/negatives"]["selections"]


def every_selection_file(wildcards):
    """Return the plug-ins of all selections whose negatives are described."""
    return sorted(
        {f for s in trained_selections(wildcards) for f in files_of_selection(s["id"])}
    )


def described_pools(wildcards):
    """Return the pools that negatives are drawn from, and the scores by which they are described."""
    base = f"<results>/{wildcards.dataset}/{wildcards.model}/pools"
    truth = SPECS[f"{wildcards.dataset}/{wildcards.model}/negatives"]["truth"]
    found = {}
    for s in trained_selections(wildcards):
        found[f"{base}/{s['pool']}/manifest.json"] = None
        for scorer in (s["scorer"], s["similarity"], truth):
            if scorer is not None:
                found[f"{base}/{s['pool']}/scores/{scorer}/manifest.json"] = None
    return list(found)


def described_groups(wildcards):
    """Return the groups of every selection, n and seed."""
    base = f"<results>/{wildcards.dataset}/{wildcards.model}/groups"
    return [
        f"{base}/{s['id']}/n{n}/s{seed}/manifest.json"
        for s in trained_selections(wildcards)
        for n in s["n"]
        for seed in cfg.seeds
    ]


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


def task_folder(wildcards):
    """Return the files of a benchmark's folder of definitions: inputs, so that an edit reruns it."""
    folder = cfg.evaluation.benchmarks[wildcards.benchmark].folder
    return study_config.sources.task_files(Path(folder)) if folder else []


def pocket_tasks(wildcards):
    """Return the tasks that are made from the pocket world, for a benchmark that has some."""
    if not cfg.evaluation.benchmarks[wildcards.benchmark].world:
        return []
    return f"<results>/{wildcards.dataset}/{wildcards.model}/pocket_tasks/manifest.json"


def task_flags(wildcards, input):
    """Return the flag that says where a benchmark's definitions lie; none for the harness' own."""
    if input.pocket:
        return f"--pocket {input.pocket}"
    folder = cfg.evaluation.benchmarks[wildcards.benchmark].folder
    return f"--folder {shlex.quote(folder)}" if folder else ""


# Summary


def every_benchmark(wildcards):
    """Return the results of every arm and seed on tasks of lm-evaluation-harness."""
    return [
        f"<results>/{dataset}/{model}/arms/{arm}/s{seed}/benchmarks/{benchmark}/manifest.json"
        for benchmark in cfg.evaluation.benchmarks
        for dataset, arms in ARMS.items()
        for model in sweep.models_of(cfg, dataset)
        for arm in arms
        for seed in sweep.benchmark_seeds(cfg, benchmark, arms[arm])
    ]


def table_files(wildcards):
    """Return the modules on which the tables rest, all metrics among them."""
    metrics = [plugin_file("metrics", name) for name in plugins.names("metrics")]
    return [
        *metrics,
        "selfcontrast/metrics/_answers.py",
        "selfcontrast/metrics/_shown.py",
        "selfcontrast/evidence.py",
        "selfcontrast/main_table.py",
        "selfcontrast/metric_names.py",
        "selfcontrast/tables.py",
        "selfcontrast/cells.py",
        "selfcontrast/judge_tables.py",
        "selfcontrast/harness/tables.py",
        "selfcontrast/proxies.py",
        *(
            f"selfcontrast/stats/{module}.py"
            for module in ("intervals", "power", "trend", "variance")
        ),
    ]


def report_files(wildcards):
    """Return what makes the report: its modules, and the page's own scripts and style."""
    folder = Path(workflow.basedir) / "selfcontrast" / "reporting"
    return sorted(
        f"selfcontrast/reporting/{p.name}"
        for p in folder.iterdir()
        if p.suffix in (".py", ".html", ".css", ".js")
    )


def shown_files(wildcards):
    """Return what the report shows beside the tables: prompts, answers with their scores, histories."""
    shown = every_answer(wildcards)
    for dataset, arms in ARMS.items():
        shown.append(f"<results>/{dataset}/prompts/manifest.json")
        for model in sweep.models_of(cfg, dataset):
            base = f"<results>/{dataset}/{model}"
            shown += [f"{base}/prompts/manifest.json", f"{base}/sft/manifest.json"]
            for arm in arms.values():
                for seed in cfg.seeds:
                    one = f"{base}/arms/{arm.id}/s{seed}"
                    shown.append(f"{one}/eval/{cfg.evaluation.split}/manifest.json")
                    if arm.is_trained:
                        shown.append(f"{one}/manifest.json")
    return shown


def every_answer(wildcards):
    """Return the scored answers of every arm and seed."""
    e = cfg.evaluation
    return [
        f"<results>/{dataset}/{model}/arms/{arm}/s{seed}/eval/{e.split}/scores/{e.judge}/manifest.json"
        for dataset, arms in ARMS.items()
        for model in sweep.models_of(cfg, dataset)
        for arm in arms
        for seed in cfg.seeds
    ]


def every_proxy(wildcards):
    """Return the scores of all answers by every scorer beside the judge."""
    e = cfg.evaluation
    return [
        f"<results>/{dataset}/{model}/proxies/{scorer}/{e.split}/manifest.json"
        for dataset in ARMS
        for model in sweep.models_of(cfg, dataset)
        for scorer in e.scorers
    ]


def answers_of_all(wildcards):
    """Return the answers of every arm and seed to a split, in the order of the spec of the scores."""
    w = wildcards
    return [
        f"<results>/{w.dataset}/{w.model}/arms/{arm}/s{seed}/eval/{w.split}/manifest.json"
        for arm in ARMS[w.dataset]
        for seed in cfg.seeds
    ]


def every_reward(wildcards):
    """Return the trained reward models that score answers of the evaluation: tables tell how well they learned."""
    trained = [cfg.scorers[s].params.get("trained") for s in cfg.evaluation.scorers]
    return [
        f"<results>/{dataset}/{model}/rewards/{key}/manifest.json"
        for dataset in ARMS
        for model in sweep.models_of(cfg, dataset)
        for key in dict.fromkeys(trained)
        if key is not None
    ]


def every_group(wildcards):
    """Return the groups of every trained arm and seed."""
    return [
        f"<results>/{dataset}/{model}/groups/{arm.selection}/n{arm.n}/s{seed}/manifest.json"
        for dataset, arms in ARMS.items()
        for model in sweep.models_of(cfg, dataset)
        for arm in arms.values()
        if arm.is_trained
        for seed in cfg.seeds
    ]


def every_diagnosis(wildcards):
    """Return what the negatives and, if the study asks for it, the gradients of every data set and model are."""
    parts = ["negatives"]
    if cfg.figures.gradient is not None:
        parts.append(f"pools/{cfg.figures.gradient.pool}/gradient")
    return [
        f"<results>/{dataset}/{model}/{part}/manifest.json"
        for dataset in cfg.datasets
        for model in sweep.models_of(cfg, dataset)
        for part in parts
    ]


def every_similarity(wildcards):
    """Return the scores behind the similarity figure."""
    shown = cfg.figures.similarity
    if shown is None:
        return []
    return [
        f"<results>/{dataset}/{model}/pools/{shown.pool}/scores/{scorer}/manifest.json"
        for dataset in cfg.datasets
        for model in sweep.models_of(cfg, dataset)
        for scorer in dict.fromkeys((shown.scorer, cfg.evaluation.judge))
    ]


# GPUs


def gpus(wildcards):
    """Return the GPUs that a training asks for."""
    return cfg.models[wildcards.model].gpus


def inference_gpus(wildcards):
    """Return the GPUs that a job asks for that only reads a model."""
    model = cfg.models[wildcards.model]
    return model.inference_gpus if model.gpus else 0


def one_gpu(wildcards):
    """Return the GPU of a job that can use one alone; none where the model is for a CPU."""
    return min(1, cfg.models[wildcards.model].gpus)


def tokens_together(wildcards):
    """Return the tokens that a device runs together; 0 for a whole batch. A resource, since a change reruns nothing."""
    return cfg.models[wildcards.model].execution.tokens or 0


def launcher(wildcards):
    """Return how a training uses the GPUs that it was granted: by accelerate with a process for each, if there are several."""
    model = cfg.models[wildcards.model]
    if model.gpus < 2:
        return f"--asked {model.gpus}"
    return f"--asked {model.gpus} --accelerate envs/accelerate/{model.execution.strategy}.yaml"


def offer_gpus():
    """Let as many GPUs be used at a time as this machine has, one GPU job where it has none.

    Not on a cluster, nor where the command line or the profile says `--resources gpu=...`.
    """
    if workflow.nodes is None and "gpu" not in workflow.global_resources:
        found = gpu.visible_gpus(os.environ)
        workflow.global_resources["gpu"] = max(1, len(found))


if workflow.is_main_process and any(model.gpus for model in cfg.models.values()):
    try:
        offer_gpus()
    except SelfContrastError as error:
        fail(error)


def sampler_files(wildcards):
    """Return the modules that sample a model: those of its back-end."""
    return SAMPLERS[cfg.models[wildcards.model].backend]


def sampler_env(wildcards):
    """Return the conda environment of a job that samples; used with `--sdm conda` alone."""
    vllm = cfg.models[wildcards.model].backend == "vllm"
    return f"../envs/{'vllm' if vllm else 'train'}.yaml"


def sampler_python(wildcards):
    """Return the Python of a job that samples: as a resource, since where it lies changes no number.

    vLLM asks for other versions than the rest, so that it has an environment of its own: the one that
    SELFCONTRAST_VLLM_PYTHON names, or that `make env-vllm` made. With `--sdm conda` it is the one that is active.
    """
    if cfg.models[wildcards.model].backend != "vllm" or WITH_CONDA:
        return "python"
    made = Path(".venv-vllm/bin/python")
    return os.environ.get("SELFCONTRAST_VLLM_PYTHON") or (
        str(made) if made.exists() else "python"
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


# The plan, behind a dry run


def print_plan():
    """Print what the jobs of a dry run would cost; whether it is one is known only once Snakemake has its executor."""
    if not workflow.dryrun or workflow.output_settings.quiet:
        return
    from selfcontrast.planning.report import describe_plan

    dag = workflow.dag
    jobs = Counter(job.rule.name for job in dag.jobs if dag.needrun(job))
    try:
        text = describe_plan(cfg, jobs=jobs) if jobs else ""
    except SelfContrastError as error:
        text = f"No plan: {error}"
    print(text, file=sys.stderr)


if workflow.is_main_process:
    atexit.register(print_plan)


# One run at a time


def lock_study():
    """Hold the study's lock for as long as this process lives; a second run of the same study ends with a message.

    It stands in for Snakemake's own lock, which outlives a killed run: the kernel drops this one with the process. On a
    cluster the jobs of a killed run go on, and would write the same files: the lock file holds the name of their run.
    """
    path = Path(f"results/{cfg.name}/.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    global held_lock
    held_lock = path.open("a+")
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
    held_lock.seek(0)
    if earlier := held_lock.read().strip():
        try:
            cancelled = slurm.cancel_leftovers(earlier)
        except SelfContrastError as error:
            fail(error)
        if cancelled:
            print(
                f"{cancelled} jobs of an earlier run of this study were cancelled.",
                file=sys.stderr,
            )
    held_lock.truncate(0)
    held_lock.write(run_name())
    held_lock.flush()


def run_name():
    """Return the name that Slurm's executor gives to all jobs of this run; empty for other executors."""
    return getattr(workflow.scheduler._executor, "run_uuid", "")


onstart:
    lock_study()


onerror:
    printed = "".join(Path(name).read_text(errors="replace") for name in log)
    if advice := slurm.advice(printed, slurm.read_log):
        print(advice, file=sys.stderr, flush=True)
