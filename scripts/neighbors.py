"""neighbors: the nearest cells of every cell."""

from heatwalk.neighbors import neighbors
from heatwalk.program import run


def main(job):
    points, draft = job.read("pca")["coordinates"], job.create()
    limits = {"seed": job.seed, "threads": job.threads, "block_cells": job.block_cells, "scratch": draft.scratch}
    neighbors(points, **job.options, **limits, out=draft)
    job.publish(draft)


if __name__ == "__main__":
    run(main)
