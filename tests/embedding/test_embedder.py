import numpy as np
import pytest
import torch

from embedding.decoding import decode_image
from embedding.embedder import TOLERANCES, Embedder, choose_device, space_id_of
from embedding.errors import UnsupportedDevice
from embedding.model import Architecture, create_model
from embedding.preprocessing import Preprocessing
from tests.embedding.test_decoding import with_orientation
from tests.images import scene

IMAGES = [scene(seed, size) for seed, size in enumerate([(300, 240), (100, 400), (64, 64), (224, 224), (500, 90)])]


def test_embeds_to_unit_float32(zero_shot_embedder):
    embeddings = zero_shot_embedder.embed(IMAGES)

    assert embeddings.dtype == np.float32
    assert embeddings.shape == (5, 1280)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)


def test_a_batch_embeds_like_single_images(zero_shot_embedder):
    together = zero_shot_embedder.embed(IMAGES)
    alone = np.concatenate([zero_shot_embedder.embed([image]) for image in IMAGES])

    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_no_images_give_no_embeddings(zero_shot_embedder):
    assert zero_shot_embedder.embed([]).shape == (0, 1280)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "TIFF"])
def test_eight_orientations_of_one_image_embed_equal(zero_shot_embedder, image_format):
    options = {"quality": 100, "subsampling": 0} if image_format == "JPEG" else {}
    images = [decode_image(with_orientation(scene(), turn, image_format, **options)) for turn in range(1, 9)]

    embeddings = zero_shot_embedder.embed(images)

    assert (embeddings @ embeddings[0]).min() > 0.999


def test_the_space_depends_on_weights_and_preprocessing():
    model, preprocessing = create_model(Architecture(head="linear", embedding_dim=4), pretrained=False)
    space = space_id_of(model, preprocessing)

    assert space_id_of(model, preprocessing) == space
    assert space_id_of(model, Preprocessing(image_size=192)) != space
    with torch.no_grad():
        model.head.get_parameter("bias").add_(1e-6)
    assert space_id_of(model, preprocessing) != space


def test_refuses_devices_and_precisions_that_are_not_there():
    with pytest.raises(UnsupportedDevice, match="bf16 needs a CUDA device"):
        choose_device("cpu", "bf16")
    with pytest.raises(UnsupportedDevice, match="unknown device 'gpu'"):
        choose_device("gpu", "float32")
    with pytest.raises(UnsupportedDevice, match="'mps' is not supported"):
        choose_device("mps", "float32")
    with pytest.raises(UnsupportedDevice, match="'cuda:99' is not there"):
        choose_device("cuda:99", "float32")
    with pytest.raises(UnsupportedDevice, match="unknown precision 'int4'"):
        choose_device("cpu", "int4")  # type: ignore[arg-type]  # what a setting might say


def test_batch_size_must_be_positive():
    model, preprocessing = create_model(Architecture(), pretrained=False)

    with pytest.raises(ValueError, match="batch_size"):
        Embedder(model, preprocessing, device="cpu", batch_size=0)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_gpu_embeds_like_the_cpu_within_its_tolerance(zero_shot_checkpoint, zero_shot_embedder, precision):
    from embedding.checkpoint import load_embedder

    on_gpu = load_embedder(zero_shot_checkpoint, device="cuda", precision=precision)

    cosines = (on_gpu.embed(IMAGES) * zero_shot_embedder.embed(IMAGES)).sum(axis=1)
    assert 1 - cosines.min() < TOLERANCES[precision]
