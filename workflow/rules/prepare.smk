rule cells:
    input:
        unpack(heatwalk_rules.inputs("cells")),
        source=heatwalk_rules.source_files,
    output:
        update("results/{dataset}/cells/manifest.json"),
    log:
        "logs/{dataset}/cells.log",
    benchmark:
        "logs/{dataset}/cells.benchmark.tsv"
    group:
        heatwalk_rules.group("cells")
    conda:
        "../../envs/base.yaml"
    threads: 1
    resources:
        **heatwalk_rules.resources("cells"),
    params:
        options=heatwalk_rules.options_of("cells"),
        code=heatwalk_rules.code("cells"),
        request=heatwalk_rules.request("cells"),
        block_cells=heatwalk_rules.block_cells,
        seed=heatwalk_rules.seed,
        source=heatwalk_rules.source,
        fingerprint=heatwalk_rules.fingerprint,
    shell:
        heatwalk_rules.command("cells")
        + " --seed {params.seed} --source {params.source:q} --fingerprint={params.fingerprint:q} {resources.places}"


rule pca:
    input:
        unpack(heatwalk_rules.inputs("pca")),
    output:
        update("results/{dataset}/pca/manifest.json"),
    log:
        "logs/{dataset}/pca.log",
    benchmark:
        "logs/{dataset}/pca.benchmark.tsv"
    group:
        heatwalk_rules.group("pca")
    conda:
        "../../envs/base.yaml"
    threads: heatwalk_rules.threads
    resources:
        **heatwalk_rules.resources("pca"),
    params:
        options=heatwalk_rules.options_of("pca"),
        code=heatwalk_rules.code("pca"),
        request=heatwalk_rules.request("pca"),
        block_cells=heatwalk_rules.block_cells,
    shell:
        heatwalk_rules.command("pca")
