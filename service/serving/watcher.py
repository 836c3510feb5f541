"""Follow the active release: poll for it, load it, swap it in, and report in the table of processes what is served."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial

import structlog

from embedding.errors import EmbeddingError
from index.errors import VectorIndexError
from service.errors import ServiceError
from service.installation.pools import run_in
from service.installation.processes import API, beat, prune_processes, register_process, stop_process
from service.releases.files import LoadedRelease
from service.releases.records import active_release
from service.serving.calibration import Calibration
from service.serving.database_state import DatabaseState
from service.serving.engine import LiveEngine, SearchEngine
from service.serving.loading import Check, load_in_own_thread
from service.storage.database import Database

_FIRST_RETRY_SECONDS = 5.0
_LONGEST_RETRY_SECONDS = 60.0
_HEARTBEAT_SECONDS = 5.0
# How long shutdown waits for the last report to the database.
_LAST_REPORT_SECONDS = 5.0

log = structlog.get_logger(__name__)


class ReleaseWatcher:
    """Keeps the live engine at the active release; if a release fails to load, the previous one is served on.

    While the watcher runs, the table of processes has a row with the release that this process serves and the reason
    for a refusal. If the database is unavailable, searches and the watcher continue. Polls and heartbeats have an
    executor each, in which nothing else runs.
    """

    def __init__(
        self,
        database: Database,
        live: LiveEngine,
        database_state: DatabaseState,
        *,
        load: Callable[[str, Check], LoadedRelease],
        make_engine: Callable[[LoadedRelease], SearchEngine],
        poll_seconds: float,
        polls: Executor,
        heartbeats: Executor,
        calibration: Calibration | None = None,
    ) -> None:
        self._database = database
        self._live = live
        self._database_state = database_state
        self._load = load
        self._make_engine = make_engine
        self._poll_seconds = poll_seconds
        self._polls = polls
        self._heartbeats = heartbeats
        self._calibration = calibration
        self._refused: tuple[str, int] | None = None
        self._retry_at = 0.0
        self._retry_seconds = _FIRST_RETRY_SECONDS
        self._process_id: str | None = None
        self._state_changed = asyncio.Event()
        self._is_stopping = False

    async def run(self) -> None:
        """Poll until cancelled."""
        # A separate task, so that heartbeats continue while a large release loads for minutes.
        reporting = asyncio.create_task(self._keep_reporting())
        try:
            while True:
                await self.check()
                await asyncio.sleep(self._poll_seconds)
        finally:
            self._is_stopping = True
            self._state_changed.set()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(reporting, _LAST_REPORT_SECONDS)

    async def check(self) -> None:
        """Poll once, and load and serve a release that has become active."""
        try:
            release_id, version = await self._poll_active_release()
            if release_id == self._live.release_id:
                if self._live.refusal is not None:
                    self._live.refusal = None
                    self._state_changed.set()
                return
            if release_id is None or self._is_backing_off(release_id, version):
                return
            start = time.perf_counter()
            try:
                engine = self._make_engine(await load_in_own_thread(partial(self._load, release_id)))
                await engine.warm_up(self._calibration)
            except Exception as error:  # noqa: BLE001  # logged; the previous release is served on
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
        self._state_changed.set()
        index = engine.release.index
        if index.fallback is not None:
            log.warning("index_on_cpu", release_id=release_id, reason=index.fallback)
        seconds = round(time.perf_counter() - start, 3)
        embedder = engine.release.embedder
        log.info(
            "release_loaded",
            release_id=release_id,
            seconds=seconds,
            network_runtime=embedder.runtime,
            network_runtime_reason=embedder.runtime_reason,
            index_device=index.device,
            batch_images=engine.costs.best,
            batch_milliseconds={size: round(1000 * spent, 2) for size, spent in engine.costs.seconds.items()},
        )

    async def _poll_active_release(self) -> tuple[str | None, int]:
        """Return the id of the active release and the version of the activation; note the outcome for /readyz."""
        self._database_state.query_started()
        try:
            active = await run_in(self._polls, self._read_active_release)
        except Exception:
            self._database_state.query_failed("the database cannot be read; see the log for the reason")
            raise
        self._database_state.query_succeeded()
        return active

    async def _keep_reporting(self) -> None:
        """Report every few seconds and on every change; at the end report that the process has stopped."""
        while not self._is_stopping:
            await self._report(self._report_served_release)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._state_changed.wait(), _HEARTBEAT_SECONDS)
            self._state_changed.clear()
        await self._report(self._report_stop)

    async def _report(self, write: Callable[[], None]) -> None:
        try:
            await run_in(self._heartbeats, write)
        except ServiceError as error:
            log.warning("heartbeat_failed", reason=str(error))
        except Exception:
            log.exception("heartbeat_failed")

    def _report_served_release(self) -> None:
        if self._process_id is None:
            self._process_id = register_process(self._database, API)
            with self._database.transaction() as session:
                prune_processes(session)
        beat(self._database, self._process_id, release_id=self._live.release_id, refusal=self._live.refusal)

    def _report_stop(self) -> None:
        if self._process_id is not None:
            stop_process(self._database, self._process_id)

    def _read_active_release(self) -> tuple[str | None, int]:
        with self._database.reading() as session:
            active = active_release(session)
        return active.release_id, active.version

    def _is_backing_off(self, release_id: str, version: int) -> bool:
        """Return whether this activation was refused so recently that loading gigabytes again is not worthwhile."""
        return (release_id, version) == self._refused and time.monotonic() < self._retry_at

    def _refuse(self, release_id: str, version: int, error: Exception) -> None:
        self._refused = (release_id, version)
        self._retry_at = time.monotonic() + self._retry_seconds
        self._retry_seconds = min(2 * self._retry_seconds, _LONGEST_RETRY_SECONDS)
        is_known = isinstance(error, ServiceError | EmbeddingError | VectorIndexError)
        reason = str(error) if is_known else f"release {release_id} could not be loaded; see the log for the reason"
        self._live.refusal = reason
        self._state_changed.set()
        log.error("release_refused", release_id=release_id, reason=reason, exc_info=None if is_known else error)
