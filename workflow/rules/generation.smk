rule particles:
    input:
        unpack(heatwalk_rules.inputs("particles")),
    output:
        update("results/{dataset}/particles/manifest.json"),
    log:
        "logs/{dataset}/particles.log",
    benchmark:
        "logs/{dataset}/particles.benchmark.tsv"
    group:
        heatwalk_rules.group("particles")
    conda:
        "../../envs/base.yaml"
    threads: heatwalk_rules.threads
    resources:
        **heatwalk_rules.resources("particles"),
    params:
        options=heatwalk_rules.options_of("particles"),
        code=heatwalk_rules.code("particles"),
        request=heatwalk_rules.request("particles"),
        block_cells=heatwalk_rules.block_cells,
        seed=heatwalk_rules.seed,
    shell:
        heatwalk_rules.command("particles") + " --seed {params.seed}"


rule random_walk:
    input:
        unpack(heatwalk_rules.inputs("random_walk")),
    output:
        update("results/{dataset}/random_walk/manifest.json"),
    log:
        "logs/{dataset}/random_walk.log",
    benchmark:
        "logs/{dataset}/random_walk.benchmark.tsv"
    group:
        heatwalk_rules.group("random_walk")
    conda:
        "../../envs/neural.yaml"
    threads: heatwalk_rules.threads
    resources:
        **heatwalk_rules.resources("random_walk"),
    params:
        options=heatwalk_rules.options_of("random_walk"),
        code=heatwalk_rules.code("random_walk"),
        request=heatwalk_rules.request("random_walk"),
        block_cells=heatwalk_rules.block_cells,
        seed=heatwalk_rules.seed,
    shell:
        heatwalk_rules.command("random_walk") + " --seed {params.seed}"


rule riemannian_diffusion:
    input:
        unpack(heatwalk_rules.inputs("riemannian_diffusion")),
    output:
        update("results/{dataset}/riemannian_diffusion/manifest.json"),
    log:
        "logs/{dataset}/riemannian_diffusion.log",
    benchmark:
        "logs/{dataset}/riemannian_diffusion.benchmark.tsv"
    group:
        heatwalk_rules.group("riemannian_diffusion")
    conda:
        "../../envs/neural.yaml"
    threads: heatwalk_rules.threads
    resources:
        **heatwalk_rules.resources("riemannian_diffusion"),
    params:
        options=heatwalk_rules.options_of("riemannian_diffusion"),
        code=heatwalk_rules.code("riemannian_diffusion"),
        request=heatwalk_rules.request("riemannian_diffusion"),
        block_cells=heatwalk_rules.block_cells,
        seed=heatwalk_rules.seed,
    shell:
        heatwalk_rules.command("riemannian_diffusion") + " --seed {params.seed}"


rule generation_metrics:
    input:
        unpack(heatwalk_rules.inputs("generation_metrics")),
    output:
        update("results/{dataset}/generation_metrics/manifest.json"),
    log:
        "logs/{dataset}/generation_metrics.log",
    benchmark:
        "logs/{dataset}/generation_metrics.benchmark.tsv"
    group:
        heatwalk_rules.group("generation_metrics")
    conda:
        "../../envs/base.yaml"
    threads: heatwalk_rules.threads
    resources:
        **heatwalk_rules.resources("generation_metrics"),
    params:
        options=heatwalk_rules.options_of("generation_metrics"),
        code=heatwalk_rules.code("generation_metrics"),
        request=heatwalk_rules.request("generation_metrics"),
        block_cells=heatwalk_rules.block_cells,
        seed=heatwalk_rules.seed,
    shell:
        heatwalk_rules.command("generation_metrics") + " --seed {params.seed}"
