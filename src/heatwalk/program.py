"""The frame of every stage program: arguments, lock, log, progress, `run.json`, and the exit code of a failure.

Exit codes: 0 published, 1 a defect, 2 bad input, 3 locked, 4 resources. On failure the explanation goes to standard
error, to the log and to `results/.work/{dataset}/{stage}.failure.json`, and nothing is published.
"""

import argparse
import errno
import json
import logging
import mmap
import os
import platform
import re
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from heatwalk import forecast, progress, store
from heatwalk.draft import Draft
from heatwalk.errors import HeatwalkError, Locked, OutOfResources, Problem
from heatwalk.remote import is_remote

_VERSIONS = ("heatwalk", "numpy", "scipy", "zarr", "anndata", "dask", "faiss-cpu", "numba", "snakemake")
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_WRITE = {errno.EROFS, errno.EACCES, errno.EPERM}
_RESERVE = 2**24  # bytes of address space, never touched, for what has to be done after a failure
# What allocators, thread pools and the loader of libraries say, which raise no MemoryError.
_MEMORY_WORDS = (
    "can't allocate memory", "cannot allocate memory", "out of memory", "not enough memory", "std::bad_alloc",
    "can't start new thread", "failed to map segment",
)  # fmt: skip
# What follows the first stage does not change what it needs itself.
_FIRST_STAGE = {
    "pca": {"n_components": "auto", "use_rep": ""},
    "neighbors": {"n_neighbors": 1},
    "diffusion_map": {"n_components": 1, "landmarks": 0},
    "deep_diffusion_map": {"prototypes": 1},
    "particles": {"n_particles": 1, "landmarks": 1},
    "random_walk": {"n_points": 1, "epochs": 1},
    "riemannian_diffusion": {"n_points": 1, "epochs": 1, "prototypes": 1},
    "generation_metrics": {"pairs": 1, "most": 1},
}


class Job:
    """What a stage program was asked for, and the verbs it needs: read, create, publish."""

    def __init__(self, arguments: argparse.Namespace):
        self.folder, self.stage = arguments.result, arguments.result.name
        self.dataset = arguments.result.parent.name
        self.options, self.source = arguments.options, arguments.source
        self.parameters = {**self.options, **self.source}
        self.places = {"base": arguments.base, "roots": arguments.root}
        self.seed, self.threads, self.memory = arguments.seed, arguments.threads, arguments.memory
        self.block_cells, self.code, self.scheduler = arguments.block_cells, arguments.code, arguments.scheduler
        self.device = arguments.device
        own = {folder: folder.parent.name == self.dataset for folder in arguments.inputs}
        self.inputs: dict[str, Path] = {folder.name: folder for folder in own if own[folder]}
        self.lent: dict[str, Path] = {folder.name: folder for folder in own if not own[folder]}
        self.roots: dict[str, str] = {}
        self.results: dict[str, store.Result] = {}
        self.borrowed: dict[str, store.Result] = {}
        self.kept = {"request": arguments.request, "fingerprint": arguments.fingerprint}
        self.started = time.time()

    def read(self, stage: str) -> store.Result:
        """The verified result of an earlier stage; its root hash is recorded in what is published."""
        result = store.read(self.inputs[stage])
        self.roots[stage], self.results[stage] = result.root, result
        return result

    def borrow(self) -> dict[str, store.Result]:
        """The verified results of a query's reference; none of a dataset that is no query."""
        for stage, folder in self.lent.items():
            self.borrowed[stage] = store.read(folder)
            self.roots[f"{folder.parent.name}/{stage}"] = self.borrowed[stage].root
        return self.borrowed

    def reference(self, kind: type):
        """A query's reference as the result type of its stage; None of a dataset that is no query."""
        results = self.borrow()
        stage = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__).lower()
        return kind(**results[stage]) if results else None

    def create(self, source=None) -> Draft:
        """A draft of the result, unless what the stage will need is more than it may use.

        source: the opened input of the first stage, which has no earlier results to tell its size.
        """
        if source is None:
            size = forecast.of_results(self.results, self.options, self.borrowed)
        else:
            size = forecast.of_source(source, self.source["kind"], {"cells": self.options, **_FIRST_STAGE})
        if size:
            limits = {"threads": self.threads, "memory": self.memory, "block_cells": self.block_cells}
            size = size._replace(device=self.device, scheduler=self.scheduler)
            need = forecast.forecast(self.stage, size, **limits)
            self.kept["predicted"] = need._asdict()
            forecast.refuse(self.stage, need, self.memory, f"{self.folder}")
            forecast.refuse_limit(self.stage, f"{self.folder}", need.memory)
        return store.create(self.folder, self.stage, block_cells=self.block_cells)

    def limits(self, draft: Draft) -> dict:
        """Who computes, how much at a time, and where what does not fit memory is kept."""
        who = {"threads": self.threads, "scheduler": self.scheduler}
        return {**who, "block_cells": self.block_cells, "scratch": draft.scratch}

    @property
    def checkpoint(self) -> Path:
        """Where training keeps its state, beside the unfinished work: a run that was killed goes on from there."""
        return store.work_folder(self.folder).with_suffix(".checkpoint")

    @property
    def provenance(self) -> dict:
        """What a result is made from and by: parameters, hash of the code, root hashes of the inputs."""
        parameters = {**self.parameters, "seed": self.seed, "block_cells": self.block_cells}
        return {"parameters": parameters, "code": self.code, "inputs": self.roots}

    def publish(self, draft: Draft, files: Mapping[str, Path] | None = None, link: str = "") -> None:
        made = store.publish(draft, **self.provenance, files=files, link=link)
        progress.log.info("%s of %s: published, root hash %s", self.stage, self.dataset, made["root"])


