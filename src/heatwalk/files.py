"""Files written so that a reader finds the old one or the new one, whole, and what their bytes hash to."""

import hashlib
import os
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


def hash_tree(top: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by its key; each is flushed to the disk on the way."""
    paths = sorted(path for path in top.rglob("*") if not path.is_dir())
    with ThreadPoolExecutor(4) as pool:
        hashes = list(pool.map(hash_and_sync, paths))
    for path in sorted({path.parent for path in paths}):
        sync(path)
    return {path.relative_to(top).as_posix(): digest for path, digest in zip(paths, hashes, strict=True)}


def hash_and_sync(path: Path) -> str:
    sync(path)
    return hash_file(path)


def hash_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file so that it is either the old one or the new one, whole."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync(path.parent)


def replace_link(path: Path, target: str) -> None:
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    os.symlink(target, temporary)
    os.replace(temporary, path)
