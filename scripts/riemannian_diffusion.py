"""riemannian_diffusion: new points on a space, an AnnData of them, and the density of every cell."""

from heatwalk.cells import Cells
from heatwalk.generated import files
from heatwalk.program import run
from heatwalk.riemannian_diffusion import RiemannianDiffusion, riemannian_diffusion


def main(job):
    results, reference = {stage: job.read(stage) for stage in job.inputs}, job.reference(RiemannianDiffusion)
    draft = job.create()
    given = results["pca"]["coordinates"], Cells(**results["cells"]), reference
    how = {"device": job.device, "threads": job.threads, "seed": job.seed, "checkpoint": job.checkpoint, "out": draft}
    made = riemannian_diffusion(*given, **job.options, **how)
    job.publish(draft, files=files(draft, "riemannian_diffusion.h5ad", made, results, job.provenance))


if __name__ == "__main__":
    run(main)
