"""How a command ends: the lines of what went wrong on standard error, and its exit code."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from heatwalk.errors import HeatwalkError
from heatwalk.program import explain


@contextmanager
def explained() -> Iterator[None]:
    """A failure within the block is printed as its lines, and ends the command with its exit code."""
    try:
        yield
    except HeatwalkError as error:
        end(error)
    except OSError as error:
        end(explain(error, Path("results")))


def end(outcome: HeatwalkError | int) -> None:
    if isinstance(outcome, HeatwalkError):
        click.echo("\n".join(map(str, outcome.problems)), err=True)
        sys.exit(outcome.exit_code)
    sys.exit(outcome)
