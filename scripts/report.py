"""report: one HTML page with the pictures and the evidence."""

from heatwalk.program import run
from heatwalk.report import report


def main(job):
    results, draft = {stage: job.read(stage) for stage in job.inputs}, job.create()
    report(results, draft.file("report.html"), dataset=job.dataset, **job.options, reference=job.borrow())
    job.publish(draft, files={"report.html": draft.file("report.html")})


if __name__ == "__main__":
    run(main)
