"""pca: coordinates of every cell in a linear representation."""

from heatwalk.cells import Cells
from heatwalk.pca import pca
from heatwalk.program import run


def main(job):
    cells, draft = job.read("cells"), job.create()
    limits = {"memory": job.memory, "threads": job.threads, "block_cells": job.block_cells}
    pca(Cells(**cells), cells.manifest["parameters"]["kind"], **job.options, **limits, out=draft)
    job.publish(draft)


if __name__ == "__main__":
    run(main)
