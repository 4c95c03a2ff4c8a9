rule atlas:
    input:
        cells="results/{dataset}/cells/manifest.json",
        pca="results/{dataset}/pca/manifest.json",
        neighbors="results/{dataset}/neighbors/manifest.json",
        affinity="results/{dataset}/affinity/manifest.json",
        diffusion_map="results/{dataset}/diffusion_map/manifest.json",
    output:
        update("results/{dataset}/atlas/manifest.json"),
    log:
        "logs/{dataset}/atlas.log",
    benchmark:
        "logs/{dataset}/atlas.benchmark.tsv"
    conda:
        "../../envs/base.yaml"
    threads: 1
    resources:
        mem_mb=heatwalk_rules.memory // 10**6,
        home=heatwalk_rules.home,
        python=heatwalk_rules.python,
    params:
        options=heatwalk_rules.options_of("atlas"),
        code=heatwalk_rules.code("atlas"),
        request=heatwalk_rules.request("atlas"),
        block_cells=heatwalk_rules.block_cells,
    shell:
        heatwalk_rules.command(
            "atlas", "cells", "pca", "neighbors", "affinity", "diffusion_map"
        )


rule report:
    input:
        cells="results/{dataset}/cells/manifest.json",
        pca="results/{dataset}/pca/manifest.json",
        neighbors="results/{dataset}/neighbors/manifest.json",
        affinity="results/{dataset}/affinity/manifest.json",
        diffusion_map="results/{dataset}/diffusion_map/manifest.json",
        atlas="results/{dataset}/atlas/manifest.json",
    output:
        update("results/{dataset}/report/manifest.json"),
    log:
        "logs/{dataset}/report.log",
    benchmark:
        "logs/{dataset}/report.benchmark.tsv"
    conda:
        "../../envs/base.yaml"
    threads: 1
    resources:
        mem_mb=heatwalk_rules.memory // 10**6,
        home=heatwalk_rules.home,
        python=heatwalk_rules.python,
    params:
        options=heatwalk_rules.options_of("report"),
        code=heatwalk_rules.code("report"),
        request=heatwalk_rules.request("report"),
        block_cells=heatwalk_rules.block_cells,
    shell:
        heatwalk_rules.command(
            "report", "cells", "pca", "neighbors", "affinity", "diffusion_map", "atlas"
        )
