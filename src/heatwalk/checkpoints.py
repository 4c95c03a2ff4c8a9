"""The state of a training on disk, from which a run that was stopped goes on; safetensors, so no code is run."""

import os
from collections.abc import Mapping
from pathlib import Path

import torch

from heatwalk.progress import log


def keep(checkpoint: Path | None, key: str, tensors: Mapping[str, torch.Tensor], **about: str) -> None:
    """Write tensors under the key of what they were made from; what stood there is replaced at once or not at all."""
    if not checkpoint:
        return
    from safetensors.torch import save

    partial = checkpoint.with_suffix(".partial")
    own = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    try:
        # safetensors would say of a full disk that it could not serialise.
        partial.write_bytes(save(own, metadata={"key": key, **about}))
        os.replace(partial, checkpoint)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def kept(checkpoint: Path | None, key: str) -> tuple[dict[str, torch.Tensor], dict[str, str]] | None:
    """The tensors and what else was said, if there is a checkpoint of the same key; one that is damaged is none."""
    if not checkpoint or not checkpoint.exists():
        return None
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(checkpoint, "pt") as file:
            about = file.metadata() or {}
            if about.get("key") != key:
                return None
            return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118 - not a mapping
    except SafetensorError as error:
        log.warning("%s is no checkpoint (%s): the training begins anew", checkpoint, error)
        return None


def fitting(weights: bytes, expected: Mapping[str, torch.Tensor], most: int) -> dict[str, torch.Tensor]:
    """Tensors of safetensors; ValueError unless names and shapes are those expected and all values are finite."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    if 4 * sum(value.numel() for value in expected.values()) > most:
        raise ValueError(f"it describes more than {most} bytes")
    try:
        tensors = load(bytes(weights))
    except SafetensorError as error:
        raise ValueError(f"{error}") from None
    if {n: tuple(t.shape) for n, t in tensors.items()} != {n: tuple(t.shape) for n, t in expected.items()}:
        raise ValueError("the weights have other names or shapes than it says")
    if not all(bool(value.isfinite().all()) for value in tensors.values()):
        raise ValueError("weights are not finite")
    return tensors


def moments(optimiser: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """What an optimiser remembers, by name."""
    states = optimiser.state_dict()["state"].items()
    return {f"moment.{number}.{name}": value for number, state in states for name, value in state.items()}


def give_moments(optimiser: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """Let an optimiser remember what a checkpoint holds of one."""
    found: dict[int, dict] = {}
    for name, value in tensors.items():
        if name.startswith("moment."):
            _, number, kind = name.split(".")
            found.setdefault(int(number), {})[kind] = value
    if found:
        optimiser.load_state_dict({"state": found, "param_groups": optimiser.state_dict()["param_groups"]})
