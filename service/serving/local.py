"""Search with the active release in this process, without a server: what `akin search` does."""

from pathlib import Path

from embedding.decoding import decode_image
from service.errors import InvalidParameter
from service.installation.installation import Installation
from service.releases.files import load_release
from service.releases.records import require_active_release


def search_locally(
    installation: Installation, file: Path, k: int, min_score: float | None
) -> tuple[str, list[dict[str, object]]]:
    """Return the id of the active release and its hits for the image in `file`, best first."""
    try:
        image_bytes = file.read_bytes()
    except OSError as error:
        raise InvalidParameter(f"{file} cannot be read: {error.strerror}") from error
    image = decode_image(image_bytes, installation.limits)
    with installation.database.reading() as session:
        release_id = require_active_release(session)
    settings = installation.settings
    release = load_release(
        settings.releases_dir,
        release_id,
        device=settings.device,
        precision=settings.precision,
        index_device=settings.index_device,
    )
    embedder = release.embedder
    embedding_D = embedder.embed_pixels(embedder.to_pixels(image)[None])[0]
    hits = []
    for hit in release.index.search_products(embedding_D, k, min_score=min_score):
        row = release.rows[hit.row]
        hits.append(
            {
                "product_id": row.product_id,
                "title": row.title,
                "score": hit.score,
                "image_id": row.image_id,
                "attributes": row.attributes,
            }
        )
    return release_id, hits
