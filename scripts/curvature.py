"""curvature: how every cell's surroundings bend."""

from heatwalk.affinity import Affinity
from heatwalk.cells import Cells
from heatwalk.curvature import curvature
from heatwalk.program import run
from heatwalk.pseudotime import map_of


def main(job):
    results, draft = {stage: job.read(stage) for stage in job.inputs}, job.create()
    given = (results["pca"]["coordinates"], Affinity(**results["affinity"]), map_of(results), Cells(**results["cells"]))
    curvature(*given, **job.options, **job.limits(draft), seed=job.seed, out=draft)
    job.publish(draft)


if __name__ == "__main__":
    run(main)
