"""Writes the conda files from the pip pins: `python envs/conda.py` (make environments).

Snakemake copies such a file to a folder of its own before conda reads it, so it must hold every pin itself: a line
`-r base.txt` would point nowhere.
"""

from pathlib import Path

HERE = Path(__file__).parent
FILES = {
    "base": ("For those who run Snakemake with --sdm conda.", ["base"], []),
    "neural": ("The neural stages, on top of the base environment.", ["base", "neural"], []),
    "cluster": (
        "What runs on Slurm and on Dask of other machines, on top of the neural environment.",
        ["base", "neural", "cluster"],
        [],
    ),
    "dev": ("Everything, tests and linters included.", ["base", "neural", "dev"], ["make"]),
}


def rendered(name: str) -> str:
    """The conda file of an environment, as text."""
    comment, parts, packages = FILES[name]
    pins = [line for part in parts for line in (HERE / f"{part}.txt").read_text().splitlines()]
    pins = sorted({line for line in pins if line and not line.startswith("#")}, key=str.lower)
    lines = [
        f"# {comment} Made by envs/conda.py from the pip files; the tested route is pip with the same pins (make run).",
        "channels:",
        "  - conda-forge",
        "  - nodefaults",
        "dependencies:",
        "  - python=3.11",
        *(f"  - {package}" for package in packages),
        "  - pip",
        "  - pip:",
        *(f"      - {pin}" for pin in pins),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    for name in FILES:
        (HERE / f"{name}.yaml").write_text(rendered(name))
