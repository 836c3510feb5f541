import numpy as np
import pytest
import torch

from embedding.backbones import SMALL_BACKBONE, packaged_weights
from embedding.checkpoint import load_embedder
from embedding.decoding import decode_image
from embedding.embedder import Embedder, space_id_of
from embedding.errors import MissingWeights, UnsupportedDevice
from embedding.model import Architecture, create_model
from embedding.preprocessing import Preprocessing
from embedding.runtimes.network import choose_device
from embedding.runtimes.options import TOLERANCES, NetworkOptions
from tests.embedding.test_decoding import with_orientation
from tests.images import scene

IMAGES = [scene(seed, size) for seed, size in enumerate([(300, 240), (100, 400), (64, 64), (224, 224), (500, 90)])]


def test_embeddings_are_float32_of_unit_length(zero_shot_embedder):
    embeddings = zero_shot_embedder.embed(IMAGES)

    assert embeddings.dtype == np.float32
    assert embeddings.shape == (5, 1280)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)


def test_a_batch_equals_single_images(zero_shot_embedder):
    together = zero_shot_embedder.embed(IMAGES)
    alone = np.concatenate([zero_shot_embedder.embed([image]) for image in IMAGES])

    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_no_images_give_an_empty_array(zero_shot_embedder):
    assert zero_shot_embedder.embed([]).shape == (0, 1280)


def test_eight_orientations_of_one_jpeg_embed_alike(zero_shot_embedder):
    """JPEG only: of lossless formats, the decoded pixels are equal (test_decoding.py)."""
    images = [decode_image(with_orientation(scene(), turn, quality=100, subsampling=0)) for turn in range(1, 9)]

    embeddings = zero_shot_embedder.embed(images)

    assert (embeddings @ embeddings[0]).min() > 0.999


def test_the_space_depends_on_weights_and_preprocessing():
    model, preprocessing = create_model(Architecture(SMALL_BACKBONE, head="linear", embedding_dim=4), pretrained=False)
    space = space_id_of(model, preprocessing)

    assert space_id_of(model, preprocessing) == space
    assert space_id_of(model, Preprocessing(image_size=192)) != space
    with torch.no_grad():
        model.head.get_parameter("bias").add_(1e-6)
    assert space_id_of(model, preprocessing) != space


def test_refuses_unavailable_devices_and_precisions():
    with pytest.raises(UnsupportedDevice, match="bf16 needs a CUDA device"):
        choose_device("cpu", "bf16")
    with pytest.raises(UnsupportedDevice, match="unknown device 'gpu'"):
        choose_device("gpu", "float32")
    with pytest.raises(UnsupportedDevice, match="'mps' is not supported"):
        choose_device("mps", "float32")
    with pytest.raises(UnsupportedDevice, match="'cuda:99' is not available"):
        choose_device("cuda:99", "float32")
    with pytest.raises(UnsupportedDevice, match="unknown precision 'int4'"):
        choose_device("cpu", "int4")  # type: ignore[arg-type]  # as a setting might be


def test_batch_size_must_be_positive():
    model, preprocessing = create_model(Architecture(SMALL_BACKBONE), pretrained=False)

    with pytest.raises(ValueError, match="batch_size"):
        Embedder(model, preprocessing, NetworkOptions("cpu"), batch_size=0)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_gpu_equals_the_cpu_within_the_tolerance(request, precision):
    try:
        packaged_weights()
    except MissingWeights as error:
        pytest.skip(str(error))
    on_cpu = request.getfixturevalue("zero_shot_embedder")
    on_gpu = load_embedder(request.getfixturevalue("zero_shot_checkpoint"), NetworkOptions("cuda", precision))

    cosines = (on_gpu.embed(IMAGES) * on_cpu.embed(IMAGES)).sum(axis=1)
    assert 1 - cosines.min() < TOLERANCES[precision]
