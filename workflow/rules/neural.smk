rule deep_diffusion_map:
    input:
        pca="results/{dataset}/pca/manifest.json",
        affinity="results/{dataset}/affinity/manifest.json",
    output:
        update("results/{dataset}/deep_diffusion_map/manifest.json"),
    log:
        "logs/{dataset}/deep_diffusion_map.log",
    benchmark:
        "logs/{dataset}/deep_diffusion_map.benchmark.tsv"
    group:
        heatwalk_rules.group("deep_diffusion_map")
    conda:
        "../../envs/neural.yaml"
    threads: heatwalk_rules.threads
    resources:
        **heatwalk_rules.resources("deep_diffusion_map"),
    params:
        options=heatwalk_rules.options_of("deep_diffusion_map"),
        code=heatwalk_rules.code("deep_diffusion_map"),
        request=heatwalk_rules.request("deep_diffusion_map"),
        block_cells=heatwalk_rules.block_cells,
        seed=heatwalk_rules.seed,
    shell:
        heatwalk_rules.command("deep_diffusion_map") + " --seed {params.seed}"


rule extension:
    input:
        unpack(heatwalk_rules.inputs("extension")),
    output:
        update("results/{dataset}/extension/manifest.json"),
    log:
        "logs/{dataset}/extension.log",
    benchmark:
        "logs/{dataset}/extension.benchmark.tsv"
    group:
        heatwalk_rules.group("extension")
    conda:
        "../../envs/neural.yaml"
    threads: heatwalk_rules.threads
    resources:
        **heatwalk_rules.resources("extension"),
    params:
        options=heatwalk_rules.options_of("extension"),
        code=heatwalk_rules.code("extension"),
        request=heatwalk_rules.request("extension"),
        block_cells=heatwalk_rules.block_cells,
        seed=heatwalk_rules.seed,
    shell:
        heatwalk_rules.command("extension") + " --seed {params.seed}"
