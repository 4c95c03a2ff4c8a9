rule neighbors:
    input:
        pca="results/{dataset}/pca/manifest.json",
    output:
        update("results/{dataset}/neighbors/manifest.json"),
    log:
        "logs/{dataset}/neighbors.log",
    benchmark:
        "logs/{dataset}/neighbors.benchmark.tsv"
    conda:
        "../../envs/base.yaml"
    threads: heatwalk.threads
    resources:
        mem_mb=heatwalk.memory // 10**6,
    params:
        options=heatwalk.options("neighbors"),
        code=heatwalk.code("neighbors"),
        block_cells=heatwalk.block_cells,
        seed=heatwalk.seed,
    shell:
        heatwalk.command("neighbors", "pca") + " --seed {params.seed}"


rule affinity:
    input:
        pca="results/{dataset}/pca/manifest.json",
        neighbors="results/{dataset}/neighbors/manifest.json",
    output:
        update("results/{dataset}/affinity/manifest.json"),
    log:
        "logs/{dataset}/affinity.log",
    benchmark:
        "logs/{dataset}/affinity.benchmark.tsv"
    conda:
        "../../envs/base.yaml"
    threads: 1
    resources:
        mem_mb=heatwalk.memory // 10**6,
    params:
        options=heatwalk.options("affinity"),
        code=heatwalk.code("affinity"),
        block_cells=heatwalk.block_cells,
    shell:
        heatwalk.command("affinity", "pca", "neighbors")


rule diffusion_map:
    input:
        affinity="results/{dataset}/affinity/manifest.json",
    output:
        update("results/{dataset}/diffusion_map/manifest.json"),
    log:
        "logs/{dataset}/diffusion_map.log",
    benchmark:
        "logs/{dataset}/diffusion_map.benchmark.tsv"
    conda:
        "../../envs/base.yaml"
    threads: 1
    resources:
        mem_mb=heatwalk.memory // 10**6,
    params:
        options=heatwalk.options("diffusion_map"),
        code=heatwalk.code("diffusion_map"),
        block_cells=heatwalk.block_cells,
        seed=heatwalk.seed,
    shell:
        heatwalk.command("diffusion_map", "affinity") + " --seed {params.seed}"
