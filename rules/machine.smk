"""What a job gets of the machine: GPUs, an environment, memory; none of it changes a number."""

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


def gpus_of_sft(wildcards):
    """Return the GPUs of fine-tuning: a checkpoint that has had it is only written anew, by one process."""
    trains = cfg.models[wildcards.model].sft is not None
    return gpus(wildcards) if trains else one_gpu(wildcards)


def launcher_of_sft(wildcards):
    """Return how fine-tuning uses them."""
    trains = cfg.models[wildcards.model].sft is not None
    return launcher(wildcards) if trains else f"--asked {one_gpu(wildcards)}"


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


def grow_with(granted):
    """Return a memory request in MiB for a training with so many GPUs, which grows with the attempts.

    Each process loads all weights (29 GB for 7 billion of float32) before they are divided.
    """

    def mem_mb(wildcards, attempt):
        return max(64_000, 40_000 * granted(wildcards)) * attempt

    return mem_mb


def grow(mb):
    """Return a memory request in MiB that doubles at the second attempt."""

    def mem_mb(wildcards, attempt):
        return mb * attempt

    return mem_mb
