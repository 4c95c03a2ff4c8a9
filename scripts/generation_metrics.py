"""generation_metrics: a generator's points beside held-out cells."""

from heatwalk.cells import Cells
from heatwalk.generation_metrics import beside, generation_metrics
from heatwalk.program import run


def main(job):
    results, draft = {stage: job.read(stage) for stage in job.inputs}, job.create()
    given = beside(results, results["pca"]["coordinates"], Cells(**results["cells"]))
    generation_metrics(*given, **job.options, threads=job.threads, seed=job.seed, out=draft)
    job.publish(draft)


if __name__ == "__main__":
    run(main)
