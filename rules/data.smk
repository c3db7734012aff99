rule world:
    input:
        code="selfcontrast/steps/world.py",
        lib=[
            "selfcontrast/world/language.py",
            "selfcontrast/world/dialogues.py",
            "selfcontrast/world/layouts.py",
            "selfcontrast/world/grader.py",
        ],
        spec="<results>/{dataset}/world/spec.json",
    output:
        manifest="<results>/{dataset}/world/manifest.json",
        records="<results>/{dataset}/world/records",
        run="<results>/{dataset}/world/run.json",
    log:
        "<logs>/{dataset}/world/world.log",
    benchmark:
        "<benchmarks>/{dataset}/world/world.jsonl"
    conda:
        "../envs/base.yaml"
    resources:
        mem_mb=grow(2_000),
        runtime=30,
    params:
        module=as_py_module(input.code),
    shell:
        "exec python -m {params.module} --spec {input.spec}"
        " --threads {threads} --out {output.manifest} > {log} 2>&1"


rule fetch:
    input:
        code="selfcontrast/steps/fetch.py",
        lib=[
            "selfcontrast/hub.py",
            "selfcontrast/sources.py",
            *(f"selfcontrast/inspection/{m}.py" for m in INSPECTION),
        ],
        spec="<results>/{fetched}/fetch/spec.json",
    output:
        manifest="<results>/{fetched}/fetch/manifest.json",
        files=directory("<results>/{fetched}/fetch/files"),
        run="<results>/{fetched}/fetch/run.json",
    log:
        "<logs>/{fetched}/fetch/fetch.log",
    benchmark:
        "<benchmarks>/{fetched}/fetch/fetch.jsonl"
    # First, so that a checkpoint that cannot be had ends the run before others have computed for hours.
    priority: 20
    localrule: True  # compute nodes often have no network; where snakemake is started there is one
    conda:
        "../envs/base.yaml"
    params:
        module=as_py_module(input.code),
    shell:
        "exec python -m {params.module} --spec {input.spec}"
        " --threads {threads} --out {output.manifest} > {log} 2>&1"


rule prompts:
    input:
        code="selfcontrast/steps/prompts.py",
        lib=adaptor_files,
        spec="<results>/{dataset}/prompts/spec.json",
        records=records_of,
        made_by=maker_of_records,
    output:
        manifest="<results>/{dataset}/prompts/manifest.json",
        dialogues="<results>/{dataset}/prompts/dialogues.jsonl.gz",
        run="<results>/{dataset}/prompts/run.json",
    log:
        "<logs>/{dataset}/prompts/prompts.log",
    benchmark:
        "<benchmarks>/{dataset}/prompts/prompts.jsonl"
    priority: 1  # what is wrong with any data set is known before another one trains
    conda:
        "../envs/base.yaml"
    resources:
        mem_mb=grow(2_000),
        runtime=30,
    params:
        module=as_py_module(input.code),
        made_by=lambda wildcards, input: (
            f"--made-by {input.made_by}" if input.made_by else ""
        ),
    shell:
        "exec python -m {params.module} --spec {input.spec}"
        " --records {input.records:q} {params.made_by}"
        " --threads {threads} --out {output.manifest} > {log} 2>&1"


rule encode:
    input:
        code="selfcontrast/steps/encode.py",
        lib=lambda wildcards: [*template_files(wildcards), "selfcontrast/sorting.py"],
        spec="<results>/{dataset}/{model}/prompts/spec.json",
        dialogues=rules.prompts.output.manifest,
        base=base_manifest,
    output:
        manifest="<results>/{dataset}/{model}/prompts/manifest.json",
        splits=multiext(
            "<results>/{dataset}/{model}/prompts/",
            "sft.parquet",
            "pool.parquet",
            "validation.parquet",
            "test.parquet",
        ),
        run="<results>/{dataset}/{model}/prompts/run.json",
    log:
        "<logs>/{dataset}/{model}/prompts/encode.log",
    benchmark:
        "<benchmarks>/{dataset}/{model}/prompts/encode.jsonl"
    priority: 1  # what is wrong with any data set is known before another one trains
    conda:
        "../envs/base.yaml"
    resources:
        mem_mb=grow(2_000),
        runtime=30,
    params:
        module=as_py_module(input.code),
        base=base_folder,
        fetched=fetched_flag,
        room=room,
    shell:
        "exec python -m {params.module} --spec {input.spec}"
        " --dialogues {input.dialogues} --base {params.base:q} {params.fetched} --room {params.room}"
        " --threads {threads} --out {output.manifest} > {log} 2>&1"


rule lint:
    input:
        code="selfcontrast/steps/lint.py",
        lib=LINTING,
        adaptor=adaptor_files,
        spec="<results>/{dataset}/{model}/lint/spec.json",
        records=records_of,
        dialogues=rules.prompts.output.manifest,
        prompts=rules.encode.output.manifest,
        base=base_manifest,
        against=question_files,
    output:
        manifest="<results>/{dataset}/{model}/lint/manifest.json",
        findings=report(
            "<results>/{dataset}/{model}/lint/findings.tsv",
            caption="../report/lint.rst",
            category="Data",
            labels={"what": "findings: {dataset}, {model}"},
        ),
        run="<results>/{dataset}/{model}/lint/run.json",
    log:
        "<logs>/{dataset}/{model}/lint/lint.log",
    benchmark:
        "<benchmarks>/{dataset}/{model}/lint/lint.jsonl"
    priority: 1  # what is wrong with any data set is known before another one trains
    conda:
        "../envs/base.yaml"
    resources:
        mem_mb=grow(2_000),
        runtime=60,
    params:
        module=as_py_module(input.code),
        base=base_folder,
        against=lambda wildcards, input: "--against" if input.against else "",
        needs=needs_of_data,
    shell:
        "exec python -m {params.module} --spec {input.spec}"
        " --records {input.records:q} --dialogues {input.dialogues}"
        " --prompts {input.prompts} --base {params.base:q} {params.against} {input.against:q} {params.needs}"
        " --threads {threads} --out {output.manifest} > {log} 2>&1"
