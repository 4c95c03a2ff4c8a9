"""Object stores (s3://): reached through fsspec, listed, fetched; what goes wrong is one line within a minute.

Where the store is and who may use it stands where every tool looks: AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_PROFILE, ~/.aws, or the role of the machine.
"""

import contextlib
import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from heatwalk.errors import BadInput, HeatwalkError, OutOfResources, Problem, first_few

SCHEME = "s3://"
CACHE = Path("results", ".work", "sources")  # of the working folder
THREADS = 8
_CREDENTIALS = ("NoCredentials", "PartialCredentials", "CredentialRetrieval", "ProfileNotFound", "Token", "SSO")
_OF_THIS_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}


def is_remote(place: object) -> bool:
    return isinstance(place, str) and place.startswith(SCHEME)


def connect(url: str):
    """The fsspec file system of a URL, once the store has answered; its connections wait longer than this first one.

    Raises OutOfResources: no credentials (HW-RM-001), refused (HW-RM-002), no answer (HW-RM-004).
    """
    bucket, _, prefix = url.removeprefix(SCHEME).partition("/")
    if not bucket:
        raise BadInput(Problem("HW-RM-003", url, "names no bucket", "write s3://BUCKET/FOLDER"))
    first = _filesystem(connect=5, read=8)
    first.retries = 3
    with explained(url):
        first.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=1)
        return _filesystem(connect=10, read=60)


def _filesystem(connect: int, read: int):
    try:
        import s3fs
    except ModuleNotFoundError:
        remedy = "pip install 'heatwalk[s3]', or s3fs"
        raise OutOfResources(Problem("HW-RM-005", SCHEME, "the package s3fs is not installed", remedy)) from None
    timeouts = {"connect_timeout": connect, "read_timeout": read, "retries": {"total_max_attempts": 1}}
    return s3fs.S3FileSystem(config_kwargs=timeouts, use_listings_cache=False)


@contextlib.contextmanager
def explained(url: str) -> Iterator[None]:
    """Failures of the store within the block as heatwalk says them."""
    from botocore.exceptions import BotoCoreError

    try:
        yield
    except HeatwalkError:
        raise
    except (BotoCoreError, OSError, ValueError) as error:  # ValueError: an endpoint that is no URL
        if isinstance(error, OSError) and error.errno in _OF_THIS_DISK:
            raise
        raise _problem(url, error) from None


def _problem(url: str, error: Exception) -> OutOfResources | BadInput:
    said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    if type(error).__name__.startswith(_CREDENTIALS):
        remedy = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        return OutOfResources(Problem("HW-RM-001", url, f"there are no credentials for the store ({said})", remedy))
    if isinstance(error, PermissionError):
        remedy = "check the credentials, and that they may list, read and (to publish) write and delete there"
        return OutOfResources(Problem("HW-RM-002", url, f"the store refuses ({said})", remedy))
    if isinstance(error, FileNotFoundError):
        return BadInput(Problem("HW-RM-003", url, f"is not there ({said})", "correct the URL, or create the bucket"))
    endpoint = os.environ.get("AWS_ENDPOINT_URL", "not set: Amazon's")
    remedy = f"check the network and AWS_ENDPOINT_URL ({endpoint}), and run again"
    return OutOfResources(Problem("HW-RM-004", url, f"the store does not answer as it should ({said})", remedy))


def objects(system, url: str) -> dict[str, tuple[int, str]]:
    """Size and entity tag of every object at or under a URL, by its key below it ("" of the object itself)."""
    top = url.removeprefix(SCHEME).rstrip("/")
    with explained(url):
        found = system.find(top, detail=True)
    whole = {name: info for name, info in found.items() if not name.endswith("/") and info["type"] == "file"}
    return {
        name.removeprefix(top).lstrip("/"): (info["size"], str(info.get("ETag", ""))) for name, info in whole.items()
    }


def state(url: str) -> str:
    """Short hash of names, sizes and entity tags under a URL: changes with the content."""
    return _digest(objects(connect(url), url))


def fetch(url: str, cache: Path = CACHE) -> Path:
    """A source, whole, on the local disk; fetched once for each state of it, and older states removed.

    All checks of inputs need files, and what is read twice is fetched once. BadInput when there is nothing, when a key
    could leave the folder, or when it changed on the way.
    """
    system = connect(url)
    found = objects(system, url)
    if not found:
        raise BadInput(Problem("HW-IN-001", f"source {url!r}", "there is no such object", "correct the URL"))
    unsafe = [key for key in found if key and not _stays_inside(key)]
    if unsafe:
        cause = f"{len(unsafe)} keys point out of the folder ({first_few(unsafe)})"
        raise BadInput(Problem("HW-IN-004", f"source {url!r}", cause, "remove them"))
    home = cache / hashlib.sha256(url.encode()).hexdigest()[:16]
    name = PurePosixPath(url.rstrip("/")).name
    target = home / _digest(found)
    if not target.exists():
        draft = home / f".{uuid.uuid4().hex}"
        try:
            download(system, url, found, draft / name)
            if objects(system, url) != found:
                remedy = "wait until it is written, and run again"
                raise BadInput(Problem("HW-IN-006", f"source {url!r}", "changed while it was fetched", remedy))
            with contextlib.suppress(OSError):  # another process was a moment faster
                draft.rename(target)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        for other in home.iterdir():
            if other != target and not other.name.startswith("."):
                shutil.rmtree(other, ignore_errors=True)
    return target / name


def download(system, url: str, found: dict[str, tuple[int, str]], folder: Path) -> None:
    """Every object to its place below `folder`, or `folder` itself as a file where the URL is an object."""
    top = url.removeprefix(SCHEME).rstrip("/")

    def get(key: str) -> None:
        path = folder / key if key else folder
        path.parent.mkdir(parents=True, exist_ok=True)
        system.get_file(f"{top}/{key}" if key else top, str(path))
        if path.stat().st_size != found[key][0]:
            raise OSError(f"{key or top}: {path.stat().st_size} of {found[key][0]} bytes arrived")

    with explained(url), ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(get, found))


def _stays_inside(key: str) -> bool:
    return not key.startswith("/") and not {"", ".", ".."} & set(key.split("/")) and "\0" not in key


def _digest(found: dict[str, tuple[int, str]]) -> str:
    lines = "".join(f"{key} {size} {tag}\n" for key, (size, tag) in sorted(found.items()))
    return hashlib.sha256(lines.encode()).hexdigest()[:16]
