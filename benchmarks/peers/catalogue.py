"""The network, the catalogue and the queries that all servers share: files for peers, a release for Akin.

Shape legend: N images, D embedding dimension, H height, W width.
"""

import json
import shutil
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from benchmarks.peers.load import read_images
from benchmarks.peers.servers.networks import DEFINITION_NAME, ONNX_NAME, WEIGHTS_NAME
from benchmarks.peers.servers.preparation import PREPROCESSING_NAME
from benchmarks.peers.servers.ranking import EMBEDDINGS_NAME, PRODUCT_IDS_NAME
from embedding import efficientnet_lite
from embedding.decoding import decode_image
from embedding.model import Architecture, EmbeddingModel, create_model
from embedding.preprocessing import Preprocessing
from index.structures import IndexOptions
from service.catalogue.records import CatalogueContents, CatalogueImage
from service.demo.sample.products import sample_products
from service.demo.sample.views import photo_view
from service.embeddings.pretrained import zero_shot_checkpoint
from service.installation.installation import open_installation
from service.installation.settings import Settings
from service.releases.files import write_release
from service.releases.records import activate_release, record_release
from service.storage.database import now
from service.storage.media import MediaName

_RELEASE_ID = "peers"
_JPEG_QUALITY = 88


class _FromPixels(nn.Module):
    """The model with its normalisation: uint8 pixels [N, H, W, 3] to unit embeddings [N, D]."""

    def __init__(self, model: EmbeddingModel, preprocessing: Preprocessing) -> None:
        super().__init__()
        self._model = model
        self._preprocessing = preprocessing

    def forward(self, pixels_NHWC: Tensor) -> Tensor:
        """Embed prepared images."""
        embeddings: Tensor = self._model(self._preprocessing.normalise(pixels_NHWC))
        return embeddings


def write_queries(folder: Path, count: int, source: Path | None) -> None:
    """Write JPEG queries: the first `count` of `source` in order of path, else drawn photos of 800 × 600 pixels."""
    folder.mkdir()
    if source is None:
        for n, product in enumerate(sample_products(count, seed=0)):
            buffer = BytesIO()
            photo = photo_view(product, 0).resize((800, 600), Image.Resampling.BICUBIC)
            photo.save(buffer, "JPEG", quality=_JPEG_QUALITY)
            (folder / f"{n:03d}.jpg").write_bytes(buffer.getvalue())
        return
    found = sorted(path for path in source.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    if len(found) < count:
        raise SystemExit(f"{source} contains {len(found)} JPEG files; {count} are needed (--images)")
    # Spread over the whole folder, since neighbours are often images of one product.
    for n in range(count):
        shutil.copyfile(found[n * len(found) // count], folder / f"{n:03d}.jpg")


def write_files(folder: Path, queries: Path, num_products: int) -> None:
    """Write what the peers read: the network for both runtimes, its preprocessing, and the catalogue."""
    folder.mkdir()
    model, preprocessing = create_model(Architecture(), pretrained=True)
    network = _FromPixels(model, preprocessing).eval()
    write_torch_network(folder, model, preprocessing)
    _export(folder / ONNX_NAME, network, preprocessing.image_size)
    pixels = [preprocessing.to_pixels(decode_image(image_bytes)) for image_bytes in read_images(queries)]
    with torch.inference_mode():
        query_embeddings_ND = network(torch.from_numpy(np.stack(pixels))).numpy()
    write_catalogue(folder, spread_around(query_embeddings_ND, num_products))


def write_torch_network(folder: Path, model: EmbeddingModel, preprocessing: Preprocessing) -> None:
    """Write the definition and the weights of the backbone, and the preprocessing."""
    (folder / PREPROCESSING_NAME).write_text(json.dumps(preprocessing.to_json()))
    shutil.copyfile(efficientnet_lite.__file__, folder / DEFINITION_NAME)
    torch.save(model.backbone.state_dict(), folder / WEIGHTS_NAME)


def write_catalogue(folder: Path, embeddings_ND: NDArray[np.float32]) -> None:
    """Write the embeddings and a product id for each."""
    np.save(folder / EMBEDDINGS_NAME, embeddings_ND)
    (folder / PRODUCT_IDS_NAME).write_text(json.dumps([f"product-{n}" for n in range(len(embeddings_ND))]))


def _export(path: Path, network: nn.Module, image_size: int) -> None:
    """Write the network for ONNX Runtime, with any number of images per run."""
    pixels = torch.zeros((2, image_size, image_size, 3), dtype=torch.uint8)
    program = torch.onnx.export(
        network, (pixels,), dynamo=True, verbose=False,
        input_names=["pixels"], output_names=["embeddings"], dynamic_shapes={"pixels_NHWC": {0: "n"}},
    )  # fmt: skip
    assert program is not None
    program.save(path, external_data=False)


def spread_around(query_embeddings_ND: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Return `count` unit embeddings at growing distances from the queries, so that each query has a clear ranking.

    Among random embeddings the best scores differ by less than the rounding errors of two decoders.
    """
    num_queries, dim = query_embeddings_ND.shape
    rng = np.random.default_rng(0)
    rank = np.arange(count) // num_queries
    # The length of the noise relative to the query's: from 0.3 to 3, by 5 % from one rank to the next at first.
    length = np.minimum(0.3 * 1.05**rank, 3.0)
    noise_ND = rng.normal(size=(count, dim)) / np.sqrt(dim) * length[:, None]
    embeddings_ND: NDArray[np.float64] = query_embeddings_ND[np.arange(count) % num_queries] + noise_ND
    embeddings_ND /= np.linalg.norm(embeddings_ND, axis=1, keepdims=True)
    return embeddings_ND.astype(np.float32)


def publish_release(settings: Settings, files: Path) -> None:
    """Publish and activate a release with the catalogue of the files, in a new home."""
    product_ids = json.loads((files / PRODUCT_IDS_NAME).read_text())
    images = [
        CatalogueImage(f"{n:08d}", product_id, f"Product {n}", {"n": n}, MediaName(f"{n:064x}", "jpg"))
        for n, product_id in enumerate(product_ids)
    ]
    with open_installation(settings) as installation:
        facts = write_release(
            settings.releases_dir, _RELEASE_ID, zero_shot_checkpoint(settings), CatalogueContents(0, images),
            np.load(files / EMBEDDINGS_NAME), IndexOptions(), created_at=now().isoformat(),
        )  # fmt: skip
        with installation.database.transaction() as session:
            record_release(session, facts)
        with installation.database.transaction() as session:
            activate_release(session, _RELEASE_ID)
