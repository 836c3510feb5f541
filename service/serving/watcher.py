"""Follow the active release: poll for it, load it aside, and swap it in; and let the others know what is served."""

import asyncio
import contextlib
import time
from collections.abc import Callable

import structlog

from embedding.errors import EmbeddingError
from index.errors import VectorIndexError
from service.errors import ServiceError
from service.installation.processes import API, beat, prune_processes, register_process, stop_process
from service.releases.files import LoadedRelease
from service.releases.records import active_release
from service.serving.database_state import DatabaseState
from service.serving.engine import LiveEngine, SearchEngine
from service.serving.inference import run_in_own_thread
from service.storage.database import Database

_FIRST_RETRY_SECONDS = 5.0
_LONGEST_RETRY_SECONDS = 60.0
_BEAT_SECONDS = 5.0
# How long the end of a process waits for its last words to the database.
_LAST_WORDS_SECONDS = 5.0

log = structlog.get_logger(__name__)


class ReleaseWatcher:
    """Keeps the live engine at the active release; a release that fails to load leaves the previous one serving.

    While it runs, the table of processes has a row of this process: what it answers from, and what it refuses. That
    row is for others; a database that is away stops neither searches nor the watcher.
    """

    def __init__(
        self,
        database: Database,
        live: LiveEngine,
        database_state: DatabaseState,
        *,
        load: Callable[[str], LoadedRelease],
        make_engine: Callable[[LoadedRelease], SearchEngine],
        poll_seconds: float,
    ) -> None:
        self._database = database
        self._live = live
        self._database_state = database_state
        self._load = load
        self._make_engine = make_engine
        self._poll_seconds = poll_seconds
        self._refused: tuple[str, int] | None = None
        self._retry_at = 0.0
        self._retry_seconds = _FIRST_RETRY_SECONDS
        self._process_id: str | None = None
        self._has_news = asyncio.Event()
        self._is_ending = False

    async def run(self) -> None:
        """Poll until cancelled."""
        # Apart from the polling: a process that reads a large release for minutes lives all the same.
        beating = asyncio.create_task(self._keep_beating())
        try:
            while True:
                await self.check()
                await asyncio.sleep(self._poll_seconds)
        finally:
            self._is_ending = True
            self._has_news.set()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(beating, _LAST_WORDS_SECONDS)

    async def check(self) -> None:
        """Look once, and load what has become active."""
        try:
            release_id, version = await self._ask()
            if release_id == self._live.release_id:
                if self._live.refusal is not None:
                    self._live.refusal = None
                    self._has_news.set()
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
        self._has_news.set()
        log.info("release_loaded", release_id=release_id, seconds=round(time.perf_counter() - start, 3))

    async def _ask(self) -> tuple[str | None, int]:
        """Ask what is active, and note for /readyz how the database is."""
        self._database_state.asking()
        try:
            active = await asyncio.to_thread(self._active)
        except Exception:
            self._database_state.failed("the database cannot be read at present; the log has the reason")
            raise
        self._database_state.answered()
        return active

    async def _keep_beating(self) -> None:
        """Beat every few seconds, and at once when there is news; at the end say that the process has stopped."""
        while not self._is_ending:
            await self._tell(self._beat)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._has_news.wait(), _BEAT_SECONDS)
            self._has_news.clear()
        await self._tell(self._stop)

    async def _tell(self, say: Callable[[], None]) -> None:
        try:
            await asyncio.to_thread(say)
        except ServiceError as error:
            log.warning("heartbeat_failed", reason=str(error))
        except Exception:
            log.exception("heartbeat_failed")

    def _beat(self) -> None:
        if self._process_id is None:
            self._process_id = register_process(self._database, API)
            with self._database.transaction() as session:
                prune_processes(session)
        beat(self._database, self._process_id, release_id=self._live.release_id, refusal=self._live.refusal)

    def _stop(self) -> None:
        if self._process_id is not None:
            stop_process(self._database, self._process_id)

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
        self._has_news.set()
        log.error("release_refused", release_id=release_id, reason=reason, exc_info=None if known else error)
