rule generate_shard:
    input:
        code="selfcontrast/steps/generate_shard.py",
        lib=pool_file,
        sampler=sampler_files,
        template=template_files,
        spec="<results>/{dataset}/{model}/pools/{pool}/spec.json",
        prompts=rules.encode.output.manifest,
        policy=rules.sft.output.manifest,
        weights=rules.sft.output.weights,
    output:
        manifest=temp(
            "<results>/{dataset}/{model}/pools/{pool}/shards/{shard}/manifest.json"
        ),
        table=temp(
            "<results>/{dataset}/{model}/pools/{pool}/shards/{shard}/shard.parquet"
        ),
        run="<results>/{dataset}/{model}/pools/{pool}/shards/{shard}/run.json",
    log:
        "<logs>/{dataset}/{model}/pools/{pool}/{shard}/generate_shard.log",
    benchmark:
        "<benchmarks>/{dataset}/{model}/pools/{pool}/{shard}/generate_shard.jsonl"
    conda:
        sampler_env
    resources:
        python=sampler_python,
        gpu=inference_gpus,
        mem_mb=grow(64_000),
        runtime=240,
    params:
        module=as_py_module(input.code),
    shell:
        "exec {resources.python} -m selfcontrast.gpu --granted {resources.gpu} -- -m {params.module} --spec {input.spec}"
        " --prompts {input.prompts} --policy {input.policy} --shard {wildcards.shard}"
        " --gpus {resources.gpu} --threads {threads} --out {output.manifest} > {log} 2>&1"


rule gather_pool:
    input:
        code="selfcontrast/steps/gather_pool.py",
        lib=JOINS,
        spec="<results>/{dataset}/{model}/pools/{pool}/spec.json",
        prompts=rules.encode.output.manifest,
        shards=shards_of,
        tables=shard_tables_of,
    output:
        manifest="<results>/{dataset}/{model}/pools/{pool}/manifest.json",
        table="<results>/{dataset}/{model}/pools/{pool}/responses.parquet",
        run="<results>/{dataset}/{model}/pools/{pool}/run.json",
    log:
        "<logs>/{dataset}/{model}/pools/{pool}/gather_pool.log",
    benchmark:
        "<benchmarks>/{dataset}/{model}/pools/{pool}/gather_pool.jsonl"
    conda:
        "../envs/base.yaml"
    resources:
        mem_mb=grow(2_000),
        runtime=30,
    params:
        module=as_py_module(input.code),
    shell:
        "exec python -m {params.module} --spec {input.spec}"
        " --prompts {input.prompts} --shards {input.shards}"
        " --threads {threads} --out {output.manifest} > {log} 2>&1"


rule score_pool:
    input:
        unpack(scorer_model),
        code="selfcontrast/steps/score.py",
        lib=scorer_files,
        spec="<results>/scorers/{scorer}/spec.json",
        prompts=rules.encode.output.manifest,
        pool=rules.gather_pool.output.manifest,
    output:
        manifest="<results>/{dataset}/{model}/pools/{pool}/scores/{scorer}/manifest.json",
        table="<results>/{dataset}/{model}/pools/{pool}/scores/{scorer}/scores.parquet",
        run="<results>/{dataset}/{model}/pools/{pool}/scores/{scorer}/run.json",
    log:
        "<logs>/{dataset}/{model}/pools/{pool}/scores/{scorer}/score_pool.log",
    benchmark:
        "<benchmarks>/{dataset}/{model}/pools/{pool}/scores/{scorer}/score_pool.jsonl"
    conda:
        "../envs/train.yaml"
    resources:
        gpu=inference_gpus,
        mem_mb=grow(32_000),
        runtime=120,
    params:
        module=as_py_module(input.code),
        model=model_flag,
    shell:
        "exec python -m selfcontrast.gpu --granted {resources.gpu} -- -m {params.module} --spec {input.spec}"
        " --prompts {input.prompts} --split pool --responses {input.pool}"
        " {params.model} --threads {threads} --out {output.manifest} > {log} 2>&1"


rule ref_logps:
    input:
        code="selfcontrast/steps/ref_logps.py",
        lib=[*LOGPROBS, *JOINS, "selfcontrast/ragged.py"],
        spec="<results>/{dataset}/{model}/reference/spec.json",
        prompts=rules.encode.output.manifest,
        pool=rules.gather_pool.output.manifest,
        reference=rules.sft.output.manifest,
        weights=rules.sft.output.weights,
    output:
        manifest=temp(
            "<results>/{dataset}/{model}/pools/{pool}/logps/sft/shards/{shard}/manifest.json"
        ),
        table=temp(
            "<results>/{dataset}/{model}/pools/{pool}/logps/sft/shards/{shard}/shard.parquet"
        ),
        run="<results>/{dataset}/{model}/pools/{pool}/logps/sft/shards/{shard}/run.json",
    log:
        "<logs>/{dataset}/{model}/pools/{pool}/logps/{shard}/ref_logps.log",
    benchmark:
        "<benchmarks>/{dataset}/{model}/pools/{pool}/logps/{shard}/ref_logps.jsonl"
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
        " --prompts {input.prompts} --pool {input.pool} --reference {input.reference} --shard {wildcards.shard}"
        " --threads {threads} --out {output.manifest} > {log} 2>&1"


rule gather_logps:
    input:
        code="selfcontrast/steps/gather_logps.py",
        lib=JOINS,
        spec="<results>/{dataset}/{model}/reference/spec.json",
        prompts=rules.encode.output.manifest,
        pool=rules.gather_pool.output.manifest,
        reference=rules.sft.output.manifest,
        shards=logp_shards_of,
        tables=logp_tables_of,
    output:
        manifest="<results>/{dataset}/{model}/pools/{pool}/logps/sft/manifest.json",
        table="<results>/{dataset}/{model}/pools/{pool}/logps/sft/logps.parquet",
        run="<results>/{dataset}/{model}/pools/{pool}/logps/sft/run.json",
    log:
        "<logs>/{dataset}/{model}/pools/{pool}/logps/gather_logps.log",
    benchmark:
        "<benchmarks>/{dataset}/{model}/pools/{pool}/logps/gather_logps.jsonl"
    conda:
        "../envs/base.yaml"
    resources:
        mem_mb=grow(4_000),
        runtime=30,
    params:
        module=as_py_module(input.code),
    shell:
        "exec python -m {params.module} --spec {input.spec}"
        " --prompts {input.prompts} --pool {input.pool} --reference {input.reference}"
        " --shards {input.shards} --threads {threads} --out {output.manifest} > {log} 2>&1"
