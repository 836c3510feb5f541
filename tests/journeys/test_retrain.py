"""The whole loop over HTTP alone, on real photos: import, release, labels, retrain, gate, activation, rollback."""

import io
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.service.conftest import wait_for

ROOT = Path(__file__).parents[2]
KEY = "journey-key-0123456789"
NUM_CLASSES, NUM_PHOTOS, NUM_QUERIES = 30, 12, 120
# A few views of each image instead of 28, so that this takes a minute instead of ten.
OVERRIDES = ["augmentation.views=1", "augmentation.catalogue_views=3", "augmentation.catalogue_scenes=4", "steps=300"]


class Shop:
    """A server and a worker on one folder, reached only by an address and a key."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.processes: list[subprocess.Popen[bytes]] = []
        self.address = ""

    def start(self, *arguments: str) -> Path:
        log = self.root / f"{arguments[0]}-{len(self.processes)}.log"
        settings = {
            "AKIN_HOME": str(self.root / "home"),
            "AKIN_ADMIN_KEY": KEY,
            "AKIN_RELEASE_POLL_SECONDS": "0.2",
            "AKIN_DEVICE": "cpu",
        }
        with log.open("wb") as file:
            command = [sys.executable, "-m", "service.cli.main", *arguments]
            environment = {**os.environ, **settings}
            self.processes.append(subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file, env=environment))
        return log

    def serve(self) -> None:
        log = self.start("serve", "--port", "0")
        wait_for(lambda: "Akin listens on " in log.read_text(), 60)
        self.address = log.read_text().partition("Akin listens on ")[2].split()[0]

    def stop(self) -> list[int]:
        for process in self.processes:
            process.terminate()
        return [process.wait(60) for process in self.processes]


@pytest.fixture
def shop(tmp_path: Path):
    opened = Shop(tmp_path)
    yield opened
    for process in opened.processes:
        if process.poll() is None:
            process.kill()
            process.wait()


def grocery_part(grocery: Path) -> tuple[bytes, bytes, list[tuple[str, Path]]]:
    """Return a zip of a catalogue, a zip of labelled photos in a folder per product, and photos to search with."""
    dataset = grocery / "dataset"
    photos: dict[str, list[Path]] = {}
    for line in (dataset / "train.txt").read_text().splitlines():
        path = dataset / line.split(",")[0]
        photos.setdefault(path.parent.name, []).append(path)
    products = sorted(photos)[::2][:NUM_CLASSES]
    iconic = {path.stem.removesuffix("_Iconic"): path for path in dataset.rglob("*_Iconic.jpg")}
    catalogue, labels = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(catalogue, "w") as archive:
        rows = ["product_id,title,image"]
        for product in products:
            archive.write(iconic[product], f"images/{product}.jpg")
            rows.append(f"{product},{product.replace('-', ' ')},images/{product}.jpg")
        archive.writestr("catalogue.csv", "\n".join(rows) + "\n")
    with zipfile.ZipFile(labels, "w") as archive:
        for product in products:
            for number, path in enumerate(photos[product][:NUM_PHOTOS]):
                archive.write(path, f"{product}/{number}.jpg")
    queries = [
        (product, dataset / line.split(",")[0])
        for line in (dataset / "test.txt").read_text().splitlines()
        if (product := Path(line.split(",")[0]).parent.name) in products
    ]
    stride = max(1, len(queries) // NUM_QUERIES)
    return catalogue.getvalue(), labels.getvalue(), queries[::stride]


def recall(client: httpx.Client, queries: list[tuple[str, Path]]) -> tuple[float, set[str]]:
    """Search with each photo; return recall@1, and the releases that answered."""
    num_first, releases = 0, set()
    for product, path in queries:
        answer = client.post("/search?k=1", files={"image": path.read_bytes()}).json()
        num_first += answer["hits"][0]["product_id"] == product
        releases.add(answer["release_id"])
    return num_first / len(queries), releases


def wait_until_ended(client: httpx.Client, location: str, seconds: float) -> dict[str, Any]:
    deadline = time.monotonic() + seconds
    while (shown := client.get(location).json())["finished_at"] is None:
        assert time.monotonic() < deadline, shown
        time.sleep(0.5)
    return dict(shown)


@pytest.mark.e2e
@pytest.mark.long
@pytest.mark.timeout(900)
def test_from_an_empty_folder_to_a_better_release_and_back(grocery: Path, shop: Shop):
    catalogue, labels, queries = grocery_part(grocery)
    shop.serve()
    shop.start("worker")
    zipped = {"Content-Type": "application/zip"}
    with httpx.Client(base_url=shop.address, headers={"Authorization": f"Bearer {KEY}"}, timeout=120) as client:
        assert client.get("/readyz").status_code == 503

        queued = client.post("/v1/admin/catalogue", content=catalogue, headers=zipped)
        imported = wait_until_ended(client, queued.headers["location"], 120)
        assert imported["result"]["report"]["num_products_added"] == NUM_CLASSES
        built = wait_until_ended(client, client.post("/v1/admin/releases").headers["location"], 120)
        assert built["state"] == "succeeded", built
        first = built["result"]["release"]["release_id"]
        wait_for(lambda: client.get("/readyz").json().get("release_id") == first, 30)
        before, answered_by = recall(client, queries)
        assert answered_by == {first}

        queued = client.post("/v1/imports?kind=labels", content=labels, headers=zipped)
        labelled = wait_until_ended(client, queued.headers["location"], 120)["result"]["report"]
        assert labelled["num_failed"] == 0, labelled
        totals = client.get("/v1/admin/labels/counts").json()["total"]
        assert totals["num_examples"] == labelled["num_added"]

        accepted = client.post("/admin/retrain", json={"preset": "head", "overrides": OVERRIDES, "note": "journey"})
        assert accepted.status_code == 202, accepted.text
        retrained = wait_until_ended(client, accepted.headers["location"], 600)
        assert retrained["state"] == "succeeded", retrained
        second = retrained["result"]["release"]["release_id"]
        assert retrained["result"]["is_active"]
        assert all(reason["is_met"] for reason in retrained["result"]["verdict"]["reasons"])
        assert retrained["result"]["served_by"]
        wait_for(lambda: client.get("/readyz").json()["release_id"] == second, 30)
        after, answered_by = recall(client, queries)
        assert answered_by == {second}
        assert after > before + 0.05

        compared = client.get(retrained["links"]["compare"]).json()
        assert compared["a"]["release_id"] == first
        assert compared["b"]["release_id"] == second
        report = client.get(retrained["links"]["report"])
        assert "recall@1" in report.text
        assert report.headers["content-type"].startswith("text/html")

        rolled_back = client.post("/v1/admin/releases:rollback", json={"reason": "end of the journey"})
        assert rolled_back.status_code == 200, rolled_back.text
        wait_for(lambda: client.get("/readyz").json()["release_id"] == first, 30)
        again, answered_by = recall(client, queries)
        assert (again, answered_by) == (before, {first})
        listed = client.get("/v1/admin/releases").json()
        assert [release["release_id"] for release in listed["releases"]] == [second, first]

    assert shop.stop() == [0, 0]
