rule neighbors:
    input:
        pca="results/{dataset}/pca/manifest.json",
    output:
        update("results/{dataset}/neighbors/manifest.json"),
    log:
        "logs/{dataset}/neighbors.log",
    benchmark:
        "logs/{dataset}/neighbors.benchmark.tsv"
    group:
        heatwalk_rules.group("neighbors")
    conda:
        "../../envs/base.yaml"
    threads: heatwalk_rules.threads
    resources:
        **heatwalk_rules.resources("neighbors"),
    params:
        options=heatwalk_rules.options_of("neighbors"),
        code=heatwalk_rules.code("neighbors"),
        request=heatwalk_rules.request("neighbors"),
        block_cells=heatwalk_rules.block_cells,
        seed=heatwalk_rules.seed,
    shell:
        heatwalk_rules.command("neighbors") + " --seed {params.seed}"


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
    group:
        heatwalk_rules.group("affinity")
    conda:
        "../../envs/base.yaml"
    threads: heatwalk_rules.threads
    resources:
        **heatwalk_rules.resources("affinity"),
    params:
        options=heatwalk_rules.options_of("affinity"),
        code=heatwalk_rules.code("affinity"),
        request=heatwalk_rules.request("affinity"),
        block_cells=heatwalk_rules.block_cells,
    shell:
        heatwalk_rules.command("affinity")


rule diffusion_map:
    input:
        affinity="results/{dataset}/affinity/manifest.json",
    output:
        update("results/{dataset}/diffusion_map/manifest.json"),
    log:
        "logs/{dataset}/diffusion_map.log",
    benchmark:
        "logs/{dataset}/diffusion_map.benchmark.tsv"
    group:
        heatwalk_rules.group("diffusion_map")
    conda:
        "../../envs/base.yaml"
    threads: heatwalk_rules.threads
    resources:
        **heatwalk_rules.resources("diffusion_map"),
    params:
        options=heatwalk_rules.options_of("diffusion_map"),
        code=heatwalk_rules.code("diffusion_map"),
        request=heatwalk_rules.request("diffusion_map"),
        block_cells=heatwalk_rules.block_cells,
        seed=heatwalk_rules.seed,
    shell:
        heatwalk_rules.command("diffusion_map") + " --seed {params.seed}"


rule curvature:
    input:
        unpack(heatwalk_rules.inputs("curvature")),
    output:
        update("results/{dataset}/curvature/manifest.json"),
    log:
        "logs/{dataset}/curvature.log",
    benchmark:
        "logs/{dataset}/curvature.benchmark.tsv"
    group:
        heatwalk_rules.group("curvature")
    conda:
        "../../envs/base.yaml"
    threads: heatwalk_rules.threads
    resources:
        **heatwalk_rules.resources("curvature"),
    params:
        options=heatwalk_rules.options_of("curvature"),
        code=heatwalk_rules.code("curvature"),
        request=heatwalk_rules.request("curvature"),
        block_cells=heatwalk_rules.block_cells,
        seed=heatwalk_rules.seed,
    shell:
        heatwalk_rules.command("curvature") + " --seed {params.seed}"


rule pseudotime:
    input:
        unpack(heatwalk_rules.inputs("pseudotime")),
    output:
        update("results/{dataset}/pseudotime/manifest.json"),
    log:
        "logs/{dataset}/pseudotime.log",
    benchmark:
        "logs/{dataset}/pseudotime.benchmark.tsv"
    group:
        heatwalk_rules.group("pseudotime")
    conda:
        "../../envs/base.yaml"
    threads: heatwalk_rules.threads
    resources:
        **heatwalk_rules.resources("pseudotime"),
    params:
        options=heatwalk_rules.options_of("pseudotime"),
        code=heatwalk_rules.code("pseudotime"),
        request=heatwalk_rules.request("pseudotime"),
        block_cells=heatwalk_rules.block_cells,
    shell:
        heatwalk_rules.command("pseudotime")
