"""A real Slurm on this machine for the time of a test: its own keys, its own configuration, several nodes of one host.

    python tests/local_slurm.py COMMAND ...      runs a command on a Slurm of two nodes

Nothing outside of its folder is written. It needs Debian's packages slurm-wlm and munge; as root, nodes may have mounts
of their own, so that a node without the environment, and one that does not see a folder, are real.
"""

import contextlib
import ctypes
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

PROGRAMS = ("munged", "munge", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "sinfo", "scontrol", "srun")
ACCOUNTING = ("slurmdbd", "mariadbd", "sacctmgr", "sacct")
INSTALL = "apt-get install --no-install-recommends slurm-wlm munge"
INSTALL_ACCOUNTING = "apt-get install --no-install-recommends slurmdbd mariadb-server-core"
_PLACES = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
_START_SECONDS = 60


class Node(NamedTuple):
    """A node: its partition, what it has, and folders that are empty on it and nowhere else (these need root)."""

    name: str
    partition: str
    cpus: int = 2
    memory: int = 8000  # MB
    hidden: tuple[Path, ...] = ()
    gpu: bool = False  # one, in name


class Slurm(NamedTuple):
    """What runs: `environment` is what Slurm's commands need."""

    folder: Path
    environment: dict[str, str]
    daemons: dict[str, subprocess.Popen]

    def ask(self, *command: str, seconds: float = 30) -> str:
        options = {"capture_output": True, "text": True, "timeout": seconds}
        done = subprocess.run(command, env={**os.environ, **self.environment}, **options)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def jobs(self, *states: str) -> list[list[str]]:
        """Number, state and command of jobs, finished ones included; in the given states alone."""
        lines = self.ask("squeue", "-h", "-t", ",".join(states) or "all", "-o", "%i|%T|%j|%k|%Z").splitlines()
        return [line.split("|") for line in lines]

    def stop(self, daemon: str) -> None:
        _end([self.daemons.pop(daemon)])


def missing(programs: tuple[str, ...] = PROGRAMS, install: str = INSTALL) -> str:
    """Why there can be no Slurm here; nothing where there can."""
    absent = [name for name in programs if not shutil.which(name, path=_PLACES)]
    return f"no {', '.join(absent)} on this machine: {install}" if absent else ""


@contextlib.contextmanager
def slurm(folder: Path, nodes: list[Node], *options: str, account: str = ""):
    """Start munge, the controller and a daemon for every node; stop them all, and every job, at the end.

    account: Slurm keeps accounts, and this is one of this user's; without, it keeps none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    environment = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": os.pathsep.join([str(folder / "bin"), _PLACES])}
    running = Slurm(folder, environment, {})
    port = _free_ports(1)[0]
    keeping = ("AccountingStorageType=accounting_storage/slurmdbd", "AccountingStorageHost=127.0.0.1")
    keeping += (f"AccountingStoragePort={port}", f"AccountingStoragePass={folder}/munge.socket")
    _configure(folder, nodes, (*options, *(keeping if account else ())))
    try:
        _start(running, "munged", *_munged(folder))
        _wait(lambda: (folder / "munge.socket").exists(), "munged", folder)
        if account:
            _keep_accounts(running, account, port)
        _start(running, "slurmctld", "slurmctld", "-D", "-c")
        for node in nodes:
            _start(running, node.name, *_in_its_own_mounts(node.hidden, ["slurmd", "-D", "-N", node.name]))
        _wait(lambda: _idle(running) == {node.name for node in nodes}, "Slurm's nodes", folder)
        yield running
    finally:
        if "slurmctld" in running.daemons:
            with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
                running.ask("scancel", "-u", getpass.getuser(), seconds=5)
                _wait(lambda: not running.jobs("PENDING", "RUNNING", "COMPLETING"), "jobs", folder)
        _end(list(running.daemons.values())[::-1])


def _configure(folder: Path, nodes: list[Node], options: tuple[str, ...]) -> None:
    host, user, ports = socket.gethostname().split(".")[0], getpass.getuser(), _free_ports(len(nodes) + 1)
    (folder / "munge.key").write_bytes(secrets.token_bytes(1024))
    (folder / "munge.key").chmod(0o400)
    # Without systemd and control groups: process groups (a tree loses who outlives its parent), memory every second.
    lines = [
        "ClusterName=heatwalk",
        f"SlurmctldHost={host}(127.0.0.1)",
        f"SlurmctldPort={ports[0]}",
        f"SlurmUser={user}",
        f"SlurmdUser={user}",
        "AuthType=auth/munge",
        f"AuthInfo=socket={folder}/munge.socket",
        f"StateSaveLocation={folder}/state",
        f"SlurmctldPidFile={folder}/slurmctld.pid",
        f"SlurmctldLogFile={folder}/slurmctld.log",
        f"SlurmdSpoolDir={folder}/spool-%n",
        f"SlurmdPidFile={folder}/slurmd-%n.pid",
        f"SlurmdLogFile={folder}/slurmd-%n.log",
        "SlurmdParameters=config_overrides",
        "ProctrackType=proctrack/pgid",
        "TaskPlugin=task/none",
        "MpiDefault=none",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_Core_Memory",
        "SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0",
        "JobAcctGatherType=jobacct_gather/linux",
        "JobAcctGatherFrequency=task=1",
        "JobAcctGatherParams=OverMemoryKill",
        "ReturnToService=2",
        "CommunicationParameters=NoCtldInAddrAny,NoInAddrAny",  # none listens to other machines
        "KillWait=2",
        "InactiveLimit=0",
    ]
    given = {option.partition("=")[0] for option in options}
    lines = [line for line in lines if line.partition("=")[0] not in given]
    if not given & {"AccountingStorageType"}:
        lines.append("AccountingStorageType=accounting_storage/none")
    if any(node.gpu for node in nodes):
        lines.append("GresTypes=gpu")
        gres = [f"NodeName={node.name} Name=gpu File=/dev/null\n" for node in nodes if node.gpu]
        (folder / "gres.conf").write_text("".join(gres))
    for node, port in zip(nodes, ports[1:], strict=True):
        size = f"CPUs={node.cpus} RealMemory={node.memory}" + (" Gres=gpu:1" if node.gpu else "")
        lines.append(f"NodeName={node.name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} {size}")
    for number, name in enumerate(dict.fromkeys(node.partition for node in nodes)):
        own = ",".join(node.name for node in nodes if node.partition == name)
        default = " Default=YES" if not number else ""
        lines.append(f"PartitionName={name} Nodes={own} MaxTime=120 State=UP{default}")
    (folder / "slurm.conf").write_text("\n".join([*lines, *options]) + "\n")
    # The executor hides every variable of Slurm's from the srun within a job, so srun is told once more.
    (folder / "bin").mkdir()
    srun = f'#!/bin/sh\nSLURM_CONF="{folder}/slurm.conf" exec {shutil.which("srun", path=_PLACES)} "$@"\n'
    (folder / "bin" / "srun").write_text(srun)
    (folder / "bin" / "srun").chmod(0o755)
    for name in ("state", *(f"spool-{node.name}" for node in nodes)):
        (folder / name).mkdir(exist_ok=True)


def _keep_accounts(running: Slurm, account: str, port: int) -> None:
    """A database that listens to nobody but its socket, and Slurm's daemon in front of it."""
    folder, user = running.folder, getpass.getuser()
    running.environment["MYSQL_UNIX_PORT"] = str(folder / "database.socket")
    where = ["--no-defaults", f"--datadir={folder / 'database'}", f"--user={user}"]
    (folder / "database").mkdir()
    quiet = [
        "--skip-grant-tables",
        "--skip-networking",
        f"--socket={folder / 'database.socket'}",
        f"--pid-file={folder / 'database.pid'}",
    ]
    _start(running, "mariadbd", "mariadbd", *where, *quiet)
    _wait(lambda: (folder / "database.socket").exists(), "the database", folder)
    host = socket.gethostname().split(".")[0]  # it takes itself for another one's substitute where this is not its own
    lines = ["AuthType=auth/munge", f"AuthInfo=socket={folder}/munge.socket", f"DbdHost={host}", "DbdAddr=127.0.0.1"]
    lines += [f"DbdPort={port}"]
    lines += [f"SlurmUser={user}", f"PidFile={folder}/slurmdbd.pid", f"LogFile={folder}/slurmdbd.log"]
    lines += ["StorageType=accounting_storage/mysql", "StorageHost=localhost", f"StorageUser={user}"]
    (folder / "slurmdbd.conf").write_text("\n".join(lines) + "\n")
    (folder / "slurmdbd.conf").chmod(0o600)
    _start(running, "slurmdbd", "slurmdbd", "-D")
    _wait(lambda: _answers(running, "sacctmgr", "-n", "list", "cluster"), "accounting", folder)
    for added in (["cluster", "heatwalk"], ["account", account], ["user", user, f"account={account}"]):
        _answers(running, "sacctmgr", "-i", "add", *added)


