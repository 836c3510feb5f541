"""A worker in a process of its own that kills itself where it is told.

Killed means SIGKILL: nothing is cleaned up, written or said.
"""

import argparse
import os
import signal
import sys
import threading
import time
from pathlib import Path

from service.catalogue.records import remove_products
from service.installation.installation import open_installation
from service.installation.settings import Settings
from service.worker import process as worker
from service.worker.steps import publishing as publication
from service.worker.workflows import WORKFLOW_VERSION


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("home", type=Path)
    parser.add_argument("--database-url", default="")
    parser.add_argument("--kill-at", default="", help='such as "within train"')
    parser.add_argument("--kill-after", type=float, default=0.0, help="seconds after the first step of --kill-in began")
    parser.add_argument("--kill-in", default="")
    parser.add_argument("--takeover-seconds", type=float, default=60.0)
    parser.add_argument("--pause-at", action="append", default=[], help="wait a second and a half there")
    parser.add_argument("--stay", action="store_true")
    parser.add_argument("--version", default=WORKFLOW_VERSION)
    parser.add_argument("--shard-images", type=int, default=publication._SHARD_IMAGES)
    parser.add_argument("--remove-product", default="", help="from the catalogue, when the release has just been built")
    options = parser.parse_args()
    vars(worker)["WORKFLOW_VERSION"] = options.version
    publication._SHARD_IMAGES = options.shard_images
    settings = Settings(
        home=options.home,
        database_url=options.database_url,
        device="cpu",
        worker_takeover_seconds=options.takeover_seconds,
        release_poll_seconds=0.1,
    )

    def observe(point: str) -> None:
        sys.stderr.write(f"point: {point}\n")
        sys.stderr.flush()
        if point == options.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if point in options.pause_at:
            time.sleep(1.5)
        if point == "within build" and options.remove_product:
            with open_installation(settings) as installation, installation.database.transaction() as session:
                remove_products(session, [options.remove_product])
        if options.kill_in and point == f"before {options.kill_in}":
            threading.Thread(target=kill_later, daemon=True).start()

    def kill_later() -> None:
        time.sleep(options.kill_after)
        os.kill(os.getpid(), signal.SIGKILL)

    worker.run_worker(settings, worker.WorkerHooks(until_idle=not options.stay, observe=observe))


if __name__ == "__main__":
    main()
