"""pca: coordinates of every cell in a linear representation."""

from heatwalk.cells import Cells
from heatwalk.pca import Pca, pca
from heatwalk.program import run


def main(job):
    cells, reference, draft = job.read("cells"), job.reference(Pca), job.create()
    limits = {"memory": job.memory, "threads": job.threads, "block_cells": job.block_cells}
    kind = cells.manifest["parameters"]["kind"]
    pca(Cells(**cells), kind, **job.options, **limits, reference=reference, out=draft)
    job.publish(draft)


if __name__ == "__main__":
    run(main)
