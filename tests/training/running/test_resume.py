import errno

import pytest
import torch

from training.errors import InvalidRun
from training.running import resume
from training.running.resume import latest_state, load_state, save_state


def test_a_state_is_read_back(tmp_path):
    path = save_state(tmp_path, 7, {"weights": torch.arange(3.0), "names": ["a"]})

    state = load_state(path)

    assert state["step"] == 7
    assert state["weights"].tolist() == [0, 1, 2]
    assert latest_state(tmp_path) == path


def test_only_the_newest_state_is_kept(tmp_path):
    for step in (5, 50, 500):
        save_state(tmp_path, step, {})

    assert [path.name for path in tmp_path.iterdir()] == ["step-000000500.pt"]


def test_there_is_no_state_before_the_first(tmp_path):
    assert latest_state(tmp_path / "state") is None


def test_a_full_disk_keeps_the_previous_state(tmp_path, monkeypatch):
    first = save_state(tmp_path, 1, {"weights": torch.ones(2)})

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        save_state(tmp_path, 2, {"weights": torch.zeros(2)})

    assert list(tmp_path.iterdir()) == [first]
    assert load_state(first)["weights"].tolist() == [1, 1]


def test_a_failed_write_in_torch_is_an_os_error(tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("[enforce fail at inline_container.cc] . PytorchStreamWriter failed writing file")

    monkeypatch.setattr("torch.save", fail)
    with pytest.raises(OSError, match="cannot be written"):
        save_state(tmp_path, 1, {})

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", [b"", b"no state"])
def test_a_damaged_state_is_named(tmp_path, damage):
    path = save_state(tmp_path, 1, {})
    path.write_bytes(damage)

    with pytest.raises(InvalidRun, match="cannot be read"):
        load_state(path)


def test_a_state_of_another_version_is_refused(tmp_path, monkeypatch):
    path = save_state(tmp_path, 1, {})
    monkeypatch.setattr(resume, "_VERSION", 2)

    with pytest.raises(InvalidRun, match="another version"):
        load_state(path)
