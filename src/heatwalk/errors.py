"""What can go wrong, said in one line each: the cause, the number, and what to type."""

from typing import NamedTuple


class Problem(NamedTuple):
    """One thing that is wrong, and the way out."""

    code: str  # stable, e.g. HW-IN-004
    where: str  # file, and the element in it
    cause: str  # what is wrong, with the count, the bound and the first few names
    remedy: str  # what to type or to change

    def __str__(self) -> str:
        return " ".join(f"{self.code} {self.where}: {self.cause}; {self.remedy}".split())


class HeatwalkError(Exception):
    """A failure that heatwalk explains; `exit_code` is what a stage program ends with."""

    exit_code = 1

    def __init__(self, *problems: Problem):
        self.problems = problems
        super().__init__("\n".join(map(str, problems)))

    def __reduce__(self):
        return type(self), self.problems


class BadInput(HeatwalkError, ValueError):
    """Input, option or stored result that cannot be used."""

    exit_code = 2


class Locked(HeatwalkError):
    """Somebody else is writing the same result."""

    exit_code = 3


class OutOfResources(HeatwalkError):
    """Memory, disk or another resource does not suffice."""

    exit_code = 4


def first_few(names, limit: int = 5) -> str:
    """The first names of a long list, and how many more there are.

    >>> first_few(["a", "b", "c"], limit=2)
    'a, b and 1 more'
    """
    names = [str(name) for name in names]
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")
