"""The metrics of a worker."""

import signal
import socket
import subprocess
import sys

import httpx
import pytest

from embedding.stages import StageReport, StageWork
from service.cli.main import main
from service.operations.kinds import BUILD
from service.operations.records import create_operation, get_operation
from service.operations.requests import parse_build
from service.releases.build import build_release
from service.web.server import listen
from service.worker.metrics import WorkerMetrics
from tests.service.conftest import wait_for
from tests.service.fixtures.learning import ROOT
from tests.service.fixtures.tiny_model import save_tiny_checkpoint
from tests.service.web.test_metrics import samples, value


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def operation(installation, operation_id):
    with installation.database.reading() as session:
        return get_operation(session, operation_id)


@pytest.mark.long
def test_a_worker_exposes_its_steps_and_the_operations(shop, tmp_path, monkeypatch):
    build_release(shop, checkpoint=save_tiny_checkpoint(tmp_path / "tiny"))
    request = parse_build({}).model_dump(mode="json")
    operation_id = create_operation(shop.database, BUILD, request, actor="test")[0].id
    port = free_port()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("AKIN_DEVICE", "cpu")
    command = [sys.executable, "-m", "service.cli.main", "worker", "--metrics-port", str(port)]

    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_for(lambda: operation(shop, operation_id).state == "succeeded", seconds=280)
            # The tables are read again after five seconds.
            wait_for(lambda: value(scraped(port), "akin_operations", kind="build", state="succeeded") == 1, seconds=60)
            found = scraped(port)
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate(timeout=60)
        finally:
            process.kill()

    steps = [step["name"] for step in operation(shop, operation_id).steps]
    assert steps
    for step in steps:
        assert value(found, "akin_operation_steps_total", step=step, outcome="done") == 1
        assert value(found, "akin_operation_step_seconds_count", step=step) == 1
    assert found["akin_worker_up", ()] == found["akin_database_up", ()] == 1
    assert value(found, "akin_processes", kind="worker") == 1
    assert found["process_resident_memory_bytes", ()] > 0
    assert f"Metrics at http://127.0.0.1:{port}/metrics" in log
    assert process.returncode == 0


def scraped(port):
    return samples(httpx.get(f"http://127.0.0.1:{port}/metrics").text)


def test_a_port_in_use_is_reported_in_one_line(settings, capsys):
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit) as ended:
            main(["worker", "--metrics-port", str(port)])

    assert ended.value.code == 1
    message = f"error: port {port} of 127.0.0.1, for the metrics, is in use; choose another one"
    assert " ".join(capsys.readouterr().err.split()) == message


def test_a_worker_without_rounds_is_not_up(monkeypatch):
    metrics = WorkerMetrics()
    assert metrics.registry.get_sample_value("akin_worker_up") == 0

    metrics.note_round()
    assert metrics.registry.get_sample_value("akin_worker_up") == 1

    monkeypatch.setattr("service.worker.metrics._SILENT_SECONDS", 0.0)
    assert metrics.registry.get_sample_value("akin_worker_up") == 0


@pytest.mark.parametrize("outcome", ["done", "failed"])
def test_steps_are_counted_by_outcome(outcome):
    metrics = WorkerMetrics()

    metrics.record_step("train", outcome, 12.0)

    labels = {"step": "train", "outcome": outcome}
    assert metrics.registry.get_sample_value("akin_operation_steps_total", labels) == 1
    assert metrics.registry.get_sample_value("akin_operation_step_seconds_sum", {"step": "train"}) == 12


def test_a_stage_of_bulk_embedding_is_counted_with_its_busy_time():
    metrics = WorkerMetrics()
    name = "akin_embedding_stage"
    assert metrics.registry.get_sample_value(f"{name}_images_total", {"stage": "write"}) == 0

    for _ in range(2):
        metrics.record_stages(StageReport(decode=StageWork(160, 1.0)))

    assert metrics.registry.get_sample_value(f"{name}_images_total", {"stage": "decode"}) == 320
    assert metrics.registry.get_sample_value(f"{name}_busy_seconds_total", {"stage": "decode"}) == 2
