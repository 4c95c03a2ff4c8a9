rule cells:
    input:
        source=heatwalk.source_files,
    output:
        update("results/{dataset}/cells/manifest.json"),
    log:
        "logs/{dataset}/cells.log",
    benchmark:
        "logs/{dataset}/cells.benchmark.tsv"
    conda:
        "../../envs/base.yaml"
    threads: 1
    resources:
        mem_mb=heatwalk.memory // 10**6,
    params:
        options=heatwalk.options("cells"),
        code=heatwalk.code("cells"),
        block_cells=heatwalk.block_cells,
        seed=heatwalk.seed,
        source=heatwalk.source,
        fingerprint=heatwalk.fingerprint,
    shell:
        heatwalk.command("cells")
        + " --seed {params.seed} --source {params.source:q} {heatwalk.places}"


rule pca:
    input:
        cells="results/{dataset}/cells/manifest.json",
    output:
        update("results/{dataset}/pca/manifest.json"),
    log:
        "logs/{dataset}/pca.log",
    benchmark:
        "logs/{dataset}/pca.benchmark.tsv"
    conda:
        "../../envs/base.yaml"
    threads: heatwalk.threads
    resources:
        mem_mb=heatwalk.memory // 10**6,
    params:
        options=heatwalk.options("pca"),
        code=heatwalk.code("pca"),
        block_cells=heatwalk.block_cells,
    shell:
        heatwalk.command("pca", "cells")
