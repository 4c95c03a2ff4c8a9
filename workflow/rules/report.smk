rule atlas:
    input:
        unpack(heatwalk_rules.inputs("atlas")),
    output:
        update("results/{dataset}/atlas/manifest.json"),
    log:
        "logs/{dataset}/atlas.log",
    benchmark:
        "logs/{dataset}/atlas.benchmark.tsv"
    group:
        heatwalk_rules.group("atlas")
    conda:
        "../../envs/base.yaml"
    threads: 1
    resources:
        **heatwalk_rules.resources("atlas"),
    params:
        options=heatwalk_rules.options_of("atlas"),
        code=heatwalk_rules.code("atlas"),
        request=heatwalk_rules.request("atlas"),
        block_cells=heatwalk_rules.block_cells,
    shell:
        heatwalk_rules.command("atlas")


rule report:
    input:
        unpack(heatwalk_rules.inputs("report")),
    output:
        update("results/{dataset}/report/manifest.json"),
    log:
        "logs/{dataset}/report.log",
    benchmark:
        "logs/{dataset}/report.benchmark.tsv"
    group:
        heatwalk_rules.group("report")
    conda:
        "../../envs/base.yaml"
    threads: 1
    resources:
        **heatwalk_rules.resources("report"),
    params:
        options=heatwalk_rules.options_of("report"),
        code=heatwalk_rules.code("report"),
        request=heatwalk_rules.request("report"),
        block_cells=heatwalk_rules.block_cells,
    shell:
        heatwalk_rules.command("report")
