"""cells: validated cells of one source."""

from heatwalk.cells import cells
from heatwalk.inputs import open_input
from heatwalk.program import run


def main(job):
    row = dict(job.source)
    space = row.pop("space")
    with open_input(**row, **job.places, memory=job.memory) as source:
        draft = job.create(source)
        cells(source, row["kind"], space, **job.options, seed=job.seed, block_cells=job.block_cells, out=draft)
        job.publish(draft)


if __name__ == "__main__":
    run(main)
