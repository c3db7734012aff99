rule pretrain:
    input:
        code="selfcontrast/steps/pretrain.py",
        lib=[
            *TRAINER,
            *RENDERER,
            "selfcontrast/world/language.py",
            "selfcontrast/world/dialogues.py",
            "selfcontrast/world/checkpoint.py",
        ],
        spec="<results>/models/{model}/base/spec.json",
    output:
        manifest="<results>/models/{model}/base/manifest.json",
        weights=directory("<results>/models/{model}/base/model"),
        run="<results>/models/{model}/base/run.json",
    log:
        "<logs>/models/{model}/base/pretrain.log",
    benchmark:
        "<benchmarks>/models/{model}/base/pretrain.jsonl"
    conda:
        "../envs/train.yaml"
    threads: 2
    resources:
        mem_mb=grow(3_000),
        runtime=60,
    params:
        module=as_py_module(input.code),
    shell:
        "exec python -m selfcontrast.gpu --granted 0 -- -m {params.module} --spec {input.spec}"
        " --threads 2 --out {output.manifest} > {log} 2>&1"


rule sft:
    input:
        code="selfcontrast/steps/sft.py",
        lib=TRAINER,
        template=template_files,
        spec="<results>/{dataset}/{model}/sft/spec.json",
        prompts=rules.encode.output.manifest,
        # Nothing trains before the data were checked; another finding alone trains nothing again.
        lint=ancient(rules.lint.output.manifest),
        base=base_manifest,
    output:
        manifest="<results>/{dataset}/{model}/sft/manifest.json",
        weights=directory("<results>/{dataset}/{model}/sft/model"),
        history="<results>/{dataset}/{model}/sft/history.jsonl",
        run="<results>/{dataset}/{model}/sft/run.json",
    log:
        "<logs>/{dataset}/{model}/sft/sft.log",
    benchmark:
        "<benchmarks>/{dataset}/{model}/sft/sft.jsonl"
    conda:
        "../envs/train.yaml"
    resources:
        launcher=launcher_of_sft,
        execution=execution,
        gpu=gpus_of_sft,
        mem_mb=grow_with(gpus_of_sft),
        runtime=480,
    params:
        module=as_py_module(input.code),
        base=base_folder,
        fetched=fetched_flag,
    shell:
        "exec python -m selfcontrast.gpu --granted {resources.gpu} {resources.launcher} -- -m {params.module} --spec {input.spec}"
        " --prompts {input.prompts} --base {params.base:q} {params.fetched}"
        " {resources.execution} --threads {threads} --out {output.manifest} > {log} 2>&1"
