"""The peers' code that runs without their frameworks: the same pixels, embeddings and ranking as Akin's."""

import io
import os
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image

from benchmarks.peers.catalogue import spread_around, write_catalogue, write_queries, write_torch_network
from benchmarks.peers.comparison import Measurement, Round, difference, hits_of
from benchmarks.peers.load import Load, multipart_body
from benchmarks.peers.processes import Server, free_port
from benchmarks.peers.report import format_table, ratios, rows_of
from benchmarks.peers.servers.fastapi_server import create_app
from benchmarks.peers.servers.options import ServerOptions
from benchmarks.peers.servers.preparation import Preparation
from benchmarks.peers.servers.ranking import Ranking
from embedding.decoding import decode_image
from embedding.embedder import Embedder
from embedding.model import Architecture, create_model
from tests.service.conftest import wait_for

EXPECTED = [("a", 0.9), ("b", 0.8), ("c", 0.7)]


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return create_model(Architecture(), pretrained=False)


@pytest.fixture
def files(tmp_path, network):
    """The files of a catalogue of 40 products, with a network of random weights."""
    folder = tmp_path / "files"
    folder.mkdir()
    write_torch_network(folder, *network)
    embeddings_ND = np.random.default_rng(0).random((40, 1280), np.float32)
    write_catalogue(folder, embeddings_ND / np.linalg.norm(embeddings_ND, axis=1, keepdims=True))
    return folder


