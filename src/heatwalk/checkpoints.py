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
