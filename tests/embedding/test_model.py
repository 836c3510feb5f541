import numpy as np
import pytest
import torch
import torch.nn.functional as F

from embedding.backbones import SMALL_BACKBONE
from embedding.errors import InvalidCheckpoint
from embedding.model import Architecture, GeMPooling, LinearHead, create_model


@pytest.mark.parametrize("pooling", ["average", "gem"])
@pytest.mark.parametrize(("head", "dim"), [("none", 0), ("linear", 24)])
def test_embeddings_have_unit_length(pooling, head, dim):
    model, _ = create_model(Architecture(SMALL_BACKBONE, pooling, head, dim), pretrained=False)

    with torch.inference_mode():
        embeddings = model(torch.randn(3, 3, 64, 64))

    assert embeddings.shape == (3, dim or model.num_channels)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(3))


def test_gem_is_the_average_at_p_1_and_approaches_the_maximum():
    features = torch.rand(2, 5, 4, 4) + 0.1

    torch.testing.assert_close(GeMPooling(p=1.0)(features), features.mean(dim=(2, 3)))
    torch.testing.assert_close(GeMPooling(p=200.0)(features), features.amax(dim=(2, 3)), rtol=0.03, atol=0)
    with pytest.raises(ValueError, match="at least 1"):
        GeMPooling(p=0.5)


def test_gem_learns_its_exponent():
    pooling = GeMPooling()

    pooling(torch.zeros(1, 2, 3, 3)).sum().backward()

    assert pooling.p.grad is not None
    assert torch.isfinite(pooling.p.grad)


def test_a_full_set_of_principal_components_keeps_distances():
    """With as many components as channels, the head only centres and rotates."""
    pooled = F.normalize(torch.randn(200, 16), dim=1)
    head = LinearHead(16, 16)

    head.set_principal_components(pooled.numpy())

    torch.testing.assert_close(torch.cdist(head(pooled), head(pooled)), torch.cdist(pooled, pooled), rtol=0, atol=2e-3)
    torch.testing.assert_close(head(pooled).mean(dim=0), torch.zeros(16), rtol=0, atol=1e-5)


def test_principal_components_keep_the_directions_of_most_variance():
    samples = np.random.default_rng(0).normal(size=(300, 8)) * np.array([9, 5, 1, 1, 1, 1, 1, 1]) * 0.01
    head = LinearHead(8, 2)

    head.set_principal_components(samples.astype(np.float32))

    kept = head.weight.detach().abs().numpy()
    assert kept[0].argmax() == 0
    assert kept[1].argmax() == 1


def test_principal_components_need_as_many_images():
    head = LinearHead(16, 12)

    with pytest.raises(ValueError, match=r"12 principal components .* there are 5 images"):
        head.set_principal_components(np.zeros((5, 16), np.float32))
    with pytest.raises(ValueError, match="8 channels, but the head takes 16"):
        head.set_principal_components(np.zeros((50, 8), np.float32))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "max"}, "pooling"),
        ({"head": "deep"}, "head"),
        ({"head": "linear", "embedding_dim": 0}, "embedding_dim"),
    ],
)
def test_an_invalid_architecture_option_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        Architecture(**options)
    with pytest.raises(InvalidCheckpoint, match=message):
        Architecture.from_json({**Architecture().to_json(), **options})


def test_a_stored_architecture_with_unknown_names_is_refused():
    with pytest.raises(InvalidCheckpoint, match="depth"):
        Architecture.from_json({"depth": 3})
