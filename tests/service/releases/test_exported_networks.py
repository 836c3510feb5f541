"""Releases carry the network exported for ONNX Runtime, so that no server needs to export it."""

import numpy as np
import pytest
import torch

from embedding.checkpoint import load_embedder
from embedding.errors import InvalidCheckpoint
from embedding.model import Architecture, create_model
from embedding.runtimes import exported
from embedding.runtimes.options import NetworkOptions
from service.installation.installation import open_installation
from service.releases.build import build_release
from service.releases.errors import InvalidRelease
from service.releases.files import NETWORK_NAME, load_release

pytestmark = [pytest.mark.long, pytest.mark.one_database]

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def built(shop_templates, tiny_checkpoint, tmp_path_factory):
    """Settings, and the ids of a release built for torch and of one built for ONNX Runtime."""
    settings, (for_torch,) = shop_templates.copy(tmp_path_factory.mktemp("exported") / "home", 1)
    with open_installation(settings.model_copy(update={"runtime": "onnxruntime"})) as installation:
        for_onnxruntime = build_release(installation, checkpoint=tiny_checkpoint).release_id
    return settings, for_torch, for_onnxruntime


def load(settings, release_id, options):
    return load_release(settings.releases_dir, release_id, options, index_device="cpu")


@pytest.fixture
def no_exporter(monkeypatch):
    """Fail the test if the exporter is started."""
    monkeypatch.setattr(exported, "_export", lambda *_: pytest.fail("exported again"))


def test_a_release_is_loaded_without_an_export(built, no_exporter, tmp_path):
    settings, _, for_onnxruntime = built
    options = NetworkOptions("cpu", runtime="onnxruntime", cache_dir=tmp_path / "networks")

    by_onnxruntime = load(settings, for_onnxruntime, options).embedder

    assert by_onnxruntime.runtime.startswith("onnxruntime ")
    # A server whose runtime is torch serves it too.
    by_torch = load(settings, for_onnxruntime, NetworkOptions("cpu")).embedder
    assert by_torch.runtime.startswith("torch ")
    np.testing.assert_allclose(by_onnxruntime.embed_pixels(PIXELS), by_torch.embed_pixels(PIXELS), atol=1e-5)


def test_a_release_without_an_exported_network_uses_the_cache(built, no_exporter):
    settings, for_torch, _ = built
    options = NetworkOptions("cpu", runtime="auto", cache_dir=settings.cache_dir / "networks")

    assert not (settings.releases_dir / for_torch / NETWORK_NAME).exists()
    assert load(settings, for_torch, options).embedder.runtime.startswith("onnxruntime ")


def test_a_changed_network_is_refused(built):
    settings, _, release_id = built
    file = settings.releases_dir / release_id / NETWORK_NAME
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))

    with pytest.raises(InvalidRelease, match=NETWORK_NAME):
        load(settings, release_id, NetworkOptions("cpu", runtime="onnxruntime"))

    file.write_bytes(whole)


def test_a_network_of_another_model_is_refused(tiny_checkpoint):
    """Sealed by mistake: its checksum is right, and the golden samples tell the difference."""
    torch.manual_seed(1)
    other, preprocessing = create_model(Architecture("conv4"), pretrained=False)
    wanted = exported.NetworkToExport(other, preprocessing, "another-space")

    with exported.exported_network(wanted, None) as file, pytest.raises(InvalidCheckpoint, match="golden samples"):
        load_embedder(tiny_checkpoint, NetworkOptions("cpu", runtime="onnxruntime"), exported=file)
