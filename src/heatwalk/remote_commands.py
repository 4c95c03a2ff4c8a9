"""The commands for object stores: publish, fetch."""

from pathlib import Path

import click

from heatwalk.ending import explained
from heatwalk.errors import BadInput, Problem


@click.command()
@click.argument("url")
@click.argument("path", type=click.Path(path_type=Path), default=Path("results"))
def publish(url: str, path: Path) -> None:
    """Copy every result at or under PATH (default: results) to URL (s3://BUCKET/FOLDER), each with its manifest last.

    What stands there already is not sent again. The option `publish` of the config does the same after every run.
    """
    from heatwalk import remote_store, store

    with explained():
        _refuse(url)
        folders = store.results_under(path) if path.exists() else []
        if not folders:
            raise BadInput(Problem("HW-ST-006", f"{path}", "there are no results here", "name a results folder"))
        written = remote_store.publish_all(folders, folders[0].parents[1], url)
    click.echo(f"{url}: {written} of {len(folders)} results written, the others stood there")


@click.command()
@click.argument("url")
@click.argument("path", type=click.Path(path_type=Path), default=Path("results"))
def fetch(url: str, path: Path) -> None:
    """Bring every result at or below URL (s3://BUCKET/FOLDER) to PATH (default: results), verified."""
    from heatwalk import remote_store
    from heatwalk.config import STAGES

    order = {stage: place for place, stage in enumerate(STAGES)}
    with explained():
        _refuse(url)
        brought = remote_store.fetch_all(url, path, lambda stage: order.get(stage, len(order)))
    click.echo(f"{path}: {brought} results fetched")


def _refuse(url: str) -> None:
    from heatwalk.remote import is_remote

    if not is_remote(url):
        raise BadInput(Problem("HW-RM-003", url, "is no address of an object store", "write s3://BUCKET/FOLDER"))
