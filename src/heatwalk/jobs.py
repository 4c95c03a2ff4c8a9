"""What the job of a stage asks of a cluster, from the plan's prediction, and which small stages share one job."""

from collections.abc import Mapping
from math import ceil

from heatwalk.forecast import Need

_SNAKEMAKE = 450  # MB: a job is two processes of Snakemake, and a stage
_MARGIN = 1.3  # of memory, over what is foreseen
_SLOWER = 4  # times, of a machine slower than the one the figures are of
_MINUTES = 2  # at the least: to start, to wait for a file system, to verify
_TOGETHER = 300  # seconds foreseen of stages that share one job
_ENDS = (("cells", "pca"), ("atlas", "report"))  # nothing else stands between the two of a pair


def megabytes(need: Need, attempt: int) -> int:
    """Memory to ask for, MB: what is foreseen and a margin, as often as the job was tried.

    >>> megabytes(Need(60, 10**9, 0, 0), 1), megabytes(Need(60, 10**9, 0, 0), 2)
    (1750, 3500)
    """
    return ceil(need.memory / 1e6 * _MARGIN + _SNAKEMAKE) * attempt


def minutes(need: Need, attempt: int) -> int:
    """Time to ask for: what is foreseen on a slow machine, as often as the job was tried.

    >>> minutes(Need(600, 10**9, 0, 0), 1), minutes(Need(600, 10**9, 0, 0), 3)
    (42, 126)
    """
    return ceil(need.seconds / 60 * _SLOWER + _MINUTES) * attempt


def together(dataset: str, needs: Mapping[str, Need]) -> dict[str, str]:
    """The name of the job that a stage shares with others, by stage; stages that are not small have jobs of their own.

    A job must not wait for one that waits for it, so not any small stages may share one.

    >>> small, large = Need(10, 10**8, 0, 0), Need(1000, 10**9, 0, 0)
    >>> together("blood", {"cells": small, "pca": small, "neighbors": small})
    {'cells': 'small_blood', 'pca': 'small_blood', 'neighbors': 'small_blood'}
    >>> together("blood", {"cells": small, "pca": small, "neighbors": large, "atlas": small})
    {'cells': 'small_cells_blood', 'pca': 'small_cells_blood'}
    """
    if sum(need.seconds for need in needs.values()) <= _TOGETHER:
        return dict.fromkeys(needs, f"small_{dataset}")
    found = {}
    for pair in _ENDS:
        if all(stage in needs for stage in pair) and sum(needs[stage].seconds for stage in pair) <= _TOGETHER:
            found |= dict.fromkeys(pair, f"small_{pair[0]}_{dataset}")
    return found
