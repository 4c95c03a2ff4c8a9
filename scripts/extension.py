"""extension: new cells in the map of a reference."""

from heatwalk.extension import Reference, extension
from heatwalk.program import run


def main(job):
    reference, points, draft = Reference.of(job.borrow()), job.read("pca")["coordinates"], job.create()
    extension(reference, points, **job.options, **job.limits(draft), seed=job.seed, out=draft)
    job.publish(draft)


if __name__ == "__main__":
    run(main)
