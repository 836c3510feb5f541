import subprocess

import pytest
import torch

from embedding.embedder import space_id_of
from embedding.model import Architecture, create_model
from embedding.runtimes.exported import NetworkToExport, exported_network


@pytest.fixture(scope="session")
def tiny_network():
    """A network of random weights for images of 32 pixels."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model, preprocessing = create_model(Architecture("conv4"), pretrained=False)
    return NetworkToExport(model, preprocessing, space_id_of(model, preprocessing))


@pytest.fixture(scope="session")
def exports(tiny_network, tmp_path_factory):
    """A cache with the exported network, so that few tests wait for the exporter."""
    folder = tmp_path_factory.mktemp("exports")
    with exported_network(tiny_network, folder):
        return folder


@pytest.fixture
def unexportable(monkeypatch):
    """An exporter that fails."""

    def fail(command, **_):
        return subprocess.CompletedProcess(command, 1, "", "Traceback\nUnsupported: operator\n")

    monkeypatch.setattr("embedding.runtimes.exported.subprocess.run", fail)
