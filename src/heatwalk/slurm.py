"""Slurm's commands, none of which is waited for longer than a few seconds, and what became of jobs."""

import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

from heatwalk.errors import BadInput, HeatwalkError, OutOfResources, Problem, first_few

COMMANDS = ("sbatch", "squeue", "scancel", "scontrol", "sinfo", "srun")
SECONDS = 8  # that a command may take: sbatch alone would try for minutes where no controller answers
LOGS = Path(".snakemake", "slurm_logs")  # of jobs that did not end well, by the executor
_LAST_BYTES = 20_000  # of such a log
_PATIENCE = 45  # seconds that a job waits before the line about it
# Reasons of a job that waits, and will for ever: it asks for more than it may have, or is held.
_NEVER = re.compile(r"PartitionTimeLimit|PartitionNodeLimit|PerJob|BadConstraints|Invalid|NeverSatisfied|[Hh]eld")
_SAID = re.compile(r"SLURM-job '(\d+)' failed.*?SLURM status is: '(\w+)'", re.DOTALL)
# What Slurm writes into the log of a job that it ends, whether it keeps accounts or not; the first found counts.
_SIGNS = (
    ("OUT_OF_MEMORY", r"exceeded (?:job |step )?memory limit|oom[-_ ]kill|Out Of Memory"),
    ("TIMEOUT", r"DUE TO TIME LIMIT"),
    ("NODE_FAIL", r"DUE TO NODE FAILURE"),
    ("PREEMPTED", r"DUE TO PREEMPTION"),
    ("CANCELLED", r"\*\*\* (?:JOB|STEP) \S+ ON \S+ CANCELLED AT [^D]*\*\*\*"),
)
_MEANING = {
    "OUT_OF_MEMORY": ("HW-SL-011", "for its memory", "raise `memory`, or --set-resources STAGE:mem_mb=MB"),
    "TIMEOUT": ("HW-SL-012", "at its time limit", "--set-resources STAGE:runtime=MINUTES"),
    "NODE_FAIL": ("HW-SL-013", "with its node, which failed", "heatwalk resume"),
    "PREEMPTED": ("HW-SL-014", "for a job that goes first", "name a partition without preemption"),
    "CANCELLED": ("HW-SL-015", "because somebody cancelled it", "heatwalk resume"),
}


class Answer(NamedTuple):
    """What a command said: standard output, the last line of standard error, and whether it went well."""

    text: str
    error: str
    well: bool


class Ended(NamedTuple):
    """A job that Slurm ended before its programs did."""

    number: str
    what: str  # rule or group, and dataset
    state: str

    @property
    def problem(self) -> Problem:
        code, why, more = _MEANING[self.state]
        cause = f"Slurm ended job {self.number} {why} ({self.state})"
        return Problem(code, self.what, cause, f"it is sent again with more, `retries` times; if that fails: {more}")