def run(main: Callable[[Job], None]) -> None:
    """Parse the command line, run a stage under its lock, and end with the exit code of what happened."""
    die_with_parent()
    arguments, job = _parser().parse_args(), None
    reserve = mmap.mmap(-1, _RESERVE)
    failure = store.work_folder(arguments.result).with_suffix(".failure.json")
    try:
        notes = _log_to(arguments.log)
        failure.unlink(missing_ok=True)
        with store.lock(arguments.result), progress.shown():
            job = Job(arguments)
            forecast.refuse_limit(job.stage, f"{job.folder}")
            progress.log.info("%s of %s: started on %d threads", job.stage, job.dataset, job.threads)
            main(job)
            _record_run(job, notes)
    except Exception as error:
        reserve.close()  # where memory has run out even a folder cannot be listed
        explained = explain(error, arguments.result, job.kept.get("predicted") if job else None)
        logging.getLogger("heatwalk").debug("%s", "".join(traceback.format_exception(error)))
        print(*explained.problems, sep="\n", file=sys.stderr, flush=True)
        progress.log.error("%s", explained)
        if explained.exit_code != Locked.exit_code:  # what the holder of the lock is making is not ours to remove
            _remove(store.work_folder(arguments.result))
        _record_failure(failure, explained)
        sys.exit(explained.exit_code)


def _remove(folder: Path) -> None:
    """Remove unfinished work, also while threads that have not heard of the failure still write to it."""
    for _ in range(20):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.05)


def explain(error: Exception, folder: Path, need: Mapping | None = None) -> HeatwalkError:
    """A failure as heatwalk says it: one line with the cause, the number and what to type.

    need: what the stage was foreseen to need, where that is known.
    """
    if isinstance(error, HeatwalkError):
        # Stages know options and arrays, not which dataset they work on.
        named = ("HW-IN", "HW-ST", "HW-LK", "HW-RS", "HW-RM", "HW-00")
        problems = (
            problem if problem.code.startswith(named) else problem._replace(where=f"{folder}: {problem.where}")
            for problem in error.problems
        )
        return type(error)(*problems)
    if _is_of_memory(error):
        numbers = _numbers(need and need["memory"], _available_memory(), "available")
        cause = f"memory ran out ({error or 'no details'}); {numbers}"
        remedy = "free memory, or lower `block_cells`, then type: heatwalk resume"
        return OutOfResources(Problem("HW-RS-001", f"{folder}", cause, remedy))
    if isinstance(error, OSError) and error.errno in _NO_SPACE | _NO_WRITE:
        if error.errno in _NO_SPACE:
            free = shutil.disk_usage(_existing(store.work_folder(folder))).free
            cause = f"the disk is full ({error}); {_numbers(need and need['result'] + need['scratch'], free, 'free')}"
            problem = Problem("HW-RS-002", f"{folder}", cause, "free disk space, then type: heatwalk resume")
        else:
            problem = Problem("HW-RS-003", f"{folder}", f"cannot be written ({error})", "make it writable, then resume")
        return OutOfResources(problem)
    cause = f"{type(error).__name__}: {error}"
    remedy = "this is a defect of heatwalk: please report it with the log"
    return HeatwalkError(Problem("HW-00-000", f"{folder}", cause, remedy))


