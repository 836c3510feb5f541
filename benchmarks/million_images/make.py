"""Fill the database of an AKIN_HOME with a large synthetic catalogue, for measurements at a million images.

    python -m benchmarks.million_images.make --home DIR [--images 1000000] [--products 100000]
        [--examples 0.1] [--labelled 0.05] [--embeddings SPACE_ID --dim 64] [--files 0] [--seed 0]

    --home        the AKIN_HOME to create; its database must be empty (AKIN_DATABASE_URL chooses another database)
    --images      number of images; image N belongs to product N modulo the number of products
    --products    number of products, P-0000000 and on
    --examples    share of the images that are examples; the others are catalogue images
    --labelled    share of the images with a label of their own, that of the next product
    --embeddings  also store an embedding of each image in the space with this id: random, of length 1
    --dim         the dimension of these embeddings
    --files       also write the files of the first images: PNGs of 32 x 32 pixels, each different
    --seed        of pixels, hashes and embeddings

The rows are written in bulk through the tables' metadata, with change numbers as an import gives them. A digest is the
hash of the image's file where `--files` writes one, and otherwise the hash of the image's number; the file is missing.
"""

import argparse
import hashlib
import io
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from sqlalchemy import insert

from service.catalogue.images import image_id_of
from service.installation.installation import Installation, open_installation
from service.installation.settings import load_settings
from service.storage.database import current_watermark, next_change_seqs, now
from service.storage.media import MediaName
from service.storage.tables.catalogue import CATALOGUE, EXAMPLE, MediaObject, Product, ProductImage
from service.storage.tables.embeddings import StoredEmbedding
from service.storage.tables.table import Table

CHUNK = 20_000
Values = dict[str, object]


def main() -> None:
    arguments = parse_arguments()
    settings = load_settings().model_copy(update={"home": arguments.home})
    start = time.perf_counter()
    with open_installation(settings) as installation:
        with installation.database.reading() as session:
            if current_watermark(session) > 0:
                raise SystemExit(f"{settings.home} has a catalogue already; name another --home")
        for first in range(0, arguments.products, CHUNK):
            numbers = range(first, min(first + CHUNK, arguments.products))
            write_rows(installation, [(Product, product_rows(numbers))])
        for first in range(0, arguments.images, CHUNK):
            numbers = range(first, min(first + CHUNK, arguments.images))
            write_images(installation, arguments, numbers)
            print(f"{numbers.stop:,} of {arguments.images:,} images, {time.perf_counter() - start:.0f} s", flush=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--products", type=int, default=100_000)
    parser.add_argument("--examples", type=float, default=0.1)
    parser.add_argument("--labelled", type=float, default=0.05)
    parser.add_argument("--embeddings", default="")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--files", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def product_rows(numbers: range) -> list[Values]:
    moment = now()
    return [
        {"id": product_id_of(n), "title": f"Product {n}", "attributes": {"number": n}, "created_at": moment}
        for n in numbers
    ]


def product_id_of(number: int) -> str:
    return f"P-{number:07d}"


def write_images(installation: Installation, arguments: argparse.Namespace, numbers: range) -> None:
    """Write the media, images and embeddings of these numbers in one transaction."""
    generator = np.random.default_rng((arguments.seed, numbers.start))
    is_example = generator.random(len(numbers)) < arguments.examples
    is_labelled = generator.random(len(numbers)) < arguments.labelled
    moment = now()
    media: list[Values] = []
    images: list[Values] = []
    for n, example, labelled in zip(numbers, is_example.tolist(), is_labelled.tolist(), strict=True):
        image_bytes = tiny_png(n, arguments.seed) if n < arguments.files else b""
        sha256 = hashlib.sha256(image_bytes or f"{arguments.seed}/{n}".encode()).hexdigest()
        if image_bytes:
            installation.media_store.put(MediaName(sha256, "png"), image_bytes)
        media.append(
            {"sha256": sha256, "extension": "png", "num_bytes": len(image_bytes) or 1200, "width": 32, "height": 32}
            | {"created_at": moment}
        )
        product_id = product_id_of(n % arguments.products)
        images.append(
            {
                "id": image_id_of(product_id, sha256),
                "product_id": product_id,
                "sha256": sha256,
                "role": EXAMPLE if example else CATALOGUE,
                "label": product_id_of((n + 1) % arguments.products) if labelled else None,
                "created_at": moment,
            }
        )
    tables: list[tuple[type[Table], list[Values]]] = [(MediaObject, media), (ProductImage, images)]
    if arguments.embeddings:
        digests = [str(row["sha256"]) for row in media]
        tables.append((StoredEmbedding, list(embedding_rows(digests, arguments.embeddings, arguments.dim, generator))))
    write_rows(installation, tables)


def embedding_rows(digests: list[str], space_id: str, dim: int, generator: np.random.Generator) -> Iterator[Values]:
    embeddings_ND = generator.normal(size=(len(digests), dim)).astype("<f4")
    embeddings_ND /= np.linalg.norm(embeddings_ND, axis=1, keepdims=True)
    for digest, embedding in zip(digests, embeddings_ND, strict=True):
        yield {"space_id": space_id, "sha256": digest, "embedding": embedding.tobytes()}


def tiny_png(number: int, seed: int = 0) -> bytes:
    """Return a PNG of 32 x 32 pixels in 1 to 2 KB; each number gives other pixels."""
    generator = np.random.default_rng((seed, number))
    colours = generator.integers(0, 256, (8, 8, 3), np.uint8)
    pixels = np.kron(colours, np.ones((4, 4, 1), np.uint8))
    pixels[:16, :16] = generator.integers(0, 256, (16, 16, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_rows(installation: Installation, tables: list[tuple[type[Table], list[Values]]]) -> None:
    """Insert rows in one transaction; products and images get their change numbers."""
    with installation.database.transaction() as session:
        for table, rows in tables:
            if table in (Product, ProductImage):
                for row, seq in zip(rows, next_change_seqs(session, len(rows)), strict=True):
                    row["change_seq"] = seq
            session.execute(insert(table), rows)


if __name__ == "__main__":
    main()
