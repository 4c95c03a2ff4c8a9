"""The encoders of a random walk: networks for diffusion coordinates of the samples, on a graph in one piece."""

from pathlib import Path

import numpy as np

from heatwalk.errors import BadInput, Problem
from heatwalk.progress import log

ENCODERS = ("deep_diffusion_map", "spectralnet")
_NEIGHBORS = 30  # of the graph, and twice as many until it is in one piece
_GRAPH_OF = 10_000  # samples: of more, so many are drawn
_LARGEST_SHARE = 8  # of the samples, one in so many are neighbours at the most
_PROTOTYPES, _ROUNDS = 192, 4


def encoder(samples: np.ndarray, kind: str, n_components: int, t: int, **limits):
    """A network for lambda^t psi of the samples and the eigenvalues, (network, (mode,)).

    The graph: 30 neighbours and a bandwidth by the 30th, and twice as many of both until it is in one piece or an
    eighth of the samples are neighbours. On a graph in pieces the leading eigenvectors are constant within pieces: a
    few of them do not tell many pieces apart, and the decoder mixes those. What pieces are left are made one, so that
    the leading coordinates say which a place is in. Of more than 10,000 samples the graph is one of 10,000 drawn at
    random; the network is for all of them.
    """
    from heatwalk.affinity import affinity
    from heatwalk.deep_diffusion_map import deep_diffusion_map
    from heatwalk.neighbors import neighbors

    seed, threads = limits["seed"], limits["threads"]
    nodes = samples
    if len(samples) > _GRAPH_OF:
        rows = np.random.default_rng([seed, 20]).choice(len(samples), _GRAPH_OF, replace=False)
        nodes = samples[np.sort(rows)]
    width = min(_NEIGHBORS, len(nodes) - 1)
    while True:
        found = neighbors(nodes, n_neighbors=width, seed=seed, threads=threads)
        graph = affinity(nodes, found, bandwidth_neighbor=width, threads=threads)
        pieces = int(np.max(graph.components)) + 1
        if pieces == 1 or 2 * width > len(nodes) // _LARGEST_SHARE:
            break
        width *= 2
    log.info("random_walk: encoder on a graph of %d neighbors, in %d pieces", width, pieces)
    if pieces > n_components:
        cause = f"the graph is in {pieces} pieces, more than {n_components} components tell apart"
        remedy = f"set n_components to {pieces + 5}, or remove cells that stand alone"
        raise BadInput(Problem("HW-RW-005", "n_components", cause, remedy))
    if kind == "spectralnet":
        from heatwalk.spectralnet import spectralnet

        own = {"n_neighbors": width, "share": min(1.0, 1024 / len(nodes)), **limits}
        own.pop("checkpoint")
        made = spectralnet(nodes, n_components=n_components, t=t, prototypes=_PROTOTYPES, **own)
        return made.network, made.eigenvalues
    graph = graph._replace(components=np.zeros_like(graph.components))
    of = {"n_components": n_components, "t": t, "prototypes": _PROTOTYPES, "rounds": _ROUNDS, "measure": False}
    made = deep_diffusion_map(nodes, graph, network="table", **of, **limits)
    return made.network, np.asarray(made.eigenvalues)


def encoder_checkpoint(checkpoint: Path | None) -> Path | None:
    return checkpoint and checkpoint.with_suffix(".encoder")
