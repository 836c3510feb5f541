"""Follow the active release: poll for it, load it aside, and swap it in."""

import asyncio
import time
from collections.abc import Callable

import structlog

from embedding.errors import EmbeddingError
from index.errors import VectorIndexError
from service.database import Database
from service.engine import LiveEngine, SearchEngine
from service.errors import ServiceError
from service.inference import run_in_own_thread
from service.release_files import LoadedRelease
from service.releases import active_release

_FIRST_RETRY_SECONDS = 5.0
_LONGEST_RETRY_SECONDS = 60.0

log = structlog.get_logger(__name__)


class ReleaseWatcher:
    """Keeps the live engine at the active release; a release that fails to load leaves the previous one serving."""

    def __init__(
        self,
        database: Database,
        live: LiveEngine,
        *,
        load: Callable[[str], LoadedRelease],
        make_engine: Callable[[LoadedRelease], SearchEngine],
        poll_seconds: float,
    ) -> None:
        self._database = database
        self._live = live
        self._load = load
        self._make_engine = make_engine
        self._poll_seconds = poll_seconds
        self._refused: tuple[str, int] | None = None
        self._retry_at = 0.0
        self._retry_seconds = _FIRST_RETRY_SECONDS

    async def run(self) -> None:
        """Poll until cancelled."""
        while True:
            await self.check()
            await asyncio.sleep(self._poll_seconds)

    async def check(self) -> None:
        """Look once, and load what has become active."""
        try:
            release_id, version = await asyncio.to_thread(self._active)
            if release_id == self._live.release_id:
                self._live.refusal = None
                return
            if release_id is None or self._is_to_wait(release_id, version):
                return
            start = time.perf_counter()
            try:
                engine = self._make_engine(await asyncio.to_thread(self._load_aside, release_id))
                await engine.warm_up()
            except Exception as error:  # noqa: BLE001  # logged, and the previous release goes on serving
                self._refuse(release_id, version, error)
                return
        except ServiceError as error:
            log.warning("release_poll_failed", reason=str(error))
            return
        except Exception:
            log.exception("release_poll_failed")
            return
        self._refused, self._retry_seconds = None, _FIRST_RETRY_SECONDS
        self._live.replace(engine)
        log.info("release_loaded", release_id=release_id, seconds=round(time.perf_counter() - start, 3))

    def _load_aside(self, release_id: str) -> LoadedRelease:
        # Its golden samples run the network.
        return run_in_own_thread(lambda: self._load(release_id))

    def _active(self) -> tuple[str | None, int]:
        with self._database.reading() as session:
            active = active_release(session)
        return active.release_id, active.version

    def _is_to_wait(self, release_id: str, version: int) -> bool:
        """Say whether this activation was refused a moment ago: reading gigabytes each poll would help nobody."""
        return (release_id, version) == self._refused and time.monotonic() < self._retry_at

    def _refuse(self, release_id: str, version: int, error: Exception) -> None:
        self._refused = (release_id, version)
        self._retry_at = time.monotonic() + self._retry_seconds
        self._retry_seconds = min(2 * self._retry_seconds, _LONGEST_RETRY_SECONDS)
        known = isinstance(error, ServiceError | EmbeddingError | VectorIndexError)
        reason = str(error) if known else f"release {release_id} could not be loaded; the log has the reason"
        self._live.refusal = reason
        log.error("release_refused", release_id=release_id, reason=reason, exc_info=None if known else error)
