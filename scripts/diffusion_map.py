"""diffusion_map: eigenpairs of the random walk."""

from heatwalk.affinity import Affinity
from heatwalk.diffusion_map import diffusion_map
from heatwalk.program import run


def main(job):
    affinity, draft = Affinity(**job.read("affinity")), job.create()
    diffusion_map(affinity, **job.options, **job.limits(draft), memory=job.memory, seed=job.seed, out=draft)
    job.publish(draft)


if __name__ == "__main__":
    run(main)
