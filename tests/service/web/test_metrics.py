"""Metrics: parsed by the parser of the Prometheus client, and compared with what was done."""

import contextlib
import re
import threading
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient
from prometheus_client import Gauge
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from service.installation.errors import PortInUse
from service.installation.metrics import metrics_port, new_registry
from service.installation.processes import register_process
from service.installation.settings import Settings
from service.operations.metrics import InstallationMetrics
from service.operations.records import create_operation
from service.serving.engine import LiveEngine
from service.storage.database import Database
from service.storage.disk import DiskWatch
from service.storage.errors import DatabaseUnavailable
from service.web.admission import Admission
from service.web.app import create_app
from service.web.metrics import ServerMetrics
from service.web.readiness import ProcessState
from service.web.server import listen
from service.worker.metrics import WorkerMetrics
from tests.images import encode
from tests.service.conftest import product_image, wait_for

PAGE = Path(__file__).parents[3] / "docs" / "monitoring.md"
KEY = "k7Qz-wrench-4815-plum"
HEADERS = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def scraped(served_home):
    """A client of the served shop, with metrics of its own."""
    settings = Settings(home=served_home, release_poll_seconds=0.05, admin_key=KEY, public_search=True)
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        wait_for(lambda: client.get("/readyz").status_code == 200)
        yield client


