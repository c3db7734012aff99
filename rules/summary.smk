rule tables:
    input:
        code="selfcontrast/steps/tables.py",
        lib=table_files,
        spec="<results>/summary/spec.json",
        answers=every_answer,
        groups=every_group,
        rewards=every_reward,
        proxies=every_proxy,
        similarity=every_similarity,
        diagnoses=every_diagnosis,
        judges=expand(rules.judge.output.manifest, judge=cfg.evaluation.judges),
        benchmarks=every_benchmark,
        lock="requirements.lock",
    output:
        manifest="<results>/tables/manifest.json",
        main="<results>/tables/main.md",
        latex="<results>/tables/main.tex",
        metrics=report(
            "<results>/tables/metrics.tsv",
            caption="../report/metrics.rst",
            category="Headline",
            labels={"what": "all metrics"},
        ),
        comparisons=report(
            "<results>/tables/comparisons.tsv",
            caption="../report/comparisons.rst",
            category="Headline",
            labels={"what": "paired comparisons"},
        ),
        best=report(
            "<results>/tables/best.tsv",
            caption="../report/best.rst",
            category="Headline",
            labels={"what": "differences to the best"},
        ),
        benchmarks=report(
            "<results>/tables/benchmarks.tsv",
            caption="../report/benchmarks.rst",
            category="Headline",
            labels={"what": "benchmarks"},
        ),
        trend=report(
            "<results>/tables/trend.tsv",
            caption="../report/trend.rst",
            category="Headline",
            labels={"what": "trend over n"},
        ),
        variance=report(
            "<results>/tables/variance.tsv",
            caption="../report/variance.rst",
            category="Evidence",
            labels={"what": "variance by source"},
        ),
        power=report(
            "<results>/tables/power.tsv",
            caption="../report/power.rst",
            category="Evidence",
            labels={"what": "smallest visible differences"},
        ),
        data=report(
            "<results>/tables/data.tsv",
            caption="../report/data.rst",
            category="Data",
            labels={"what": "records and prompts"},
        ),
        selections=report(
            "<results>/tables/selections.tsv",
            caption="../report/selections.rst",
            category="Data",
            labels={"what": "selections"},
        ),
        negatives=report(
            "<results>/tables/negatives.tsv",
            caption="../report/negatives.rst",
            category="Data",
            labels={"what": "negatives"},
        ),
        histograms="<results>/tables/histograms.tsv",
        gradient="<results>/tables/gradient.tsv",
        similarity="<results>/tables/similarity.tsv",
        proxy=report(
            "<results>/tables/proxy.tsv",
            caption="../report/proxy.rst",
            category="Evidence",
            labels={"what": "proxy and truth"},
        ),
        wins="<results>/tables/wins.tsv",
        rewards="<results>/tables/rewards.tsv",
        provenance="<results>/tables/provenance.json",
        run="<results>/tables/run.json",
    log:
        "<logs>/tables/tables.log",
    benchmark:
        "<benchmarks>/tables/tables.jsonl"
    conda:
        "../envs/base.yaml"
    resources:
        mem_mb=grow(2_000),
        runtime=30,
    params:
        module=as_py_module(input.code),
    shell:
        "exec python -m {params.module} --spec {input.spec}"
        " --lock {input.lock}"
        " --threads {threads} --out {output.manifest} > {log} 2>&1"


rule figures:
    input:
        code="selfcontrast/steps/figures.py",
        lib=[
            "selfcontrast/plotting.py",
            "selfcontrast/diagnostic_plots.py",
            "selfcontrast/metric_names.py",
            "selfcontrast/metrics/_shown.py",
            "selfcontrast/proxy_plots.py",
        ],
        spec="<results>/summary/spec.json",
        tables=rules.tables.output.manifest,
    output:
        manifest="<results>/figures/{figure}/manifest.json",
        pdf="<results>/figures/{figure}/{figure}.pdf",
        svg=report(
            "<results>/figures/{figure}/{figure}.svg",
            caption="../report/figures.rst",
            category="Figures",
            labels={"figure": "{figure}"},
        ),
        run="<results>/figures/{figure}/run.json",
    log:
        "<logs>/figures/{figure}/figures.log",
    benchmark:
        "<benchmarks>/figures/{figure}/figures.jsonl"
    conda:
        "../envs/base.yaml"
    resources:
        mem_mb=grow(2_000),
        runtime=30,
    params:
        module=as_py_module(input.code),
    shell:
        "exec python -m {params.module} --spec {input.spec}"
        " --tables {input.tables} --figure {wildcards.figure}"
        " --threads {threads} --out {output.manifest} > {log} 2>&1"


rule cost:
    input:
        code="selfcontrast/steps/cost.py",
        spec="<results>/summary/spec.json",
        tables=rules.tables.output.manifest,
    output:
        manifest="<results>/cost/manifest.json",
        table=report(
            "<results>/cost/cost.tsv",
            caption="../report/cost.rst",
            category="Cost",
            labels={"what": "every stage"},
        ),
        ledger=report(
            "<results>/cost/ledger.tsv",
            caption="../report/ledger.rst",
            category="Cost",
            labels={"what": "plan and fact"},
        ),
        run="<results>/cost/run.json",
    log:
        "<logs>/cost/cost.log",
    benchmark:
        "<benchmarks>/cost/cost.jsonl"
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


rule report:
    input:
        code="selfcontrast/steps/report.py",
        lib=report_files,
        spec="<results>/summary/spec.json",
        tables=rules.tables.output.manifest,
        cost=rules.cost.output.manifest,
        figures=expand(rules.figures.output.manifest, figure=FIGURES),
        shown=shown_files,
        judges=expand(rules.judge.output.manifest, judge=cfg.evaluation.judges),
        citation="CITATION.cff",
    output:
        manifest="<results>/report/manifest.json",
        html=report(
            "<results>/report.html",
            caption="../report/report.rst",
            category="Report",
            labels={"what": "everything on one page"},
        ),
        run="<results>/report/run.json",
    log:
        "<logs>/report/report.log",
    benchmark:
        "<benchmarks>/report/report.jsonl"
    conda:
        "../envs/base.yaml"
    resources:
        mem_mb=grow(2_000),
        runtime=30,
    params:
        module=as_py_module(input.code),
    shell:
        "exec python -m {params.module} --spec {input.spec}"
        " --tables {input.tables} --cost {input.cost} --figures {input.figures} --citation {input.citation}"
        " --threads {threads} --out {output.manifest} > {log} 2>&1"