def ask(*command: str, seconds: float = SECONDS) -> Answer:
    """Run a command of Slurm's; OutOfResources when it is not there or says nothing in time."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        raise not_there(command[0]) from None
    except subprocess.TimeoutExpired:
        raise _silent(f"{command[0]} has said nothing for {seconds:.0f} seconds") from None
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return Answer(done.stdout.strip(), lines[-1].strip() if lines else "", done.returncode == 0)


def not_there(*names: str) -> OutOfResources:
    cause = f"there is no {', '.join(names)} on this machine's path"
    remedy = "run heatwalk on a machine from which jobs are submitted, or without a Slurm profile"
    return OutOfResources(Problem("HW-SL-001", "Slurm", cause, remedy))


def _silent(cause: str) -> OutOfResources:
    remedy = "try again; if it lasts, ask those who run the cluster (scontrol ping)"
    return OutOfResources(Problem("HW-SL-002", "Slurm", cause, remedy))


def check_commands() -> str:
    """Where sbatch is; all that a run needs is there."""
    absent = [name for name in COMMANDS if not shutil.which(name)]
    if absent:
        raise not_there(*absent)
    return f"{shutil.which('sbatch')}"


def check_controller() -> str:
    """The controller that answers; without one, sbatch would hang."""
    answer = ask("scontrol", "ping")
    if not answer.well or " UP" not in answer.text:
        raise _silent(f"no controller answers ({answer.error or answer.text or 'scontrol ping said nothing'})")
    return answer.text.splitlines()[0]


def check_partition(partition: str) -> str:
    """The partition, or the default one; it is there, up, and what is preempted there comes back."""
    lines = [line.split("|") for line in ask("sinfo", "-h", "-o", "%P|%a|%D|%T").text.splitlines()]
    known = list(dict.fromkeys(name.rstrip("*") for name, *_ in lines))
    default = next((name.rstrip("*") for name, *_ in lines if name.endswith("*")), "")
    wanted = partition or default
    if wanted not in known:
        cause = f"there is no partition {partition!r}" if partition else "there is no default partition"
        raise BadInput(Problem("HW-SL-004", "slurm_partition", cause, f"use one of: {first_few(known)}"))
    rows = [row[1:] for row in lines if row[0].rstrip("*") == wanted]
    states = ", ".join(f"{count} {state}" for _, count, state in rows)
    if all(up != "up" or re.match(r"down|drain|unk|inval|fail", state) for up, _, state in rows):
        cause = f"no node of partition {wanted!r} takes jobs ({states})"
        raise OutOfResources(Problem("HW-SL-004", "slurm_partition", cause, f"use one of: {first_few(known)}"))
    if "PreemptMode=CANCEL" in ask("scontrol", "show", "partition", wanted).text and _preempts():
        cause = f"jobs that are preempted in {wanted!r} are cancelled, and Snakemake would wait for them for ever"
        raise BadInput(Problem("HW-SL-014", "slurm_partition", cause, "use one whose PreemptMode is REQUEUE or OFF"))
    return f"{wanted}: {states}"


def _preempts() -> bool:
    return not re.search(r"^PreemptType\s*=\s*preempt/none", ask("scontrol", "show", "config").text, re.MULTILINE)


def check_account(account: str, partition: str) -> str:
    """The account: jobs would be accepted under it, or none is asked for."""
    if account:
        known = ask("sacctmgr", "-n", "-P", "list", "associations", "format=account")
        names = sorted({line.strip() for line in known.text.splitlines()} - {""})
        if not known.well or not names:
            cause = f"this cluster keeps no accounts ({known.error or 'sacctmgr lists none'}), and {account!r} is given"
            raise BadInput(Problem("HW-SL-005", "slurm_account", cause, "remove slurm_account from the profile"))
        if account.lower() not in names:
            cause = f"there is no account {account!r}"
            raise BadInput(Problem("HW-SL-005", "slurm_account", cause, f"use one of: {first_few(names)}"))
    refusal = would_refuse(partition, account, 100, 1)
    if refusal:
        raise refused(refusal)
    return account or "none asked for"


def refused(error: str) -> HeatwalkError:
    """What it means that sbatch does not take a job."""
    error = error.removeprefix("sbatch: error: ").removeprefix("allocation failure: ")
    if re.search(r"temporarily|limit|quota|[Qq]ueue|QOS", error):
        return _waits(f"Slurm takes no further job ({error})")
    names = {"partition": ("HW-SL-004", "slurm_partition"), "account": ("HW-SL-005", "slurm_account")}
    code, where = next((names[word] for word in names if word in error), ("HW-SL-009", "Slurm"))
    return BadInput(Problem(code, where, f"Slurm refuses a job ({error})", "correct the profile: sinfo, sacctmgr"))


def _waits(cause: str) -> OutOfResources:
    remedy = "wait, or name another slurm_partition; squeue --start says when a job may begin"
    return OutOfResources(Problem("HW-SL-006", "Slurm", cause, remedy))


def waits(number: str, reason: str = "") -> OutOfResources:
    """A job that does not begin."""
    waiting = len(ask("squeue", "-h", "-t", "PENDING", "-o", "%i").text.splitlines())
    reason = reason or ask("squeue", "-h", "-j", number, "-o", "%r").text or "no reason given"
    return _waits(f"the queue is full: job {number} has not begun ({reason}; {waiting} jobs wait)")


def check_status(command: str, longest: float) -> str:
    """The command by which Snakemake learns of the end of jobs; one that does not answer leaves it waiting for ever.

    longest: seconds between two questions.
    """
    where, wrong = "slurm-status-command", ""
    accounts = ask("sacct", "-n", "-X", "-j", "1") if shutil.which("sacct") else Answer("", "no sacct", False)
    found = re.search(r"^MinJobAge\s*=\s*(\d+)", ask("scontrol", "show", "config").text, re.MULTILINE)
    age = int(found[1]) if found else 0
    if command == "sacct" and not accounts.well:
        wrong, other = f"sacct does not answer ({accounts.error})", "squeue"
    elif command == "squeue" and age < longest:
        wrong = f"squeue forgets jobs after {age} seconds, and is asked every {longest:.0f}"
        other = "sacct" if accounts.well else "sacct, and have accounting set up: sacct does not answer either"
    if wrong:
        raise OutOfResources(Problem("HW-SL-003", where, wrong, f"set slurm-status-command: {other}"))
    return f"{command} (accounting {'on' if accounts.well else 'off'}, squeue remembers jobs for {age} s)"


def time_limit(partition: str) -> int:
    """Minutes that a job may take in a partition, or in the default one; 0: no limit.

    `%l` is written [[days-]hours:]minutes:seconds.
    """
    lines = [line.split("|") for line in ask("sinfo", "-h", "-o", "%P|%l").text.splitlines()]
    chosen = [limit for name, limit in lines if (name.rstrip("*") == partition if partition else name.endswith("*"))]
    if not chosen or not chosen[0][0].isdigit():
        return 0
    days, _, clock = chosen[0].rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    hours, minutes = [0, *parts][-3:-1] if len(parts) > 1 else (0, parts[0])
    return (int(days or 0) * 24 + hours) * 60 + minutes


def would_refuse(partition: str, account: str, megabytes: int, cores: int) -> str:
    """Why no node would ever take a job of this size; nothing where one would."""
    size = ["-n", "1", "-c", f"{cores}", "--mem", f"{megabytes}", "-t", "1"]
    answer = ask("sbatch", "--test-only", *_where(partition, account), *size, "--wrap", "true")
    return "" if answer.well else answer.error.removeprefix("allocation failure: ")


def submit(script: str, partition: str, account: str) -> str:
    """Submit a small job; its number."""
    size = ["-n", "1", "-c", "1", "--mem", "800", "-t", "2", "-o", "/dev/null", "-J", "heatwalk-doctor"]
    answer = ask("sbatch", "--parsable", *_where(partition, account), *size, "--wrap", script)
    if not answer.well:
        raise refused(answer.error)
    return answer.text.partition(";")[0]


def _where(partition: str, account: str) -> list[str]:
    return [*(["-p", partition] if partition else []), *(["-A", account] if account else [])]


def state(number: str) -> str:
    """What a job is doing; nothing when Slurm has forgotten it."""
    return ask("squeue", "-h", "-t", "all", "-j", number, "-o", "%T").text


def at_work(folder: Path) -> list[str]:
    """Numbers of unfinished jobs that this user's runs submitted from a folder."""
    if not shutil.which("squeue"):
        return []
    try:
        lines = ask("squeue", "-h", "--me", "-t", "PD,R,CG,CF,S", "-o", "%i|%k|%Z").text.splitlines()
    except OutOfResources:
        return []
    rows = (line.split("|", 2) for line in lines)
    return [row[0] for row in rows if len(row) == 3 and row[1].startswith("rule_") and Path(row[2]) == folder]


