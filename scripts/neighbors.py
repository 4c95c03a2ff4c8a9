"""neighbors: the nearest cells of every cell."""

from heatwalk.neighbors import neighbors
from heatwalk.program import run


def main(job):
    points, draft = job.read("pca")["coordinates"], job.create()
    neighbors(points, **job.options, **job.limits(draft), seed=job.seed, device=job.device, out=draft)
    job.publish(draft)


if __name__ == "__main__":
    run(main)
