"""A worker in a process of its own that kills itself where it is told.

Killed means SIGKILL: nothing is cleaned up, written or said.
"""

import argparse
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

from service.operations.worker import WorkerHooks, run_worker
from service.settings import Settings


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("home", type=Path)
    parser.add_argument("--database-url", default="")
    parser.add_argument("--kill-at", default="", help='such as "within train"')
    parser.add_argument("--kill-after", type=float, default=0.0, help="seconds after the first step of --kill-in began")
    parser.add_argument("--kill-in", default="")
    parser.add_argument("--takeover-seconds", type=float, default=60.0)
    parser.add_argument("--stay", action="store_true")
    options = parser.parse_args()
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
        if options.kill_in and point == f"before {options.kill_in}":
            threading.Thread(target=kill_later, daemon=True).start()

    def kill_later() -> None:
        time.sleep(options.kill_after)
        os.kill(os.getpid(), signal.SIGKILL)

    random.seed(0)
    run_worker(settings, WorkerHooks(until_idle=not options.stay, observe=observe))


if __name__ == "__main__":
    main()
