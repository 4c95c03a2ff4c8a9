"""The hash of a program's code: a changed line reruns its users, a comment or a docstring nothing."""

import ast
import hashlib
from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).parent
_NO_RESULT = {
    "heatwalk.forecast",
    "heatwalk.slurm",
    "heatwalk.worker_jobs",
}  # neither what is foreseen nor who computes


def code_hash(program: Path) -> str:
    """SHA-256 over the syntax trees of a program and of every heatwalk module that it imports, directly or not.

    The report's template counts with the module that renders it. `import heatwalk` alone reaches no stage.
    """
    pending, seen = [Path(program)], {}
    while pending:
        path = pending.pop()
        if path in seen:
            continue
        seen[path], imported = _digest(path, path.stat().st_mtime_ns)
        pending += [*imported, *path.parent.glob(f"{path.stem}.html.j2")]
    lines = "".join(sorted(f"{path.name} {digest}\n" for path, digest in seen.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


@cache
def _digest(path: Path, modified: int) -> tuple[str, list[Path]]:
    """Digest of one file, and the files of the heatwalk modules it imports."""
    if path.suffix != ".py":
        return hashlib.sha256(path.read_bytes()).hexdigest(), []
    tree = _without_docstrings(ast.parse(path.read_bytes()))
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), sorted(_imported(tree))


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            node.body = body[1:]
    return tree


def _imported(tree: ast.Module) -> set[Path]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    names = {name for name in names if name.startswith("heatwalk.")} - _NO_RESULT
    return {path for name in names for path in _files(name)}


def _files(module: str) -> list[Path]:
    """The file of a module; of a package every file, since its formats or spaces are chosen at run time."""
    path = _PACKAGE.joinpath(*module.split(".")[1:])
    if path.is_dir():
        return sorted(path.glob("*.py"))
    return [path.with_suffix(".py")] if path.with_suffix(".py").is_file() else []
