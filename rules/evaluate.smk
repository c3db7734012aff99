rule respond:
    input:
        unpack(policy_of),
        code="selfcontrast/steps/respond.py",
        lib=sampler_files,
        template=template_files,
        spec="<results>/evaluation/{model}/spec.json",
        policy_spec=policy_spec,
        prompts=rules.encode.output.manifest,
    output:
        manifest="<results>/{dataset}/{model}/arms/{arm}/s{seed}/eval/{split}/manifest.json",
        table="<results>/{dataset}/{model}/arms/{arm}/s{seed}/eval/{split}/responses.parquet",
        run="<results>/{dataset}/{model}/arms/{arm}/s{seed}/eval/{split}/run.json",
    log:
        "<logs>/{dataset}/{model}/arms/{arm}/s{seed}/{split}/respond.log",
    benchmark:
        "<benchmarks>/{dataset}/{model}/arms/{arm}/s{seed}/{split}/respond.jsonl"
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
        stream=stream_of,
    shell:
        "exec {resources.python} -m selfcontrast.gpu --granted {resources.gpu} -- -m {params.module} --spec {input.spec}"
        " --prompts {input.prompts} --split {wildcards.split} --policy {input.policy}"
        " --policy-spec {input.policy_spec} --template {params.template} --seed {wildcards.seed} --stream {params.stream}"
        " --gpus {resources.gpu} --threads {threads} --out {output.manifest} > {log} 2>&1"


rule score_answers:
    input:
        unpack(scorer_model),
        code="selfcontrast/steps/score.py",
        lib=scorer_files,
        spec="<results>/scorers/{scorer}/spec.json",
        prompts=rules.encode.output.manifest,
        answers=rules.respond.output.manifest,
    output:
        manifest="<results>/{dataset}/{model}/arms/{arm}/s{seed}/eval/{split}/scores/{scorer}/manifest.json",
        table="<results>/{dataset}/{model}/arms/{arm}/s{seed}/eval/{split}/scores/{scorer}/scores.parquet",
        run="<results>/{dataset}/{model}/arms/{arm}/s{seed}/eval/{split}/scores/{scorer}/run.json",
    log:
        "<logs>/{dataset}/{model}/arms/{arm}/s{seed}/{split}/{scorer}/score_answers.log",
    benchmark:
        "<benchmarks>/{dataset}/{model}/arms/{arm}/s{seed}/{split}/{scorer}/score_answers.jsonl"
    conda:
        "../envs/train.yaml"
    resources:
        gpu=inference_gpus,
        mem_mb=grow(32_000),
        runtime=60,
    params:
        module=as_py_module(input.code),
        model=model_flag,
    shell:
        "exec python -m selfcontrast.gpu --granted {resources.gpu} -- -m {params.module} --spec {input.spec}"
        " --prompts {input.prompts} --split {wildcards.split} --responses {input.answers}"
        " {params.model} --threads {threads} --out {output.manifest} > {log} 2>&1"


rule score_arms:
    input:
        unpack(scorer_model),
        code="selfcontrast/steps/score_arms.py",
        lib=scorer_files,
        spec="<results>/{dataset}/{model}/proxies/{scorer}/spec.json",
        prompts=rules.encode.output.manifest,
        answers=answers_of_all,
    output:
        manifest="<results>/{dataset}/{model}/proxies/{scorer}/{split}/manifest.json",
        scores=directory("<results>/{dataset}/{model}/proxies/{scorer}/{split}/scores"),
        run="<results>/{dataset}/{model}/proxies/{scorer}/{split}/run.json",
    log:
        "<logs>/{dataset}/{model}/proxies/{scorer}/{split}/score_arms.log",
    benchmark:
        "<benchmarks>/{dataset}/{model}/proxies/{scorer}/{split}/score_arms.jsonl"
    # The longest of the jobs that wait for all answers: first, so that the others run beside it.
    priority: 10
    conda:
        "../envs/train.yaml"
    resources:
        gpu=inference_gpus,
        mem_mb=grow(32_000),
        runtime=240,
    params:
        module=as_py_module(input.code),
        model=model_flag,
    shell:
        "exec python -m selfcontrast.gpu --granted {resources.gpu} -- -m {params.module} --spec {input.spec}"
        " --prompts {input.prompts} --split {wildcards.split} {params.model} --answers {input.answers}"
        " --threads {threads} --out {output.manifest} > {log} 2>&1"
