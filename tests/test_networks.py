"""networks: what is loaded is what was saved; and weights or descriptions that do not fit are refused, not run."""

import json
import pickle

import numpy as np
import pytest
import torch

import heatwalk as hw
from heatwalk import networks
from heatwalk.networks import Description

KINDS = {
    "table": Description("table", (7,), 3, 5, 8, 2),
    "sequence": Description("sequence", (21, 2), 3, 5, 8, 2),
    "image": Description("image", (9, 13, 1), 3, 5, 8, 2),
    "table of one width": Description("table", (7,), 3, 5, 8, 2, one_width=True),
    "image of one width": Description("image", (9, 13, 1), 3, 5, 8, 2, one_width=True),
}


def network(kind="table", seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = networks.Network(KINDS[kind])
        for parameter in made.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_network_gives_the_same_numbers(kind):
    made = network(kind)
    points = np.random.default_rng(0).standard_normal((11, *KINDS[kind].item_shape)).astype(np.float32)
    expected = networks.applied(made, points)
    weights, description = networks.saved(made)
    found = networks.applied(networks.loaded(weights, description), points)
    assert expected.shape == (11, 3)
    np.testing.assert_array_equal(found, expected)
    flat = networks.applied(made, points.reshape(11, -1))
    np.testing.assert_array_equal(flat, expected)


@pytest.mark.parametrize("kind", ["table", "table of one width"])
def test_prototypes_are_a_softmax_of_distances_in_the_units_of_the_points(kind):
    made = network(kind)
    points = np.random.default_rng(1).standard_normal((6, 7))
    with torch.no_grad():
        made.centre += 0.3
        made.scale *= 2
        found = made.features(torch.tensor(points, dtype=torch.float32))[:, :5].numpy()
    places, widths, biases = (p.detach().numpy() for p in (made.places, made.log_widths.exp(), made.biases))
    scaled = (points - 0.3) / 2
    logits = biases - ((scaled[:, None] - places) ** 2).sum(axis=2) / (2 * widths**2)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True) * np.sqrt(5)
    np.testing.assert_allclose(found, expected, rtol=2e-5)


def test_far_from_all_points_a_table_of_one_width_takes_the_place_of_the_nearest_prototype():
    made = network("table of one width")
    direction = np.random.default_rng(2).standard_normal(7)
    nearest = int((made.places.detach().numpy() @ direction).argmax())
    found = networks.applied(made, np.array([1e3, 1e4])[:, None] * direction)
    with torch.no_grad():
        row = torch.eye(5)[nearest] * 5**0.5
        expected = made.linear(torch.cat([row, made.trunk(made.places[nearest][None])[0]])).numpy()
    np.testing.assert_allclose(found, np.tile(expected, (2, 1)), rtol=1e-4, atol=1e-5)


def test_a_description_that_says_nothing_of_widths_has_one_for_every_prototype():
    weights, description = networks.saved(network())
    said = {name: value for name, value in json.loads(description).items() if name != "one_width"}
    assert not networks.loaded(weights, json.dumps(said)).description.one_width


def test_the_bound_on_size_is_kept():
    asked = Description("table", (784,), 6, 5000, 64, 3)
    most = networks.most_prototypes(asked)
    assert 300 < most < 5000
    weights, description = networks.saved(networks.Network(asked._replace(prototypes=most)))
    assert 0.98 * networks.MOST_BYTES < len(weights) + len(description) <= networks.MOST_BYTES
    assert networks.most_prototypes(asked._replace(prototypes=20)) == 20
    with pytest.raises(hw.BadInput, match="HW-NN-001 network: the network takes .* bytes, the bound is 2000000"):
        networks.saved(networks.Network(asked._replace(prototypes=most + 20)))


def changed(**fields):
    weights, description = networks.saved(network())
    return weights, json.dumps({**json.loads(description), **fields})


def other_weights(**tensors):
    from safetensors.torch import save

    state = {**network().state_dict(), **tensors}
    return save({name: value for name, value in state.items() if value is not None}), networks.saved(network())[1]


class Trap:
    def __reduce__(self):
        return pytest.fail, ("code was run",)


BAD = {
    "that are not safetensors": lambda: (pickle.dumps(Trap()), networks.saved(network())[1]),
    "that are not safetensors ": lambda: (networks.saved(network())[0][:-10], networks.saved(network())[1]),
    "that are not safetensors  ": lambda: (b"", networks.saved(network())[1]),
    "weights of 2000001 bytes, the bound is": lambda: (bytes(2000001), networks.saved(network())[1]),
    "biases of shape \\(5,\\), the description says \\(6,\\)": lambda: changed(prototypes=6),
    "places of shape None, the description says": lambda: other_weights(places=None),
    "more of shape \\(1,\\), the description says None": lambda: other_weights(more=torch.zeros(1)),
    "biases with values that are not finite": lambda: other_weights(biases=torch.full((5,), torch.nan)),
    "the format is not": lambda: changed(format="another"),
    "numbers must lie between 1 and": lambda: changed(width=-3),
    "numbers must lie between 1 and ": lambda: changed(width=1e3),
    "numbers must lie between 1 and  ": lambda: changed(n_components=True),
    "one_width must be true or false": lambda: changed(one_width=1),
    "log_widths of shape \\(5,\\), the description says \\(1,\\)": lambda: changed(one_width=True),
    "65 blocks, the bound is 64": lambda: changed(blocks=65),
    "a description of [0-9]+ weights, the bound is": lambda: changed(width=10**6),
    "a description that cannot be used": lambda: changed(kind="graph"),
    "an item of a image has 3 axes": lambda: changed(kind="image"),
    "a description that cannot be used ": lambda: (networks.saved(network())[0], "{"),
    "a description that cannot be used  ": lambda: (networks.saved(network())[0], "[]"),
    "a description that cannot be used   ": lambda: changed(item_shape=None),
}


@pytest.mark.parametrize("message", BAD)
def test_what_does_not_fit_is_refused(message):
    weights, description = BAD[message]()
    with pytest.raises(hw.BadInput, match=f"HW-NN-002 model.json: has .*{message.strip()}"):
        networks.loaded(weights, description, where="model.json")


def test_points_that_may_not_be_written_are_read_without_a_warning():
    made, points = network(), np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    expected = networks.applied(made, points)
    points.flags.writeable = False
    np.testing.assert_array_equal(networks.applied(made, points), expected)
