rule pocket_tasks:
    input:
        code="selfcontrast/steps/pocket_tasks.py",
        lib=[
            "selfcontrast/harness/pocket.py",
            "selfcontrast/world/grader.py",
            "selfcontrast/world/language.py",
        ],
        spec="<results>/{dataset}/{model}/pocket_tasks/spec.json",
        prompts=rules.encode.output.manifest,
    output:
        manifest="<results>/{dataset}/{model}/pocket_tasks/manifest.json",
        tasks=directory("<results>/{dataset}/{model}/pocket_tasks/tasks"),
        run="<results>/{dataset}/{model}/pocket_tasks/run.json",
    log:
        "<logs>/{dataset}/{model}/pocket_tasks/pocket_tasks.log",
    benchmark:
        "<benchmarks>/{dataset}/{model}/pocket_tasks/pocket_tasks.jsonl"
    conda:
        "../envs/base.yaml"
    resources:
        mem_mb=grow(2_000),
        runtime=30,
    params:
        module=as_py_module(input.code),
    shell:
        "exec python -m {params.module} --spec {input.spec}"
        " --prompts {input.prompts} --threads {threads} --out {output.manifest} > {log} 2>&1"


rule benchmark:
    input:
        unpack(policy_of),
        code="selfcontrast/steps/benchmark.py",
        lib=[
            "selfcontrast/harness/definitions.py",
            "selfcontrast/harness/policy.py",
            "selfcontrast/harness/results.py",
            "selfcontrast/harness/resuming.py",
            "selfcontrast/harness/running.py",
            "selfcontrast/task_pins.py",
        ],
        template=template_files,
        spec="<results>/evaluation/benchmarks/{benchmark}/spec.json",
        policy_spec=policy_spec,
        pocket=pocket_tasks,
        folder=task_folder,
    output:
        manifest="<results>/{dataset}/{model}/arms/{arm}/s{seed}/benchmarks/{benchmark}/manifest.json",
        results="<results>/{dataset}/{model}/arms/{arm}/s{seed}/benchmarks/{benchmark}/results.json",
        samples="<results>/{dataset}/{model}/arms/{arm}/s{seed}/benchmarks/{benchmark}/samples.jsonl",
        run="<results>/{dataset}/{model}/arms/{arm}/s{seed}/benchmarks/{benchmark}/run.json",
    log:
        "<logs>/{dataset}/{model}/arms/{arm}/s{seed}/{benchmark}/benchmark.log",
    benchmark:
        "<benchmarks>/{dataset}/{model}/arms/{arm}/s{seed}/{benchmark}/benchmark.jsonl"
    conda:
        "../envs/train.yaml"
    resources:
        gpu=inference_gpus,
        mem_mb=grow(32_000),
        runtime=480,
    params:
        module=as_py_module(input.code),
        template=template_of,
        tasks=task_flags,
    shell:
        "exec python -m selfcontrast.gpu --granted {resources.gpu} -- -m {params.module} --spec {input.spec}"
        " --policy {input.policy} --policy-spec {input.policy_spec} --template {params.template} {params.tasks}"
        " --threads {threads} --out {output.manifest} > {log} 2>&1"
