"""particles: new points, and an AnnData of them."""

from heatwalk.cells import Cells
from heatwalk.generated import write
from heatwalk.particles import particles
from heatwalk.pca import Pca
from heatwalk.program import run


def main(job):
    results, draft = {stage: job.read(stage) for stage in job.inputs}, job.create()
    cells, pca = Cells(**results["cells"]), Pca(**results["pca"])
    made = particles(pca.coordinates, cells, pca, **job.options, threads=job.threads, seed=job.seed, out=draft)
    file = write(draft.file("particles.h5ad"), made, results, job.provenance)
    job.publish(draft, files={"particles.h5ad": file})


if __name__ == "__main__":
    run(main)
