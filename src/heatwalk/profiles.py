"""What Snakemake will be told about a cluster: by profiles, then by the command line."""

import os
from pathlib import Path
from typing import NamedTuple

from heatwalk.config import load

_PLUGIN_ASKS = 40.0  # seconds until the executor's first question, unless told otherwise


class Cluster(NamedTuple):
    """Where jobs will be sent."""

    partition: str
    account: str
    status_command: str
    first_question: float = _PLUGIN_ASKS
    retries: int = 0


def of_arguments(arguments: tuple[str, ...]) -> Cluster | None:
    """The Slurm cluster that these arguments of Snakemake's name; None where jobs run on this machine.

    >>> of_arguments(("--executor", "slurm", "--default-resources", "slurm_partition=main"))
    Cluster(partition='main', account='', status_command='sacct', first_question=40.0, retries=0)
    >>> of_arguments(("--cores", "2")) is None
    True
    """
    standing = [os.environ["SNAKEMAKE_PROFILE"]] if os.environ.get("SNAKEMAKE_PROFILE") else []
    said: dict = {}
    for folder in (*(_given(arguments, "--profile") or standing)[-1:], *_given(arguments, "--workflow-profile")[-1:]):
        path = Path(folder, "config.yaml")
        said |= {key.replace("_", "-"): value for key, value in (load(path) if path.exists() else {}).items()}
    for name in ("executor", "slurm-status-command", "slurm-init-seconds-before-status-checks", "retries"):
        values = [*_given(arguments, f"--{name}"), *(_given(arguments, "-e") if name == "executor" else [])]
        said |= {name: values[-1]} if values else {}
    if said.get("executor") != "slurm":
        return None
    given = [*_given(arguments, "--default-resources"), *_given(arguments, "--default-res")]
    asked = _resources(given or said.get("default-resources") or [])
    return Cluster(
        asked.get("slurm_partition", ""),
        asked.get("slurm_account", ""),
        said.get("slurm-status-command") or "sacct",
        float(said.get("slurm-init-seconds-before-status-checks", _PLUGIN_ASKS)),
        int(said.get("retries", 0)),
    )


def _given(arguments: tuple[str, ...], name: str) -> list[str]:
    """All values of an option: `--name value value`, `--name=value`."""
    values, taking = [], False
    for word in arguments:
        taking = (taking and not word.startswith("-")) or word == name
        if word.startswith(f"{name}="):
            values.append(word.partition("=")[2])
        elif taking and word != name:
            values.append(word)
    return values


def _resources(given: list | dict) -> dict[str, str]:
    """Resources by name; account and partition may be written as text in quotes."""
    pairs = (
        given.items() if isinstance(given, dict) else (str(item).split("=", 1) for item in given if "=" in str(item))
    )
    return {name: str(value).strip("'\"") for name, value in pairs}
