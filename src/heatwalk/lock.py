"""One at a time: a lock file that names its holder, and that the kernel frees when its holder dies."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from heatwalk.errors import Locked, Problem


@contextlib.contextmanager
def hold(path: Path, code: str, where: str, doing: str) -> Iterator[None]:
    """Hold the lock file `path`, or raise Locked that names who holds it: "process 17 on node3 is `doing`"."""
    import fcntl
    import socket

    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(descriptor, 200).decode(errors="replace").strip() or "another process"
            remedy = "wait until it ends, or stop it, and run again"
            raise Locked(Problem(code, where, f"{holder} is {doing}", remedy)) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