def samples(text):
    """Return the values of valid metrics by (name, labels)."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse(text)
        for sample in family.samples
    }


def scrape(client):
    response = client.get("/metrics", headers=HEADERS)
    assert response.status_code == 200
    return samples(response.text)


def value(found, name, **labels):
    return found.get((name, tuple(sorted(labels.items()))), 0.0)


def test_metrics_need_a_key_with_the_scope_admin(scraped):
    made = scraped.post("/v1/admin/keys", json={"name": "prometheus-test", "scopes": ["search"]}, headers=HEADERS)
    searcher = made.json()["key"]

    assert scraped.get("/metrics").status_code == 401
    assert scraped.get("/metrics", headers={"X-API-Key": searcher}).status_code == 403
    response = scraped.get("/metrics", headers=HEADERS)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")


def test_both_formats_of_prometheus_can_be_parsed(scraped):
    wanted = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"

    plain = scraped.get("/metrics", headers=HEADERS)
    openmetrics = scraped.get("/metrics", headers={**HEADERS, "Accept": wanted})

    assert "akin_http_requests" in {family.name for family in parse(plain.text)}
    assert openmetrics.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert "akin_http_requests" in {family.name for family in parse_openmetrics(openmetrics.text)}
    assert scraped.get("/metrics", headers={**HEADERS, "Accept": "text/plain; version=new"}).status_code == 200


def test_a_search_counts_once_in_each_stage_with_the_duration_of_its_response(scraped):
    before = scrape(scraped)

    timing = scraped.post("/search", files={"image": encode(product_image("birch"))}).json()["timing"]

    after = scrape(scraped)
    for stage in ("decode", "wait", "embed", "search", "group"):
        count, seconds = (
            value(after, name, stage=stage) - value(before, name, stage=stage)
            for name in ("akin_search_stage_seconds_count", "akin_search_stage_seconds_sum")
        )
        assert count == 1
        assert 1000 * seconds == pytest.approx(timing[stage], abs=0.001)
    assert min(timing.values()) > 0
    assert sum(timing[stage] for stage in timing if stage != "total") <= timing["total"] + 0.01


@pytest.mark.parametrize(
    ("method", "path", "route", "status"),
    [
        ("GET", "/livez", "/livez", 200),
        ("GET", "/media/not-here.png", "/media/{name}", 404),
        ("GET", "/v1/operations/op-1234", "/v1/operations/{operation_id}", 401),
        ("GET", "/static/page.css", "/static", 200),
        ("GET", "/openapi.json", "/openapi.json", 200),
        ("DELETE", "/search", "/search", 405),
        ("GET", "/wp-login.php", "unknown", 404),
        ("GET", "/search/more/of-it", "unknown", 404),
    ],
)
def test_requests_are_counted_by_the_path_template_of_their_route(scraped, method, path, route, status):
    before = scrape(scraped)

    assert scraped.request(method, path).status_code == status

    after = scrape(scraped)
    labels = {"method": method, "route": route, "status": str(status)}
    name = "akin_http_requests_total"
    assert value(after, name, **labels) - value(before, name, **labels) == 1
    assert value(after, "akin_http_request_seconds_count", route=route) >= 1


def test_paths_and_methods_made_up_by_clients_are_not_labels(scraped):
    for number in range(3):
        scraped.get(f"/made-up-{number}")
        scraped.request(f"MADEUP{number}", "/search")

    text = scraped.get("/metrics", headers=HEADERS).text
    assert "made-up" not in text
    assert "MADEUP" not in text
    found = samples(text)
    assert value(found, "akin_http_requests_total", method="other", route="/search", status="405") >= 3


def test_the_release_in_use_is_named(scraped):
    release_id = scraped.get("/readyz").json()["release_id"]

    found = scrape(scraped)

    assert value(found, "akin_active_release_info", release_id=release_id) == 1
    assert found["akin_release_refused", ()] == found["akin_draining", ()] == 0
    assert found["akin_searches_limit", ()] == 32


@pytest.fixture
def disk(installation):
    with contextlib.closing(DiskWatch(installation.settings.home, min_free_bytes=0)) as opened:
        yield opened


def test_a_refused_release_and_a_draining_process_are_exposed(installation, disk):
    metrics, live, state = ServerMetrics(), LiveEngine(), ProcessState()

    with metrics.observing(installation, disk, live, Admission(3), state):
        before = [metrics.registry.get_sample_value(name) for name in ("akin_release_refused", "akin_draining")]
        live.refusal, state.is_draining = "rows.arrow is damaged", True
        after = [metrics.registry.get_sample_value(name) for name in ("akin_release_refused", "akin_draining")]

    assert (before, after) == ([0, 0], [1, 1])
    # Not exposed after the parts are closed.
    assert metrics.registry.get_sample_value("akin_draining") is None


def test_slots_in_use_and_refused_searches_are_exposed(scraped):
    admission = scraped.app.state.akin.admission
    before = scrape(scraped)

    with admission.place(), admission.place():
        during = scrape(scraped)
    admission.num_refused += 3

    after = scrape(scraped)
    assert (during["akin_searches_in_progress", ()], after["akin_searches_in_progress", ()]) == (2, 0)
    assert after["akin_searches_refused_total", ()] - before["akin_searches_refused_total", ()] == 3


def test_two_applications_in_one_process_do_not_share_metrics(settings):
    first, second = create_app(settings), create_app(settings)

    with TestClient(first) as one, TestClient(second) as two:
        one.get("/livez")
        two.get("/version")

    routes = [
        {sample.labels["route"] for family in app.state.metrics.registry.collect() for sample in family.samples
         if sample.name == "akin_http_requests_total"}
        for app in (first, second)
    ]  # fmt: skip
    assert routes == [{"/livez"}, {"/version"}]


def samples_of(installation, disk):
    registry = new_registry()
    registry.register(InstallationMetrics(installation, disk))
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in registry.collect()
        for sample in family.samples
    }


def test_operations_are_counted_by_kind_and_state_and_processes_by_kind(installation, disk):
    create_operation(installation.database, "retrain", {}, actor="test")
    register_process(installation.database, "worker")

    found = samples_of(installation, disk)

    operations = {labels: number for (name, labels), number in found.items() if name == "akin_operations" and number}
    assert operations == {(("kind", "retrain"), ("state", "queued")): 1}
    assert value(found, "akin_operations", kind="build", state="failed") == 0
    assert (("akin_operations"), (("kind", "build"), ("state", "failed"))) in found
    assert value(found, "akin_processes", kind="worker") == 1
    assert value(found, "akin_processes", kind="api") == 0
    assert found["akin_database_up", ()] == 1
    assert found["akin_disk_free_bytes", ()] > 0


def test_a_second_scrape_does_not_read_the_tables_again(installation, disk):
    metrics = InstallationMetrics(installation, disk)
    list(metrics.collect())
    create_operation(installation.database, "retrain", {}, actor="test")

    [operations] = [family for family in metrics.collect() if family.name == "akin_operations"]

    assert sum(sample.value for sample in operations.samples) == 0


def test_a_hanging_database_delays_no_scrape(installation, disk, monkeypatch):
    monkeypatch.setattr("service.installation.metrics._FRESH_SECONDS", 0.0)
    metrics, is_over = InstallationMetrics(installation, disk), threading.Event()
    num_returned: list[int] = []
    before = {family.name: family.samples for family in metrics.collect()}

    def hang(_):
        is_over.wait(60)
        num_returned.append(1)
        raise DatabaseUnavailable("no answer")

    monkeypatch.setattr("service.installation.metrics._PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(Database, "reading", hang)
    during = [{family.name: family.samples for family in metrics.collect()} for _ in range(3)]
    num_returned_during = len(num_returned)
    is_over.set()
    wait_for(lambda: num_returned)

    assert [sample.value for sample in before["akin_database_up"]] == [1]
    assert num_returned_during == 0
    for families in during:
        assert [sample.value for sample in families["akin_database_up"]] == [0]
        assert families["akin_operations"] == families["akin_processes"] == []
        assert [sample.value > 0 for sample in families["akin_disk_free_bytes"]] == [True]


def test_an_unavailable_database_leaves_the_scrape_working(served_home, monkeypatch):
    monkeypatch.setattr("service.installation.metrics._FRESH_SECONDS", 0.0)
    with TestClient(create_app(Settings(home=served_home, admin_key=KEY))) as client:
        wait_for(lambda: client.get("/readyz").status_code == 200)
        assert scrape(client)["akin_database_up", ()] == 1

        with monkeypatch.context() as away:
            away.setattr(Database, "reading", _refuse)
            found = scrape(client)

        assert found["akin_database_up", ()] == 0
        assert not [name for name, _ in found if name in ("akin_operations", "akin_processes")]
        assert [name for name, _ in found if name == "akin_active_release_info"]
        assert scrape(client)["akin_database_up", ()] == 1


def _refuse(self):
    raise DatabaseUnavailable("the database is away")


def test_the_metrics_port_needs_no_key_and_closes_with_the_block():
    registry = new_registry()
    Gauge("akin_test", "For the test.", registry=registry).set(7)

    with metrics_port(registry, "127.0.0.1", 0) as address:
        assert address is not None
        assert samples(httpx.get(address).text)["akin_test", ()] == 7
    with pytest.raises(httpx.ConnectError):
        httpx.get(address)


def test_no_metrics_port_is_opened_by_default():
    with metrics_port(new_registry(), "127.0.0.1", None) as address:
        assert address is None


def test_names_a_metrics_port_in_use_or_on_another_machine():
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(PortInUse, match=rf"port {port} of 127\.0\.0\.1, for the metrics, is in use"),
            metrics_port(new_registry(), "127.0.0.1", port),
        ):
            pass
    with (
        pytest.raises(PortInUse, match=r"the metrics cannot be served on 192\.0\.2\.1"),
        metrics_port(new_registry(), "192.0.2.1", 0),
    ):
        pass


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b"])
def test_names_an_invalid_metrics_host_and_its_setting(host):
    with (
        pytest.raises(PortInUse, match=rf"AKIN_METRICS_HOST={re.escape(host)}: no address of this name"),
        metrics_port(new_registry(), host, 0),
    ):
        pass


def test_every_metric_is_documented_with_its_type_and_labels(scraped):
    scraped.post("/search", files={"image": encode(product_image("birch"))})
    worker = WorkerMetrics()
    worker.record_step("train", "done", 1.0)
    found = {}
    for family in (*scraped.app.state.metrics.registry.collect(), *worker.registry.collect()):
        names = {name for sample in family.samples for name in sample.labels} - {"le"}
        found[family.name] = (family.type, names)

    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|(.*?)\| .+ \|$", PAGE.read_text(), flags=re.M)

    documented = {
        name.removesuffix("_total") if kind == "counter" else name: (kind, set(re.findall(r"\w+", labels)))
        for name, kind, labels in rows
    }
    assert documented == found
