"""random_walk: new points by walks over the data, an AnnData of them, and the trained walker."""

from heatwalk.cells import Cells
from heatwalk.generated import write
from heatwalk.pca import Pca
from heatwalk.program import run
from heatwalk.random_walk import random_walk


def main(job):
    results, draft = {stage: job.read(stage) for stage in job.inputs}, job.create()
    cells, pca, how = Cells(**results["cells"]), Pca(**results["pca"]), {"checkpoint": job.checkpoint, "out": draft}
    how |= {"device": job.device, "threads": job.threads, "seed": job.seed, **job.options}
    made = random_walk(pca.coordinates, cells, pca, **how)
    files = {"random_walk.h5ad": write(draft.file("random_walk.h5ad"), made, results, job.provenance)}
    job.publish(draft, files=files)


if __name__ == "__main__":
    run(main)
