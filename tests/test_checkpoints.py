"""checkpoints: what was kept comes back under its key; damage means beginning anew."""

import logging

import pytest

torch = pytest.importorskip("torch")

from heatwalk import checkpoints  # noqa: E402 - torch may be absent


def test_what_was_kept_comes_back_under_its_key_alone(tmp_path):
    file = tmp_path / "state"
    assert checkpoints.kept(file, "a") is None
    checkpoints.keep(file, "a", {"x": torch.arange(3.0)}, about="it")
    tensors, about = checkpoints.kept(file, "a")
    assert tensors["x"].tolist() == [0, 1, 2]
    assert about["about"] == "it"
    assert checkpoints.kept(file, "b") is None
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
    checkpoints.keep(None, "a", {})
    assert checkpoints.kept(None, "a") is None


def test_a_damaged_checkpoint_is_none_and_that_is_told(tmp_path, caplog):
    file = tmp_path / "state"
    checkpoints.keep(file, "a", {"x": torch.arange(3.0)})
    with caplog.at_level(logging.WARNING, "heatwalk"):
        for damaged in (file.read_bytes()[:-5], b"", b"\x80\x04."):
            file.write_bytes(damaged)
            assert checkpoints.kept(file, "a") is None
    assert caplog.text.count("the training begins anew") == 3
