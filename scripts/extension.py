"""extension: new cells in the map of a reference."""

from heatwalk.extension import Reference, extension
from heatwalk.program import run
from heatwalk.unexplained import Unexplained


def main(job):
    reference, pca = Reference.of(job.borrow()), job.read("pca")
    left, draft = Unexplained.of(pca, job.read("cells")), job.create()
    extension(reference, pca["coordinates"], left, **job.options, **job.limits(draft), seed=job.seed, out=draft)
    job.publish(draft)


if __name__ == "__main__":
    run(main)
