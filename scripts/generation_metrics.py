"""generation_metrics: a generator's points beside held-out cells."""

from heatwalk.cells import Cells
from heatwalk.generation_metrics import measured
from heatwalk.program import run


def main(job):
    results, draft = {stage: job.read(stage) for stage in job.inputs}, job.create()
    given = results, results["pca"]["coordinates"], Cells(**results["cells"])
    measured(*given, job.options, draft, threads=job.threads, seed=job.seed)
    job.publish(draft)


if __name__ == "__main__":
    run(main)
