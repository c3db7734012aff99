rule diagnose_negatives:
    input:
        code="selfcontrast/steps/diagnose_negatives.py",
        lib=lambda wildcards: [
            "selfcontrast/negatives.py",
            *every_selection_file(wildcards),
        ],
        spec="<results>/{dataset}/{model}/negatives/spec.json",
        prompts=rules.encode.output.manifest,
        pools=described_pools,
        groups=described_groups,
    output:
        manifest="<results>/{dataset}/{model}/negatives/manifest.json",
        table="<results>/{dataset}/{model}/negatives/negatives.parquet",
        histograms="<results>/{dataset}/{model}/negatives/histograms.parquet",
        run="<results>/{dataset}/{model}/negatives/run.json",
    log:
        "<logs>/{dataset}/{model}/negatives/diagnose_negatives.log",
    benchmark:
        "<benchmarks>/{dataset}/{model}/negatives/diagnose_negatives.jsonl"
    conda:
        "../envs/base.yaml"
    resources:
        mem_mb=grow(16_000),
        runtime=60,
    params:
        module=as_py_module(input.code),
    shell:
        "exec python -m {params.module} --spec {input.spec}"
        " --threads {threads} --out {output.manifest} > {log} 2>&1"


rule gradient_noise:
    input:
        code="selfcontrast/steps/gradient_noise.py",
        lib=[*LOGPROBS, "selfcontrast/gradient_noise.py"],
        spec="<results>/{dataset}/{model}/pools/{pool}/gradient/spec.json",
        prompts=rules.encode.output.manifest,
        pool=rules.gather_pool.output.manifest,
        policy=rules.sft.output.manifest,
        weights=rules.sft.output.weights,
    output:
        manifest="<results>/{dataset}/{model}/pools/{pool}/gradient/manifest.json",
        table="<results>/{dataset}/{model}/pools/{pool}/gradient/gradient.parquet",
        run="<results>/{dataset}/{model}/pools/{pool}/gradient/run.json",
    log:
        "<logs>/{dataset}/{model}/pools/{pool}/gradient_noise.log",
    benchmark:
        "<benchmarks>/{dataset}/{model}/pools/{pool}/gradient_noise.jsonl"
    conda:
        "../envs/train.yaml"
    resources:
        gpu=inference_gpus,
        mem_mb=grow(64_000),
        runtime=120,
    params:
        module=as_py_module(input.code),
    shell:
        "exec python -m selfcontrast.gpu --granted {resources.gpu} -- -m {params.module} --spec {input.spec}"
        " --prompts {input.prompts} --pool {input.pool} --policy {input.policy}"
        " --threads {threads} --out {output.manifest} > {log} 2>&1"
