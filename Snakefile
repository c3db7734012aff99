from snakemake.utils import min_version

min_version("9.20")


include: "rules/common.smk"
include: "rules/inputs.smk"
include: "rules/inputs_evaluation.smk"
include: "rules/machine.smk"
include: "rules/run.smk"


pathvars:
    results=f"results/{cfg.name}",
    logs="<results>/logs",
    benchmarks="<results>/benchmarks",


report: "report/workflow.rst"


include: "rules/spec.smk"
include: "rules/data.smk"
include: "rules/sft.smk"
include: "rules/pool.smk"
include: "rules/reward.smk"
include: "rules/groups.smk"
include: "rules/diagnose.smk"
include: "rules/train.smk"
include: "rules/evaluate.smk"
include: "rules/judge.smk"
include: "rules/harness.smk"
include: "rules/summary.smk"


rule all:
    default_target: True
    input:
        rules.tables.output.manifest,
        expand(rules.figures.output.manifest, figure=FIGURES),
        rules.cost.output.manifest,
        rules.report.output.manifest,
    localrule: True
