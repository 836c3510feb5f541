"""Serve the active release of an installation, and each later one."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from functools import partial

from service.installation.installation import Installation
from service.installation.pools import ThreadPools
from service.releases.files import LoadedRelease, load_release
from service.serving.calibration import Calibration
from service.serving.closing import ReleaseCloser
from service.serving.database_state import DatabaseState
from service.serving.engine import LiveEngine, SearchEngine
from service.serving.inference import InferenceThread, RunFacts
from service.serving.network_check import NetworkCheck, NetworkState
from service.serving.watcher import ReleaseWatcher


@contextlib.asynccontextmanager
async def following_releases(
    installation: Installation,
    live: LiveEngine,
    pools: ThreadPools,
    *,
    database_state: DatabaseState,
    network_state: NetworkState,
    on_run: Callable[[RunFacts], None] = lambda _: None,
) -> AsyncIterator[None]:
    """Keep `live` at the active release, and both states up to date, until the block ends.

    `on_run` is called in the inference thread after each run of the network for searches.
    """
    settings = installation.settings
    inference = InferenceThread(num_decoders=pools.num_decoders, on_run=on_run)
    calibration = Calibration(inference)
    closer = ReleaseCloser()
    network_check = NetworkCheck(live, network_state, interval_seconds=settings.network_check_seconds)

    def make_engine(release: LoadedRelease) -> SearchEngine:
        engine = SearchEngine(
            release,
            inference,
            decoders=pools.decoders,
            searchers=pools.searchers,
            limits=installation.limits,
            timeout_seconds=settings.search_timeout_seconds,
            on_network_failure=network_check.request,
        )
        engine.close_with(closer)
        return engine

    load = partial(
        load_release,
        settings.releases_dir,
        options=settings.network_options,
        index_device=settings.index_device,
    )
    watcher = ReleaseWatcher(
        installation.database,
        live,
        database_state,
        load=lambda release_id, check: load(release_id, check=check),
        make_engine=make_engine,
        calibration=calibration,
        poll_seconds=settings.release_poll_seconds,
        polls=pools.polls,
        heartbeats=pools.heartbeats,
    )
    tasks = [asyncio.create_task(watcher.run()), asyncio.create_task(network_check.run())]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        inference.close()
        closer.close()
