rule select_groups:
    input:
        code="selfcontrast/steps/select_groups.py",
        lib=selection_files,
        spec="<results>/{dataset}/{model}/groups/{selection}/n{n}/spec.json",
        prompts=rules.encode.output.manifest,
        pool=of_selection("<results>/{dataset}/{model}/pools/{pool}/manifest.json"),
        scores=of_selection(
            "<results>/{dataset}/{model}/pools/{pool}/scores/{scorer}/manifest.json"
        ),
    output:
        manifest="<results>/{dataset}/{model}/groups/{selection}/n{n}/s{seed}/manifest.json",
        groups="<results>/{dataset}/{model}/groups/{selection}/n{n}/s{seed}/groups.jsonl",
        run="<results>/{dataset}/{model}/groups/{selection}/n{n}/s{seed}/run.json",
    log:
        "<logs>/{dataset}/{model}/groups/{selection}/n{n}/s{seed}/select_groups.log",
    benchmark:
        "<benchmarks>/{dataset}/{model}/groups/{selection}/n{n}/s{seed}/select_groups.jsonl"
    conda:
        "../envs/base.yaml"
    resources:
        mem_mb=grow(2_000),
        runtime=30,
    params:
        module=as_py_module(input.code),
        scores=lambda wildcards, input: (
            f"--scores {input.scores}" if input.scores else ""
        ),
    shell:
        "exec python -m {params.module} --spec {input.spec}"
        " --prompts {input.prompts} --pool {input.pool} {params.scores} --seed {wildcards.seed}"
        " --threads {threads} --out {output.manifest} > {log} 2>&1"