def jpeg(orientation=1):
    """A JPEG of 90 × 60 pixels, which are stored as the EXIF orientation tells."""
    pixels = np.random.default_rng(1).integers(0, 256, (6, 9, 3), np.uint8)
    image = Image.fromarray(pixels).resize((90, 60), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = orientation
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", exif=exif)
    return encoded.getvalue()


@pytest.mark.parametrize("orientation", [1, 6])
def test_peers_prepare_the_pixels_that_akin_prepares(files, network, orientation):
    image_bytes = jpeg(orientation)

    pixels = Preparation.read(files).to_pixels(image_bytes)

    expected = network[1].to_pixels(decode_image(image_bytes))
    assert np.abs(pixels.astype(int) - expected).max() <= 1


def test_ranks_as_a_full_sort_does():
    rng = np.random.default_rng(2)
    embeddings_ND = rng.normal(size=(50, 8)).astype(np.float32)
    query_D = rng.normal(size=8).astype(np.float32)
    scores = embeddings_ND @ query_D

    hits = Ranking(embeddings_ND, [str(n) for n in range(50)]).best(query_D, 5)

    assert [hit["product_id"] for hit in hits] == [str(n) for n in np.argsort(-scores)[:5]]
    assert [hit["score"] for hit in hits] == pytest.approx(sorted(scores, reverse=True)[:5])


def test_ranks_all_rows_of_a_small_catalogue():
    hits = Ranking(np.eye(2, dtype=np.float32), ["a", "b"]).best(np.array([0, 1], np.float32), 10)

    assert hits == [{"product_id": "b", "score": 1.0}, {"product_id": "a", "score": 0.0}]


def test_the_fastapi_peer_ranks_by_akins_embedding(files, network, monkeypatch):
    """Decoding, network and ranking of a server, against Akin's embedder and a product with the catalogue."""
    for name, value in ServerOptions(files, "torch", torch.get_num_threads(), 1, 0).to_environment().items():
        monkeypatch.setenv(name, value)

    with TestClient(create_app()) as client:
        response = client.post("/search", files={"image": jpeg()}, params={"k": 3})

    scores = np.load(files / "embeddings.npy") @ Embedder(*network).embed([decode_image(jpeg())])[0]
    expected = [(f"product-{row}", float(scores[row])) for row in np.argsort(-scores)[:3]]
    assert difference(expected, hits_of(response.json())) is None


def test_options_pass_through_the_environment(monkeypatch, tmp_path):
    options = ServerOptions(tmp_path, "onnxruntime", threads=2, workers=3, port=4)

    for name, value in options.to_environment().items():
        monkeypatch.setenv(name, value)

    assert ServerOptions.from_environment() == options


@pytest.mark.parametrize(
    "found",
    [
        [("a", 0.9004), ("b", 0.8), ("c", 0.6996)],
        # `x` scores as much as the last hit, so either may be the last one.
        [("a", 0.9), ("b", 0.8), ("x", 0.7002)],
    ],
)
def test_rankings_may_differ_by_rounding(found):
    assert difference(EXPECTED, found) is None


@pytest.mark.parametrize(
    "found",
    [
        [("a", 0.9), ("b", 0.8)],
        [("a", 0.9), ("b", 0.82), ("c", 0.7)],
        [("b", 0.9), ("a", 0.8), ("c", 0.7)],
        [("a", 0.9), ("x", 0.8), ("c", 0.7)],
    ],
)
def test_rankings_differ_in_length_score_order_or_product(found):
    assert difference(EXPECTED, found) is not None


def test_each_query_has_a_ranking_with_clear_scores():
    queries_ND = np.random.default_rng(3).random((4, 1280), np.float32)
    queries_ND /= np.linalg.norm(queries_ND, axis=1, keepdims=True)

    embeddings_ND = spread_around(queries_ND, 400)

    np.testing.assert_allclose(np.linalg.norm(embeddings_ND, axis=1), 1, atol=1e-6)
    best = np.sort(embeddings_ND[::4] @ queries_ND[0])[::-1][:10]
    assert best[0] - best[-1] > 0.02


def test_queries_are_spread_over_a_folder(tmp_path):
    source = tmp_path / "source"
    for n in range(6):
        (source / f"{n}").mkdir(parents=True)
        (source / f"{n}" / "photo.JPG").write_bytes(bytes([n]))

    write_queries(tmp_path / "queries", 3, source)

    assert [path.read_bytes() for path in sorted((tmp_path / "queries").iterdir())] == [b"\0", b"\2", b"\4"]


def test_a_form_contains_the_image_unchanged():
    body = multipart_body("image", b"\r\n--\0")

    assert body.partition(b"\r\n\r\n")[2].startswith(b"\r\n--\0\r\n--benchmark-boundary")


def measurement(name, *, seconds, wall_seconds):
    """One round: two requests alone that take `seconds`, and four at once in `wall_seconds`."""
    rounds = [Round(Load([seconds] * 2, 2 * seconds, 0.1), Load([wall_seconds] * 4, wall_seconds, 0.1), 2.0)]
    return Measurement(name, "", rounds)


def test_a_ratio_above_one_means_that_akin_is_ahead():
    akin = measurement("Akin", seconds=0.01, wall_seconds=0.5)
    peer = measurement("Peer", seconds=0.02, wall_seconds=2.0)

    assert ratios(akin, peer) == pytest.approx((2.0, 4.0))
    assert [row.is_met() for row in rows_of([akin, peer])] == [True, True]
    assert [row.is_met() for row in rows_of([peer, akin])] == [False, False]
    assert format_table([akin, peer]).splitlines()[2].split()[:3] == ["Peer", "20.0", "20.0"]


# A server with a child in a session of its own that ignores SIGTERM, as a framework's worker may.
_SERVER = """
import http.server, subprocess, sys
code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); signal.pause()"
child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stdout=subprocess.PIPE)
child.stdout.readline()
pid = str(child.pid).encode()
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(pid)))
        self.end_headers()
        self.wfile.write(pid)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def state_of(pid):
    """The state letter of a process, or None after its end."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return None


@pytest.mark.long
def test_a_server_is_suspended_and_stopped_with_its_descendants(tmp_path):
    port = free_port()
    server = Server.start("test", [sys.executable, "-c", _SERVER, str(port)], os.environ, port, tmp_path / "log")
    try:
        server.wait_until_ready("/", 60)
        child = int(httpx.get(f"http://127.0.0.1:{port}/").text)
        assert server.cpu_seconds() > 0

        # The states change a moment after the signals.
        server.suspend()
        wait_for(lambda: state_of(child) == "T")
        server.resume()
        wait_for(lambda: state_of(child) != "T")
    finally:
        server.stop(seconds=0.2)

    # Z: killed, and not yet collected by the init process that adopted it.
    assert state_of(child) in (None, "Z")


@pytest.mark.long
def test_a_server_that_fails_to_start_is_reported_with_its_output(tmp_path):
    server = Server.start(
        "test", [sys.executable, "-c", "raise SystemExit('no port')"], os.environ, 1, tmp_path / "log"
    )

    with pytest.raises(SystemExit, match="exited with status 1:\nno port"):
        server.wait_until_ready("/", 60)
    server.stop()
