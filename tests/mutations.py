"""Mutations of bytes: each input that comes of one is given to the stage `cells` in a process of its own.

    python tests/mutations.py FOLDER SOURCE FIRST LAST

prints a line of JSON for each mutation: what was done, how the program ended, what it said, if a result stands.
Programs are forked from one that has imported all they need and has used none of it.
"""

import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import time
from pathlib import Path

CPU_SECONDS = 30  # more is a hang; of the processor, since the machine may be busy
ADDRESS_SPACE = 6 * 2**30
NUMBERS = (0, 1, 2, 127, 128, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**64 - 1)


def flip(content: bytearray, generator: random.Random) -> None:
    bit = generator.randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8


def write(content: bytearray, generator: random.Random) -> None:
    place, length = generator.randrange(len(content)), generator.choice([1, 2, 4, 8, 64])
    content[place : place + length] = generator.randbytes(len(content[place : place + length]))


def write_number(content: bytearray, generator: random.Random) -> None:
    width = generator.choice([1, 2, 4, 8])
    place, number = generator.randrange(max(1, len(content) - width)), generator.choice(NUMBERS) % 2 ** (8 * width)
    content[place : place + width] = number.to_bytes(width, "little")


def delete(content: bytearray, generator: random.Random) -> None:
    place = generator.randrange(len(content))
    del content[place : place + generator.choice([1, 4, 64, 4096])]


def insert(content: bytearray, generator: random.Random) -> None:
    place = generator.randrange(len(content))
    content[place:place] = generator.randbytes(generator.choice([1, 4, 64]))


def repeat(content: bytearray, generator: random.Random) -> None:
    place, length = generator.randrange(len(content)), generator.choice([1, 8, 512])
    content[place:place] = content[place : place + length]


def zero(content: bytearray, generator: random.Random) -> None:
    place, length = generator.randrange(len(content)), generator.choice([1, 8, 512, 4096])
    content[place : place + length] = bytes(len(content[place : place + length]))


def truncate(content: bytearray, generator: random.Random) -> None:
    del content[generator.randrange(len(content)) :]


def change_a_number(content: bytearray, generator: random.Random) -> None:
    """A number of a text (JSON), or of what looks like one."""
    found = list(re.finditer(rb"\d+", bytes(content)))
    if found:
        chosen = generator.choice(found)
        content[chosen.start() : chosen.end()] = str(generator.choice([-1, *NUMBERS])).encode()


def change_a_word(content: bytearray, generator: random.Random) -> None:
    found = list(re.finditer(rb'"[^"]{1,40}"', bytes(content)))
    if len(found) > 1:
        one, other = generator.sample(found, 2)
        content[one.start() : one.end()] = other.group()


IN_PLACE = (flip, write, write_number, zero)
MUTATIONS = (*IN_PLACE * 3, delete, insert, repeat, truncate, change_a_number, change_a_word)


def mutate(source: Path, generator: random.Random) -> str:
    """Change a source, a file or a store, in one to three places; what was done."""
    done = []
    for _ in range(generator.choice([1, 1, 1, 2, 3])):
        files = sorted(path for path in source.rglob("*") if path.is_file()) if source.is_dir() else [source]
        path = generator.choice(files)
        if source.is_dir() and generator.random() < 0.08 and len(files) > 1:
            path.unlink()
            done.append(f"unlink {path.relative_to(source)}")
            continue
        content = bytearray(path.read_bytes())
        mutation = generator.choice(MUTATIONS)
        if content:
            mutation(content, generator)
            path.write_bytes(content)
        done.append(f"{mutation.__name__} {path.relative_to(source) if source.is_dir() else ''}".strip())
    return ", ".join(done)


def run_cells(folder: Path, source: Path) -> tuple[int, str, float]:
    """The stage program `cells` of a source in a forked process: how it ended, what it said, seconds of processor."""
    row = {"source": source.name, "kind": "counts", "layer": "", "columns": [], "space": "euclidean", "reference": ""}
    said = folder / "said"
    child = os.fork()
    if not child:
        descriptor = os.open(said, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(descriptor, 1), os.dup2(descriptor, 2)
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 1))
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
        signal.alarm(600)
        os.chdir(folder)
        sys.argv = ["cells.py", "--result", "results/toy/cells/manifest.json", "--source", json.dumps(row)]
        sys.argv += ["--base", str(folder), "--root", str(folder), "--block-cells", "16"]
        sys.argv += ["--options", '{"n_top_genes": 10, "min_cells": 1}']
        code = 0
        try:
            import runpy

            runpy.run_path(str(Path(__file__).parents[1] / "scripts" / "cells.py"), run_name="__main__")
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException as error:  # would be a traceback
            print(f"Traceback: {error!r}", flush=True)
            code = 70
        os._exit(code or 0)
    _, status, usage = os.wait4(child, 0)
    return os.waitstatus_to_exitcode(status), said.read_text(errors="replace"), usage.ru_utime + usage.ru_stime


def main() -> None:
    import anndata.io  # noqa: F401
    import h5py  # noqa: F401
    import pandas  # noqa: F401
    import zarr  # noqa: F401

    import heatwalk.cells
    import heatwalk.inputs
    import heatwalk.program
    import heatwalk.store  # noqa: F401

    folder, original = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    for number in range(int(sys.argv[3]), int(sys.argv[4])):
        generator, source = random.Random(f"{original.name} {number}"), folder / original.name
        for path in (source, folder / "results"):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        shutil.copytree(original, source) if original.is_dir() else shutil.copyfile(original, source)
        did, started = mutate(source, generator), time.monotonic()
        code, said, used = run_cells(folder, source)
        stands = (folder / "results" / "toy" / "cells" / "manifest.json").exists()
        line = {"number": number, "did": did, "code": code, "said": said[:2000], "cpu": used, "stands": stands}
        print(json.dumps({**line, "seconds": time.monotonic() - started}), flush=True)


if __name__ == "__main__":
    main()
