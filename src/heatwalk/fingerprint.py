"""What a source looked like, so that a change of it is noticed."""

import hashlib
from pathlib import Path

_HASHED_BYTES = 2**25  # sources up to this size are known by content, larger ones by size and time of change


def fingerprint(paths: list[Path]) -> str:
    """Short hash by which a changed source is noticed, whatever its time of change says."""
    files = sorted(file for path in paths for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())
    small = sum(file.stat().st_size for file in files) <= _HASHED_BYTES
    digest = hashlib.sha256()
    for file in files:
        state = file.stat()
        digest.update(f"{file.name} {state.st_size}\n".encode())
        digest.update(file.read_bytes() if small else str(state.st_mtime_ns).encode())
    return digest.hexdigest()[:16] if files else ""
