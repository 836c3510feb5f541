"""Search with the active release in this process, without a server."""

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from embedding.decoding import decode_image
from service.errors import InvalidParameter
from service.installation.installation import Installation
from service.releases.files import load_release
from service.releases.records import require_active_release
from service.serving.engine import SearchEngine, SearchResult
from service.serving.inference import InferenceThread


def search_locally(installation: Installation, file: Path, k: int, min_score: float | None) -> SearchResult:
    """Load the active release and search it for the image in `file`, as a server does.

    Raises InvalidParameter for a file that cannot be read, InvalidImage, NoActiveRelease and InvalidRelease.
    """
    try:
        image_bytes = file.read_bytes()
    except OSError as error:
        raise InvalidParameter(f"{file} cannot be read: {error.strerror}") from error
    # Refuse an invalid image before loading the release, which may take minutes.
    decode_image(image_bytes, installation.limits)
    with installation.database.reading() as session:
        release_id = require_active_release(session)
    settings = installation.settings
    release = load_release(
        settings.releases_dir,
        release_id,
        settings.network_options,
        index_device=settings.index_device,
    )
    with contextlib.closing(InferenceThread()) as inference, ThreadPoolExecutor(1) as pool:
        engine = SearchEngine(release, inference, decoders=pool, searchers=pool, limits=installation.limits)
        return asyncio.run(engine.search(image_bytes, k, min_score))
