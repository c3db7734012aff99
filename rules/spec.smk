rule spec:
    output:
        "<results>/{key}/spec.json",
    log:
        "<logs>/{key}/spec.log",
    localrule: True
    conda:
        "../envs/base.yaml"
    params:
        spec=spec_json,
    shell:
        "printf '%s\\n' {params.spec:q} > {output} 2> {log}"
