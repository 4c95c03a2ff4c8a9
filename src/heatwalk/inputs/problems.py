"""Every way an input can be bad, one stable code each, and the border where library errors become such problems."""

import csv
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

from heatwalk.errors import BadInput, Problem, first_few

CODES = {
    # where the data are
    "HW-IN-001": "The source does not exist.",
    "HW-IN-002": "The source, its labels or its kind are written in a way that cannot be read.",
    "HW-IN-003": "The source lies outside the folders that may be read.",
    "HW-IN-004": "A link, an external file or a virtual array inside the source points elsewhere.",
    # what the file is
    "HW-IN-005": "The format is not recognised.",
    "HW-IN-006": "The file is empty, truncated or damaged.",
    "HW-IN-007": "An HDF5 file or Zarr store that is no AnnData and no 10x matrix.",
    "HW-IN-008": "A part that the format requires is missing or of the wrong kind.",
    "HW-IN-009": "A codec, compression or filter that is not on the list of safe ones.",
    "HW-IN-010": "A declared size that the stored bytes cannot fill.",
    "HW-IN-011": "What must be read at once does not fit the memory given.",
    "HW-IN-012": "Chunks of an array are missing.",
    # what was asked of it
    "HW-IN-013": "No layer, raw matrix, array or genome of that name.",
    "HW-IN-014": "No obsm key of that name.",
    "HW-IN-015": "Columns that are not there, are listed twice, or cannot be chosen in this kind of data.",
    # its shape
    "HW-IN-016": "No cells.",
    "HW-IN-017": "No genes, channels or other columns of values.",
    "HW-IN-018": "Lengths that must agree do not: values, cell names, feature names.",
    "HW-IN-019": "Values of a type that is not a number (bool, text, object, complex).",
    "HW-IN-020": "The number of dimensions does not suit the kind.",
    "HW-IN-021": "Row pointers (indptr) of a sparse matrix are broken.",
    "HW-IN-022": "Indices of a sparse matrix lie outside it.",
    "HW-IN-023": "Entries are not sorted by cell, and are too many to sort in memory.",
    # its names
    "HW-IN-024": "Cell names occur more than once.",
    "HW-IN-025": "Cell or feature names are empty.",
    "HW-IN-026": "Cell or feature names hold line breaks or other control characters.",
    "HW-IN-027": "Feature names occur more than once, and so do their ids.",
    "HW-IN-028": "The samples share no features.",
    # its values
    "HW-IN-040": "NaN.",
    "HW-IN-041": "Infinite values.",
    "HW-IN-042": "Negative counts.",
    "HW-IN-043": "Counts that are not whole numbers.",
    "HW-IN-044": "Counts that look logged already.",
    "HW-IN-045": "Logged values that look like raw counts.",
    "HW-IN-046": "Values too large for float32.",
    "HW-IN-047": "A matrix of zeros.",
    "HW-IN-048": "Counts so large that float32 rounds them.",
}

# What the readers below us raise on damaged files; nothing that would hide an error of ours (NameError, ImportError).
READ_ERRORS = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    RuntimeError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    EOFError,
    SyntaxError,
    csv.Error,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


def bad(code: str, where: object, cause: str, remedy: str) -> BadInput:
    """One problem, ready to be raised."""
    return BadInput(Problem(code, str(where), cause, remedy))


def damaged(where: object, error: BaseException) -> Problem:
    """A file whose library gave up, in that library's own words."""
    words = " ".join(str(error).split()) or "no message"
    words = words if len(words) <= 300 else words[:300] + "..."
    return Problem(
        "HW-IN-006", str(where), f"cannot be read ({type(error).__name__}: {words})", "copy or export the file again"
    )


@contextmanager
def reading(where: object) -> Iterator[None]:
    """The border of a format: inside it a library may fail, outside it only BadInput is seen."""
    try:
        yield
    except BadInput:
        raise
    except READ_ERRORS as error:
        raise BadInput(damaged(where, error)) from error


@contextmanager
def gathering(problems: list[Problem]) -> Iterator[None]:
    """Keep what is found wrong here for later, so that one look finds all faults."""
    try:
        yield
    except BadInput as error:
        problems += error.problems


def raise_all(problems: Iterable[Problem]) -> None:
    """Raise all problems as one BadInput; nothing when there are none."""
    problems = tuple(problems)
    if problems:
        raise BadInput(*problems)


def suggestion(wanted: str, available: Iterable[str]) -> str:
    """Names close to the one that was not found, or else the first of all names.

    >>> suggestion("coutns", ["counts", "spliced"])
    'write counts'
    >>> suggestion("x", ["counts", "spliced"])
    'write one of counts, spliced'
    """
    names = [str(name) for name in available]
    near = get_close_matches(wanted, names, n=3, cutoff=0.6)
    if near:
        return "write " + " or ".join(near)
    return f"write one of {first_few(names, 10)}" if names else "there is none to choose"
