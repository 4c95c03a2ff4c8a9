"""affinity: the symmetric kernel on the neighbour graph."""

from heatwalk.affinity import affinity
from heatwalk.neighbors import Neighbors
from heatwalk.program import run


def main(job):
    points, neighbors, draft = job.read("pca")["coordinates"], Neighbors(**job.read("neighbors")), job.create()
    affinity(points, neighbors, **job.options, **job.limits(draft), out=draft)
    job.publish(draft)


if __name__ == "__main__":
    run(main)