def _is_of_memory(error: BaseException | None) -> bool:
    """Libraries tell a lack of memory in their own ways: also as the cause of an error of another name."""
    while error is not None:
        words = str(error).lower()
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
            return True
        if isinstance(error, RuntimeError | ImportError | OSError) and any(each in words for each in _MEMORY_WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False


def _numbers(needed: float | None, available: float, word: str) -> str:
    wanted = f"about {max(needed, 1e6) / 1e6:,.0f} MB are needed, " if needed else ""
    return f"{wanted}{available / 1e6:,.0f} MB are {word}"


def _available_memory() -> float:
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return free if limit == resource.RLIM_INFINITY else min(free, limit)


def _existing(path: Path) -> Path:
    return next(parent for parent in (path, *path.resolve().parents) if parent.exists())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="One stage of the heatwalk workflow; called by its rule.")
    parser.add_argument("--result", type=_folder, required=True, help="results/DATASET/STAGE/manifest.json to publish")
    parser.add_argument("--inputs", type=_folder, nargs="*", default=[], help="manifests of earlier stages")
    parser.add_argument("--options", type=json.loads, default={}, help="options of the stage, JSON")
    parser.add_argument("--source", type=json.loads, default={}, help="row of datasets.tsv, JSON")
    parser.add_argument("--base", type=Path, default=Path(), help="folder that a relative source is in")
    parser.add_argument("--root", type=_root, action="append", default=[], help="folder that sources may be in")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--scheduler", default="threads", help="threads, processes, or the address of a Dask scheduler")
    parser.add_argument("--device", default="cpu", help="cpu or cuda, to search neighbours and to train")
    parser.add_argument("--memory", type=int, default=4 * 2**30, help="bytes the stage may use")
    parser.add_argument("--block-cells", type=int, required=True, help="rows of a block and of a Zarr chunk")
    parser.add_argument("--code", default="", help="hash of the code of the stage")
    parser.add_argument("--request", default="", help="what the run was started for, kept in run.json")
    parser.add_argument("--fingerprint", default="", help="state of the source, kept in run.json")
    parser.add_argument("--log", type=Path, help="file for plain lines")
    return parser


def _root(text: str) -> Path | str:
    return text if is_remote(text) else Path(text)


def _folder(text: str) -> Path:
    # Snakemake tracks the manifest; the result is its folder.
    return Path(text).parent if Path(text).name == "manifest.json" else Path(text)


class _Notes(logging.Handler):
    """Keeps the warnings of a run, for the report."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


class _Lines(logging.FileHandler):
    """The log. A line that a full disk does not take is lost without a traceback: the failure itself is said."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


def _log_to(path: Path | None) -> list[str]:
    logger, notes = logging.getLogger("heatwalk"), _Notes()
    logger.setLevel(logging.DEBUG)
    logger.addHandler(notes)
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = _Lines(path, mode="w", encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        logger.addHandler(handler)
    return notes.lines


def _record_run(job: Job, notes: list[str]) -> None:
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) * 1024
    record = {
        "seconds": round(time.time() - job.started, 3),
        "peak_memory_bytes": peak,
        "threads": job.threads,
        "started": datetime.fromtimestamp(job.started, UTC).isoformat(timespec="seconds"),
        "host": platform.node(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _VERSIONS}},
        "notes": notes,
        **job.kept,
    }
    try:
        store.replace_file(job.folder / "run.json", json.dumps(record, indent=1).encode())
    except OSError as error:  # the result is published; what is lost is its time and memory
        progress.log.warning("run.json could not be written (%s)", error)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _record_failure(path: Path, error: HeatwalkError) -> None:
    content = {
        "exit_code": error.exit_code,
        "time_ns": time.time_ns(),
        "lines": [str(problem) for problem in error.problems],
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        store.replace_file(path, json.dumps(content).encode())
    except OSError:  # a full or read-only disk: the line is on standard error already
        progress.log.debug("the failure could not be recorded in %s", path)


def die_with_parent() -> None:
    """Ask Linux to end this process with the workflow that started it: an orphan would go on writing."""
    if sys.platform != "linux":
        return
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    # A workflow that was killed while this program was being loaded sends no signal any more.
    starter, _, names = os.environ.get("HEATWALK_STARTER", "").partition(" ")
    if starter and names == process_names() and not Path("/proc", starter).exists():
        sys.exit(f"process {starter}, which started this program, is gone")


def process_names() -> str:
    """Within what the number of a process has a meaning: a container may have its own, another node has others."""
    try:
        return os.readlink("/proc/self/ns/pid") + Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
