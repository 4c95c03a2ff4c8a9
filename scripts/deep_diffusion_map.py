"""deep_diffusion_map: a network whose coordinates keep diffusion distances."""

from heatwalk.affinity import Affinity
from heatwalk.deep_diffusion_map import deep_diffusion_map
from heatwalk.program import run


def main(job):
    points, affinity, draft = job.read("pca")["coordinates"], Affinity(**job.read("affinity")), job.create()
    limits = {"threads": job.threads, "block_cells": job.block_cells, "scratch": draft.scratch, "memory": job.memory}
    training = {"seed": job.seed, "checkpoint": job.checkpoint, "device": job.device}
    made = deep_diffusion_map(points, affinity, **job.options, **limits, **training, out=draft)
    files = {"network.safetensors": made.weights, "network.json": made.description}
    job.publish(draft, files={name: draft.write(name, array) for name, array in files.items()})


if __name__ == "__main__":
    run(main)
