rule train_reward:
    input:
        code="selfcontrast/steps/train_reward.py",
        lib=[
            "selfcontrast/reward_models.py",
            "selfcontrast/reward_pairs.py",
            "selfcontrast/stored_pools.py",
            "selfcontrast/training/loop.py",
            "selfcontrast/training/trl.py",
            *RENDERER,
        ],
        spec="<results>/{dataset}/{model}/rewards/{reward}/spec.json",
        prompts=rules.encode.output.manifest,
        pool=of_reward("manifest.json"),
        labels=of_reward("scores/{labels}/manifest.json"),
        policy=rules.sft.output.manifest,
        weights=rules.sft.output.weights,
    output:
        manifest="<results>/{dataset}/{model}/rewards/{reward}/manifest.json",
        weights=directory("<results>/{dataset}/{model}/rewards/{reward}/model"),
        history="<results>/{dataset}/{model}/rewards/{reward}/history.jsonl",
        run="<results>/{dataset}/{model}/rewards/{reward}/run.json",
    log:
        "<logs>/{dataset}/{model}/rewards/{reward}/train_reward.log",
    benchmark:
        "<benchmarks>/{dataset}/{model}/rewards/{reward}/train_reward.jsonl"
    conda:
        "../envs/train.yaml"
    resources:
        gpu=one_gpu,
        tokens=tokens_together,
        mem_mb=grow(64_000),
        runtime=240,
    params:
        module=as_py_module(input.code),
    shell:
        "exec python -m selfcontrast.gpu --granted {resources.gpu} -- -m {params.module} --spec {input.spec}"
        " --prompts {input.prompts} --pool {input.pool} --labels {input.labels} --policy {input.policy}"
        " --tokens {resources.tokens} --threads {threads} --out {output.manifest} > {log} 2>&1"
