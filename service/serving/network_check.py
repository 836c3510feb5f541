"""Whether the network of the served release can run, as seen by running it on a small image now and then."""

import asyncio
import contextlib
import time

import structlog

from service.serving.engine import LiveEngine

# A network without an answer for this long is reported as a problem. Before its turn, a full queue is embedded.
_SILENT_SECONDS = 20.0
# Pauses between checks: after a failed one, and at least, however many searches fail.
_RETRY_SECONDS = 5.0
_LEAST_SECONDS = 1.0

log = structlog.get_logger(__name__)


class NetworkState:
    """The outcome of the last check."""

    def __init__(self) -> None:
        self._pending_since: float | None = None
        self._reason: str | None = None
        self.num_failed_checks = 0

    def check_started(self) -> None:
        """Note that the network was given an image."""
        self._pending_since = time.monotonic()

    def check_succeeded(self) -> None:
        """Note that the network has embedded the image."""
        self._pending_since, self._reason = None, None

    def check_failed(self) -> None:
        """Note that the network has failed."""
        self._pending_since = None
        self._reason = "the network failed on a test image; see the log, and restart the server if it does not recover"
        self.num_failed_checks += 1

    def problem(self) -> str | None:
        """Return what is wrong with the network, safe to show to clients; None if nothing is."""
        if self._pending_since is not None:
            seconds = time.monotonic() - self._pending_since
            if seconds > _SILENT_SECONDS:
                return f"the network has not answered for {seconds:.0f} s; restart the server if it does not recover"
        return self._reason


class NetworkCheck:
    """Runs the network at intervals, and at once after it has failed for a search."""

    def __init__(self, live: LiveEngine, state: NetworkState, *, interval_seconds: float) -> None:
        self._live = live
        self._state = state
        self._interval_seconds = interval_seconds
        self._is_wanted = asyncio.Event()

    def request(self) -> None:
        """Check soon; called when a search has failed in the network."""
        self._is_wanted.set()

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            self._is_wanted.clear()
            await self.check()
            await asyncio.sleep(_LEAST_SECONDS)
            pause = min(_RETRY_SECONDS, self._interval_seconds) if self._state.problem() else self._interval_seconds
            # Unlike wait_for in Python 3.11, this never loses a cancellation.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._is_wanted.wait()

    async def check(self) -> None:
        """Run the network of the served release once, if there is one."""
        engine = self._live.current()
        if engine is None:
            return
        had_problem = self._state.problem() is not None
        self._state.check_started()
        try:
            await engine.embed_plain_image()
        except Exception:
            self._state.check_failed()
            log.exception("network_failed", release_id=engine.release_id)
            return
        self._state.check_succeeded()
        if had_problem:
            log.info("network_is_back", release_id=engine.release_id)
