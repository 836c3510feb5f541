"""Two servers and two workers, each a process of its own, on one PostgreSQL and one home folder."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from service.installation.processes import list_processes
from service.operations.kinds import BUILD
from service.releases.records import active_release
from service.storage.tables.operations import Operation
from tests.databases import new_database
from tests.service.conftest import wait_for
from tests.service.fixtures.learning import FAST, ROOT, Works, copied_shop, fill, stop_all

# Workers that a test killed are replaced for all tests.
pytestmark = [pytest.mark.long, pytest.mark.timeout(1800), pytest.mark.shares("child processes")]

ADMIN = {"X-API-Key": "test-key-0123456789abcdef"}
BUILD_STEPS = ["plan", "embed-1", "build", "catch-up", "activate", "converge", "tidy"]


@dataclass(slots=True)
class System:
    """The processes, and the clients of the servers."""

    works: Works
    clients: list[httpx.Client] = field(default_factory=list)
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, *arguments: str) -> tuple[subprocess.Popen[bytes], Path]:
        """Start a command of akin as an operator would; return it and its log."""
        log_file = self.works.home.parent / f"{arguments[0]}-{len(self.works.processes)}.log"
        environment = {
            **os.environ,
            "AKIN_HOME": str(self.works.home),
            "AKIN_DATABASE_URL": self.works.database_url,
            "AKIN_ADMIN_KEY": ADMIN["X-API-Key"],
            "AKIN_PUBLIC_SEARCH": "false",
            "AKIN_RELEASE_POLL_SECONDS": "0.2",
            "AKIN_DEVICE": "cpu",
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-m", "service.cli.main", *arguments]
        with log_file.open("wb") as log:
            process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=environment)
        self.works.processes.append(process)
        return process, log_file

    def start_servers(self, count: int) -> None:
        for _, log_file in [self.start("serve", "--port", "0") for _ in range(count)]:
            wait_for(lambda path=log_file: "Akin listens on" in path.read_text(), 300)
            address = re.search(r"Akin listens on (http://[0-9.:]+)", log_file.read_text())
            assert address is not None
            self.clients.append(httpx.Client(base_url=address[1], headers=ADMIN, timeout=30))

    def ensure_two_workers(self) -> None:
        """Start the missing ones, and wait until they have started."""
        self.workers = [worker for worker in self.workers if worker.poll() is None]
        started = [self.start("worker") for _ in range(2 - len(self.workers))]
        self.workers += [process for process, _ in started]
        for _, log_file in started:
            wait_for(lambda path=log_file: "worker_started" in path.read_text(), 300)

    def ended(self, operation_id: str, seconds: float = 900) -> Operation:
        """Wait until an operation has ended."""
        wait_for(lambda: self.works.operation(operation_id).finished_at is not None, seconds)
        return self.works.operation(operation_id)

    def steps_done(self, operation_id: str) -> list[str]:
        """Return the steps of an operation that the workers' logs report, as often as each was performed."""
        lines = [
            json.loads(line)
            for path in self.works.home.parent.glob("worker-*.log")
            for line in path.read_text().splitlines()
            if line.startswith("{")
        ]
        done = [line for line in lines if line.get("event") == "operation_step"]
        return [line["step"] for line in done if line["operation_id"] == operation_id]

    def all_serve(self, release_id: str, seconds: float = 20) -> None:
        """Wait until each server answers from a release."""
        for client in self.clients:
            wait_for(lambda client=client: client.get("/version").json()["release_id"] == release_id, seconds)


@pytest.fixture(scope="module")
def running_system(tmp_path_factory, learning_shop, small_checkpoint, postgresql):
    works = Works(tmp_path_factory.mktemp("shared") / "home", new_database(postgresql))
    fill(works.settings, learning_shop / "sample", small_checkpoint)
    system = System(works)
    try:
        system.start_servers(2)
        yield system
    finally:
        for client in system.clients:
            client.close()
        stop_all(works)


@pytest.fixture
def system(running_system):
    running_system.ensure_two_workers()
    with running_system.works.open() as opened, opened.database.reading() as session:
        release_id = active_release(session).release_id
    running_system.all_serve(release_id, 300)
    return running_system


