"""atlas: everything in one AnnData."""

from heatwalk.atlas import atlas
from heatwalk.program import run


def main(job):
    results, draft = {stage: job.read(stage) for stage in job.inputs}, job.create()
    made = atlas(results, draft.group, draft.file("atlas.h5ad"), **job.options, block_cells=job.block_cells)
    job.publish(draft, files={"atlas.h5ad": made.h5ad} if made.h5ad else {}, link="atlas.zarr")


if __name__ == "__main__":
    run(main)
