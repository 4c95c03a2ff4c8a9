"""pseudotime: time from the roots, branches, and the genes along it."""

from heatwalk.affinity import Affinity
from heatwalk.cells import Cells
from heatwalk.program import run
from heatwalk.pseudotime import map_of, pseudotime


def main(job):
    results, draft = {stage: job.read(stage) for stage in job.inputs}, job.create()
    cells, affinity = Cells(**results["cells"]), Affinity(**results["affinity"])
    limits = {"threads": job.threads, "block_cells": job.block_cells}
    pseudotime(map_of(results), affinity, cells, **job.options, **limits, out=draft)
    job.publish(draft)


if __name__ == "__main__":
    run(main)
