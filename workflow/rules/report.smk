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
        mem_mb=heatwalk.memory // 10**6,
    params:
        options=heatwalk.options("atlas"),
        code=heatwalk.code("atlas"),
        block_cells=heatwalk.block_cells,
    shell:
        heatwalk.command(
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
        mem_mb=heatwalk.memory // 10**6,
    params:
        options=heatwalk.options("report"),
        code=heatwalk.code("report"),
        block_cells=heatwalk.block_cells,
    shell:
        heatwalk.command(
            "report", "cells", "pca", "neighbors", "affinity", "diffusion_map", "atlas"
        )
