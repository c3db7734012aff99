rule train:
    input:
        code="selfcontrast/steps/train.py",
        lib=[
            *TRAINER,
            *JOINS,
            "selfcontrast/ragged.py",
            "selfcontrast/records.py",  # the algebra of groups, on which every loss rests
            "selfcontrast/training/groups.py",
            "selfcontrast/training/preference.py",
            "selfcontrast/training/stored.py",
            "selfcontrast/objectives/_average.py",
        ],
        objective=objective_file,
        spec="<results>/{dataset}/{model}/arms/{arm}/spec.json",
        prompts=rules.encode.output.manifest,
        pool=of_selection("<results>/{dataset}/{model}/pools/{pool}/manifest.json"),
        groups=arm_groups,
        ref_logps=of_selection(
            "<results>/{dataset}/{model}/pools/{pool}/logps/sft/manifest.json"
        ),
        policy=rules.sft.output.manifest,
        weights=rules.sft.output.weights,
    output:
        manifest="<results>/{dataset}/{model}/arms/{arm}/s{seed}/manifest.json",
        weights=keep_or_temp(
            directory("<results>/{dataset}/{model}/arms/{arm}/s{seed}/model")
        ),
        history="<results>/{dataset}/{model}/arms/{arm}/s{seed}/history.jsonl",
        run="<results>/{dataset}/{model}/arms/{arm}/s{seed}/run.json",
    log:
        "<logs>/{dataset}/{model}/arms/{arm}/s{seed}/train.log",
    benchmark:
        "<benchmarks>/{dataset}/{model}/arms/{arm}/s{seed}/train.jsonl"
    conda:
        "../envs/train.yaml"
    resources:
        launcher=launcher,
        execution=execution,
        gpu=gpus,
        mem_mb=grow_with(gpus),
        runtime=240,
    params:
        module=as_py_module(input.code),
    shell:
        "exec python -m selfcontrast.gpu --granted {resources.gpu} {resources.launcher} -- -m {params.module} --spec {input.spec}"
        " --prompts {input.prompts} --pool {input.pool} --groups {input.groups}"
        " --ref-logps {input.ref_logps} --policy {input.policy} --seed {wildcards.seed}"
        " {resources.execution} --threads {threads} --out {output.manifest} > {log} 2>&1"
