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
    threads: heatwalk_rules.threads
    resources:
        mem_mb=heatwalk_rules.memory // 10**6,
        home=heatwalk_rules.home,
        python=heatwalk_rules.python,
        scheduler=heatwalk_rules.scheduler,
        device=heatwalk_rules.device,
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
    conda:
        "../../envs/base.yaml"
    threads: heatwalk_rules.threads
    resources:
        mem_mb=heatwalk_rules.memory // 10**6,
        home=heatwalk_rules.home,
        python=heatwalk_rules.python,
        scheduler=heatwalk_rules.scheduler,
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
    conda:
        "../../envs/base.yaml"
    threads: heatwalk_rules.threads
    resources:
        mem_mb=heatwalk_rules.memory // 10**6,
        home=heatwalk_rules.home,
        python=heatwalk_rules.python,
        scheduler=heatwalk_rules.scheduler,
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
    conda:
        "../../envs/base.yaml"
    threads: heatwalk_rules.threads
    resources:
        mem_mb=heatwalk_rules.memory // 10**6,
        home=heatwalk_rules.home,
        python=heatwalk_rules.python,
        scheduler=heatwalk_rules.scheduler,
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
    conda:
        "../../envs/base.yaml"
    threads: heatwalk_rules.threads
    resources:
        mem_mb=heatwalk_rules.memory // 10**6,
        home=heatwalk_rules.home,
        python=heatwalk_rules.python,
    params:
        options=heatwalk_rules.options_of("pseudotime"),
        code=heatwalk_rules.code("pseudotime"),
        request=heatwalk_rules.request("pseudotime"),
        block_cells=heatwalk_rules.block_cells,
    shell:
        heatwalk_rules.command("pseudotime")