class Watch:
    """Looks after the jobs of a run: those that will never begin are cancelled, those that wait are said once."""

    def __init__(self, folder: Path):
        self._folder, self._since, self._said = folder, {}, set()

    def look(self) -> list[Problem]:
        """What is new since the last look."""
        try:
            lines = ask("squeue", "-h", "--me", "-t", "PD", "-o", "%i|%r|%k|%Z").text.splitlines()
        except OutOfResources as error:
            return list(error.problems)
        found, now = [], time.monotonic()
        for number, reason, comment, folder in (line.split("|", 3) for line in lines if line.count("|") >= 3):
            mine = comment.startswith("rule_") and Path(folder) == self._folder
            if not mine or number in self._said or reason == "BeginTime":  # one queued again begins after two minutes
                continue
            never = _NEVER.search(reason)
            if never or now - self._since.setdefault(number, now) > _PATIENCE:
                self._said.add(number)
                found.append(_never(number, comment, reason) if never else waits(number, reason).problems[0])
            if never:
                ask("scancel", number)
        return found


def _never(number: str, comment: str, reason: str) -> Problem:
    cause = f"job {number} could never begin ({reason}), and was cancelled"
    remedy = "--set-resources STAGE:runtime=MINUTES (or mem_mb, threads), or another slurm_partition"
    return Problem("HW-SL-010", comment.removeprefix("rule_").replace("_wildcards_", " of "), cause, remedy)


def ended(since_ns: int, log: Path | None = None, logs: Path = LOGS) -> list[Ended]:
    """Jobs that Slurm ended since a time, told apart by what it wrote into their logs, or by what Snakemake was told.

    log: Snakemake's own.
    """
    told = dict(_SAID.findall(log.read_text(errors="replace"))) if log and log.exists() else {}
    found = {}
    for path in sorted(logs.rglob("*.log")):
        if path.stem.isdecimal() and path.stat().st_mtime_ns >= since_ns:
            found[path.stem] = Ended(path.stem, _named(path.relative_to(logs)), _sign(path) or told.get(path.stem, ""))
    for number, status in told.items():  # a node that failed wrote nothing
        found.setdefault(number, Ended(number, "Slurm", status))
    return [each for _, each in sorted(found.items(), key=lambda item: int(item[0])) if each.state in _MEANING]


def _named(path: Path) -> str:
    """rule_neighbors/blood/12.log: neighbors of blood; a shared job has the name of its dataset and of its stages."""
    what = path.parts[0].partition("_")[2] or path.parts[0]
    shared = re.match(r"small_(?:cells_|atlas_)?(.+?)_(?:affinity|atlas|cells)", what)
    if shared:
        return f"small stages of {shared[1]}"
    return f"{what} of {path.parts[1]}" if len(path.parts) > 2 else what


def _sign(path: Path) -> str:
    with open(path, "rb") as file:
        file.seek(max(path.stat().st_size - _LAST_BYTES, 0))
        text = file.read().decode(errors="replace")
    return next((name for name, sign in _SIGNS if re.search(sign, text)), "")
