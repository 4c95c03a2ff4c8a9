"""cells: validated cells of one source."""

from heatwalk.cells import Cells, cells
from heatwalk.inputs import open_input
from heatwalk.program import run


def main(job):
    row = dict(job.source)
    space, _ = row.pop("space"), row.pop("reference")
    options = {**job.options, "seed": job.seed, "block_cells": job.block_cells, "reference": job.reference(Cells)}
    with open_input(**row, **job.places, memory=job.memory) as source:
        draft = job.create(source)
        cells(source, row["kind"], space, **options, out=draft)
        job.publish(draft)


if __name__ == "__main__":
    run(main)
