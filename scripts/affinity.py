"""affinity: the symmetric kernel on the neighbour graph."""

from heatwalk.affinity import affinity
from heatwalk.neighbors import Neighbors
from heatwalk.program import run


def main(job):
    points, neighbors, draft = job.read("pca")["coordinates"], Neighbors(**job.read("neighbors")), job.create()
    limits = {"threads": job.threads, "block_cells": job.block_cells, "scratch": draft.scratch}
    affinity(points, neighbors, **job.options, **limits, out=draft)
    job.publish(draft)


if __name__ == "__main__":
    run(main)
