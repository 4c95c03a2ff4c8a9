"""Progress of long work: a bar on a terminal, plain lines in a log, nothing in a library call unless asked for."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

log = logging.getLogger("heatwalk")

_bar = ContextVar("bar", default=None)

_SECONDS_BETWEEN_LINES = 5.0


@contextmanager
def shown() -> Iterator[None]:
    """Within this block `track` draws bars, when standard error is a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        token = _bar.set(bar)
        try:
            yield
        finally:
            _bar.reset(token)


def track(items: Iterable, description: str, total: int) -> Iterator:
    """Yield the items and say how far along they are."""
    bar = _bar.get()
    task = bar.add_task(description, total=total) if bar else None
    last = time.monotonic()
    try:
        for done, item in enumerate(items, start=1):
            yield item
            if bar:
                bar.update(task, completed=done)
            if time.monotonic() - last > _SECONDS_BETWEEN_LINES or done == total > 1:
                last = time.monotonic()
                log.info("%s: %d of %d", description, done, total)
    finally:
        if bar:
            bar.remove_task(task)
