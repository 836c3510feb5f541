"""The time of each list of labels over a large catalogue, and the memory that they take.

    python -m benchmarks.million_images.lists --home DIR [--limit 100]

DIR is one that `benchmarks.million_images.make` has filled. The states of all images are brought up to date first: the
first run after `make` computes all of them. Prints the slowest of five calls each.
"""

import argparse
import resource
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from service.catalogue.queries import catalogue_counts
from service.installation.installation import open_installation
from service.installation.settings import load_settings
from service.labels.listing import LabelListing

ROUNDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=100)
    arguments = parser.parse_args()
    with open_installation(load_settings().model_copy(update={"home": arguments.home})) as installation:
        listing = LabelListing(installation.database, is_patient=True)
        start = time.perf_counter()
        label = next(iter(listing.counts(limit=1).classes))
        print(f"{'up to date after':34}{time.perf_counter() - start:10.1f} s")
        before = peak_mib()
        everything = partial(listing.page, label=None, role=None, state=None, after=None, limit=arguments.limit)
        calls: dict[str, Callable[[], object]] = {
            "images": everything,
            "images after the middle": partial(everything, after="8"),
            "images of a role in a state": partial(everything, role="example", state="validation"),
            "images in a state": partial(everything, state="validation"),
            "images of a label": partial(everything, label=label),
            "images of a label in a state": partial(everything, label=label, state="validation"),
            "one image": lambda: listing.show(everything().images[0].image.image_id),
            "counts of labels": partial(listing.counts, limit=arguments.limit),
            "counts of the catalogue": partial(catalogue_counts, installation.database),
        }
        for name, call in calls.items():
            print(f"{name:34}{max(seconds_of(call) for _ in range(ROUNDS)) * 1000:10.0f} ms")
        print(f"{'memory of all lists':34}{peak_mib() - before:10.1f} MiB")


def seconds_of(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
