rule answer:
    input:
        unpack(policy_of),
        code="selfcontrast/steps/answer.py",
        lib="selfcontrast/judging/questions.py",
        sampler=sampler_files,
        template=template_files,
        spec="<results>/questions/{questions}/{model}/spec.json",
        policy_spec=policy_spec,
        questions=of_questions("path"),
    output:
        manifest="<results>/{dataset}/{model}/arms/{arm}/s{seed}/questions/{questions}/manifest.json",
        table="<results>/{dataset}/{model}/arms/{arm}/s{seed}/questions/{questions}/responses.parquet",
        run="<results>/{dataset}/{model}/arms/{arm}/s{seed}/questions/{questions}/run.json",
    log:
        "<logs>/{dataset}/{model}/arms/{arm}/s{seed}/{questions}/answer.log",
    benchmark:
        "<benchmarks>/{dataset}/{model}/arms/{arm}/s{seed}/{questions}/answer.jsonl"
    conda:
        sampler_env
    resources:
        python=sampler_python,
        gpu=inference_gpus,
        mem_mb=grow(64_000),
        runtime=120,
    params:
        module=as_py_module(input.code),
        template=template_of,
        max_length=max_length,
        stream=stream_of,
    shell:
        "exec {resources.python} -m selfcontrast.gpu --granted {resources.gpu} -- -m {params.module} --spec {input.spec}"
        " --questions {input.questions:q} --policy {input.policy} --policy-spec {input.policy_spec}"
        " --template {params.template} --max-length {params.max_length} --seed {wildcards.seed} --stream {params.stream}"
        " --gpus {resources.gpu} --threads {threads} --out {output.manifest} > {log} 2>&1"


rule judge:
    input:
        code="selfcontrast/steps/judge.py",
        lib=judge_files,
        spec="<results>/judges/{judge}/spec.json",
        answers=judged_answers,
        data=judge_data,
        gamed=gamed_file,
        fetched=judge_checkpoint,
    output:
        manifest="<results>/judges/{judge}/manifest.json",
        table="<results>/judges/{judge}/judgements.parquet",
        summary=report(
            "<results>/judges/{judge}/summary.tsv",
            caption="../report/judges.rst",
            category="Headline",
            labels={"what": "judge {judge}"},
        ),
        files=directory("<results>/judges/{judge}/files"),
        run="<results>/judges/{judge}/run.json",
    log:
        "<logs>/judges/{judge}/judge.log",
    benchmark:
        "<benchmarks>/judges/{judge}/judge.jsonl"
    conda:
        "../envs/train.yaml"
    resources:
        gpu=judge_gpus,
        mem_mb=grow(16_000),
        runtime=720,
    params:
        module=as_py_module(input.code),
        gamed=gamed_flag,
        fetched=lambda wildcards, input: (
            f"--fetched {input.fetched}" if input.fetched else ""
        ),
    shell:
        "exec python -m selfcontrast.gpu --granted {resources.gpu} -- -m {params.module} --spec {input.spec}"
        " {params.gamed} {params.fetched}"
        " --threads {threads} --out {output.manifest} > {log} 2>&1"
