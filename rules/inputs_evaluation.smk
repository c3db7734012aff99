"""What the rules read, of benchmarks, judges and the summary."""

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
        for model in sweep.models_of(cfg, dataset)
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
            for model in sweep.models_of(cfg, dataset)
        ]
    questions = cfg.evaluation.questions[judge.questions]
    return found + [
        path
        for path in (questions.path, questions.references, questions.baseline)
        if path
    ]


def gamed_file(wildcards):
    """Return AlpacaEval's file for the length-controlled rate of its leaderboard; nothing where the study names none.

    A judge that rates answers by themselves has no preferences of which it could be the rate.
    """
    judge = cfg.evaluation.judges[wildcards.judge]
    questions = judge.questions
    if questions is None or not plugins.load("judges", judge.kind).COMPARES:
        return []
    control = cfg.evaluation.questions[questions].length_control
    if control is None:
        return []
    return control.path or f"<results>/questions/{questions}/fetch/manifest.json"


def gamed_flag(wildcards, input):
    """Return the flag that names that file; nothing where there is none."""
    if not input.gamed:
        return ""
    path = Path(input.gamed)
    if path.name == "manifest.json":
        path = path.parent / "files" / "df_gamed.csv"
    return f"--gamed {shlex.quote(str(path))}"


def judge_files(wildcards):
    """Return the plug-in of a judge, and what its numbers rest on."""
    judge = cfg.evaluation.judges[wildcards.judge]
    modules = [
        "alpaca_rate",
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


def judge_checkpoint(wildcards):
    """Return the manifest of the fetch of the checkpoint that a judge's own server loads; nothing for others."""
    server = cfg.evaluation.judges[wildcards.judge].server
    return fetched_checkpoint(server.path) if server is not None else []


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
            for module in (
                "intervals",
                "laws",
                "moderation",
                "power",
                "trend",
                "variance",
            )
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