def post_to_both(system, path, **given):
    """Send the same request to both servers at the same moment and return the answers."""
    barrier = threading.Barrier(2)
    answers = {}

    def ask(number):
        barrier.wait()
        answers[number] = system.clients[number].post(path, **given)

    threads = [threading.Thread(target=ask, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [answers[0], answers[1]]


def test_each_operation_is_performed_once_and_both_servers_serve_the_result(system):
    served = []
    for number in range(4):
        answers = post_to_both(system, "/v1/admin/releases", json={"note": f"number {number}"})

        accepted, refused = sorted(answers, key=lambda answer: answer.status_code)
        assert (accepted.status_code, refused.status_code) == (202, 409), [answer.text for answer in answers]
        operation_id = accepted.json()["operation_id"]
        assert refused.json()["operation_id"] == operation_id
        operation = system.ended(operation_id)
        assert (operation.state, operation.attempts) == ("succeeded", 1), operation.error
        assert [step["name"] for step in operation.steps] == BUILD_STEPS
        assert system.steps_done(operation_id) == BUILD_STEPS
        served.append(operation.result["release"]["release_id"])
        system.all_serve(served[-1], 5)

    assert len(set(served)) == 4
    releases = [client.get("/v1/admin/releases").json() for client in system.clients]
    assert releases[0] == releases[1]


def test_the_same_request_to_both_servers_is_one_operation(system):
    answers = post_to_both(system, "/v1/admin/releases", json={}, headers={"Idempotency-Key": "once"})

    assert [answer.status_code for answer in answers] == [202, 202]
    operation_ids = {answer.json()["operation_id"] for answer in answers}
    assert len(operation_ids) == 1
    operation = system.ended(operation_ids.pop())
    assert (operation.state, operation.attempts) == ("succeeded", 1)
    assert system.steps_done(operation.id) == BUILD_STEPS


def test_a_build_runs_beside_a_retrain_and_a_killed_worker_is_replaced_by_the_other(system):
    asked = {"preset": "head", "overrides": list(FAST), "gate": {"max_latency_ratio": 1000}}
    accepted = system.clients[0].post("/v1/admin/retrain", json=asked)
    assert accepted.status_code == 202, accepted.text
    retrain_id = accepted.json()["operation_id"]
    wait_for(lambda: system.works.operation(retrain_id).step == "train", 300)
    trainer = system.works.operation(retrain_id).worker_id

    built = system.clients[1].post("/v1/admin/releases", json={"activate": False})
    build = system.ended(built.json()["operation_id"])
    assert build.state == "succeeded", build.error
    assert system.works.operation(retrain_id).step in ("train", "evaluate")
    with system.works.open() as opened, opened.database.reading() as session:
        pids = {process.id: process.pid for process in list_processes(session, kind="worker")}
    os.kill(pids[trainer], signal.SIGKILL)

    retrain = system.ended(retrain_id)
    assert retrain.state == "succeeded", retrain.error
    assert retrain.worker_id != trainer
    names = [step["name"] for step in retrain.steps]
    assert len(names) == len(set(names))
    assert sorted(system.steps_done(retrain_id)) == sorted(names)
    system.all_serve(retrain.result["release"]["release_id"], 5)


def test_both_servers_read_each_others_writes(system):
    first, second = system.clients
    listed = first.get("/v1/admin/labels", params={"limit": 1}).json()["labels"][0]

    written = first.post("/v1/admin/labels", json={"labels": [{"image_id": listed["image_id"], "label": "tea-pot"}]})

    assert written.status_code == 200, written.text
    seen = second.get(f"/v1/admin/labels/{listed['image_id']}").json()
    assert seen["label"] == "tea-pot"
    back = {"labels": [{"image_id": listed["image_id"], "label": listed["label"]}]}
    assert second.post("/v1/admin/labels", json=back).status_code == 200
    assert first.get(f"/v1/admin/labels/{listed['image_id']}").json()["label"] == listed["label"]


def test_both_servers_know_each_others_keys_and_revocations(system):
    first, second = system.clients
    made = first.post("/v1/admin/keys", json={"name": "shop", "scopes": ["search"]}).json()

    def status(client):
        # An empty search: with a valid key, the answer is 422.
        headers = {"X-API-Key": made["key"], "Content-Type": "image/png"}
        return client.post("/search", headers=headers).status_code

    assert (status(second), status(first)) == (422, 422)
    assert first.post("/v1/admin/keys/shop:revoke").status_code == 200
    assert status(first) == 401
    wait_for(lambda: status(second) == 401, 3)


def test_two_workers_that_start_together_on_sqlite_perform_an_operation_once(tmp_path, learning_shop):
    works = copied_shop(tmp_path, learning_shop)
    operation_id = works.ask(kind=BUILD)
    try:
        for worker in [works.start_worker(), works.start_worker()]:
            assert worker.wait(900) == 0
    finally:
        stop_all(works)

    operation = works.operation(operation_id)
    assert (operation.state, operation.attempts) == ("succeeded", 1), operation.error
    logs = "".join(path.read_text() for path in tmp_path.glob("worker-*.log"))
    assert [logs.count(f"point: within {step}\n") for step in BUILD_STEPS] == [1] * len(BUILD_STEPS)
