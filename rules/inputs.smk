"""What the rules read, of data, models, pools, groups and arms."""

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
        return maker.replace(
            "manifest.json",
            "records" if Path(maker).parent.name == "world" else "files",
        )
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
        "selfcontrast/fields.py",
        "selfcontrast/lines.py",
        "selfcontrast/sources.py",
        "selfcontrast/texts.py",
    ]


def question_files(wildcards):
    """Return the questions of benchmarks on which the arms are evaluated: no training text may hold them."""
    return [questions.path for questions in cfg.evaluation.questions.values()]


def fetched_checkpoint(name):
    """Return the manifest of the fetch of a checkpoint from the hub; nothing for a folder or no name."""
    key = specs.fetch_key(name) if name else None
    return f"<results>/{key}/manifest.json" if key in SPECS else []


def needs_of_data(wildcards):
    """Return the flags of what the study needs of a data set: rejected answers, and prompts that the scorer `grade` knows."""
    needs = sweep.rejected_needs(cfg, wildcards.dataset)
    flags = f"--needs {shlex.quote(json.dumps(needs))}" if needs else ""
    if splits := sweep.graded_splits(cfg, wildcards.dataset):
        flags += f" --graded {' '.join(splits)}"
    return flags


def base_manifest(wildcards):
    """Return the manifest of a base model that the study trains from scratch or fetches; nothing for one that is given."""
    model = cfg.models[wildcards.model]
    if model.scratch:
        return f"<results>/models/{wildcards.model}/base/manifest.json"
    return fetched_checkpoint(model.path)


def base_folder(wildcards, input):
    """Return the folder of the base model."""
    model = cfg.models[wildcards.model]
    if not input.base:
        return model.path
    return str(Path(input.base).parent / ("model" if model.scratch else "files"))


def fetched_flag(wildcards, input):
    """Return the flag that names the manifest of the fetch of the base model; nothing for others."""
    is_fetched = input.base and not cfg.models[wildcards.model].scratch
    return f"--fetched {input.base}" if is_fetched else ""


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
        "cosine": ["selfcontrast/scorers/_reading.py"],
        "grade": ["selfcontrast/world/grader.py", "selfcontrast/world/language.py"],
        "reward": ["selfcontrast/reward_models.py"],
    }
    # A reward is read behind what the template writes.
    if template := cfg.scorers[wildcards.scorer].params.get("template"):
        own[kind] += [plugin_file("templates", template), *RENDERER]
    return [
        plugin_file("scorers", kind),
        "selfcontrast/scoring.py",
        "selfcontrast/stored_pools.py",
        *own.get(kind, []),
    ]


def scorer_model(wildcards):
    """Return the manifest and the weights of the model that a scorer reads, if the study trains or fetches it."""
    params = cfg.scorers[wildcards.scorer].params
    if fetched := fetched_checkpoint(params.get("model")):
        return {
            "fetched": fetched,
            "weights": fetched.replace("manifest.json", "files"),
        }
    trained = params.get("trained")
    if trained is None:
        return {}
    base = f"<results>/{wildcards.dataset}/{wildcards.model}/rewards/{trained}"
    return {"reward": f"{base}/manifest.json", "weights": f"{base}/model"}


def model_flag(wildcards, input):
    """Return the flag that names the manifest of that model; nothing for other scorers."""
    for name in ("reward", "fetched"):
        if name in input.keys():
            return f"--{name} {input[name]}"
    return ""


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
        "selfcontrast/texts.py",
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