def _answers(running: Slurm, *command: str) -> bool:
    try:
        running.ask(*command, seconds=10)
    except (AssertionError, subprocess.TimeoutExpired):
        return False
    return True


def _munged(folder: Path) -> list[str]:
    names = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munge.pid"}
    names |= {"log-file": "munge.log", "seed-file": "munge.seed"}
    return ["munged", "--foreground", "--force", *(f"--{name}={folder / file}" for name, file in names.items())]


def _in_its_own_mounts(hidden: tuple[Path, ...], command: list[str]) -> list[str]:
    if not hidden:
        return command
    mounts = " && ".join(f'mount -t tmpfs none "{path}"' for path in hidden)
    return ["unshare", "--mount", "sh", "-c", f'{mounts} && exec "$@"', "sh", *command]


def _start(running: Slurm, name: str, *command: str) -> None:
    with open(running.folder / f"{name}.said", "wb") as said:
        options = {"stdout": said, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL, "cwd": running.folder}
        program = [shutil.which(command[0], path=_PLACES), *command[1:]]
        options |= {"env": {**os.environ, **running.environment}, "start_new_session": True, "preexec_fn": _end_with_us}
        running.daemons[name] = subprocess.Popen(program, **options)


def _end_with_us() -> None:
    """A test run that is killed leaves no daemon."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _idle(running: Slurm) -> set[str]:
    with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
        lines = [line.split() for line in running.ask("sinfo", "-h", "-N", "-o", "%N %T", seconds=5).splitlines()]
        return {name for name, state in lines if state == "idle"}
    return set()


def _wait(true, what: str, folder: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not true():
        said = {path.name: path.read_text(errors="replace")[-400:] for path in folder.glob("*.said")}
        assert time.monotonic() < deadline, f"{what} did not come in {_START_SECONDS} s: {said}"
        time.sleep(0.2)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


def _end(processes: list[subprocess.Popen]) -> None:
    for process in processes:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def main() -> int:
    if missing():
        print(missing(), file=sys.stderr)
        return 4
    with (
        tempfile.TemporaryDirectory() as name,
        slurm(Path(name), [Node("n1", "main"), Node("n2", "main")]) as running,
    ):
        return subprocess.run(sys.argv[1:], env={**os.environ, **running.environment}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
