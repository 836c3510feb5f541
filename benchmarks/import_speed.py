"""The speed of imports: rows a second of new and known images and of labels, and the peak memory.

    python -m benchmarks.import_speed [--rows 20000] [--products 2000] [--folder DIR]

Writes that many PNGs of 32 x 32 pixels, each different, and imports them twice into an empty installation: first all
images are new, then all are known. Then labels are set by image id, in a table, and set again. Each import is a process
of its own, so that its peak memory is its own.
"""

import argparse
import csv
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sqlalchemy import select

from benchmarks.million_images.make import tiny_png
from service.catalogue.importing import import_path
from service.installation.installation import open_installation
from service.installation.settings import Settings
from service.labels.applying import apply_labels
from service.labels.sources import read_label_source
from service.storage.tables.catalogue import ProductImage

STEPS = ("new", "known", "labels", "labels again")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--products", type=int, default=2_000)
    parser.add_argument("--folder", type=Path, help="where to write files (default: the folder of temporary files)")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        print(json.dumps(measure(arguments.folder, arguments.step)))
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        write_catalogue(Path(folder), arguments.rows, arguments.products)
        print(f"{'rows':14}{'number':>10}{'seconds':>10}{'rows/s':>10}{'peak MiB':>10}")
        for step in STEPS:
            command = [sys.executable, "-m", "benchmarks.import_speed", "--folder", folder, "--step", step]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            figures = json.loads(done.stdout.splitlines()[-1])
            rate = figures["rows"] / figures["seconds"]
            print(
                f"{step:14}{figures['rows']:10,}{figures['seconds']:10.1f}{rate:10,.0f}{figures['peak_mib']:10.0f}",
                flush=True,
            )


def write_catalogue(folder: Path, num_rows: int, num_products: int) -> None:
    images = folder / "catalogue" / "images"
    images.mkdir(parents=True)
    with (folder / "catalogue" / "catalogue.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("product_id", "image", "title"))
        for n in range(num_rows):
            subfolder = images / f"{n % 100:02d}"
            subfolder.mkdir(exist_ok=True)
            (subfolder / f"{n}.png").write_bytes(tiny_png(n))
            product = n % num_products
            table.writerow((f"P-{product}", f"images/{n % 100:02d}/{n}.png", f"Product {product}"))


def measure(folder: Path, step: str) -> dict[str, float]:
    """Perform one step; return its number of rows, its seconds, and the peak memory of this process in MiB."""
    with open_installation(Settings(home=folder / "home")) as installation:
        table = folder / "labels.csv"
        if step == "labels":
            with installation.database.reading() as session, table.open("w", newline="") as file:
                rows = csv.writer(file)
                rows.writerow(("image_id", "label"))
                for number, image_id in enumerate(session.scalars(select(ProductImage.id))):
                    rows.writerow((image_id, f"label {number % 1000}"))
        start = time.perf_counter()
        if step in ("new", "known"):
            report = import_path(installation, folder / "catalogue")
            num_rows = report.num_images_added + report.num_unchanged
        else:
            source = read_label_source(table, is_trusted=True)
            num_rows = apply_labels(installation, source, actor="benchmark", source_name="benchmark").num_usable
        seconds = time.perf_counter() - start
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"rows": num_rows, "seconds": seconds, "peak_mib": peak_mib}


if __name__ == "__main__":
    main()
