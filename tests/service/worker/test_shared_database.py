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

ADMIN = {"X-API-Key": "test-key-0123456789abcdef"}
BUILD_STEPS = ["plan", "embed-1", "build", "catch-up", "activate", "converge", "tidy"]


@dataclass(slots=True)
class System:
    """The processes, and what they are asked."""

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
            wait_for(lambda path=log_file: "Akin listens on" in path.read_text(), 60)
            address = re.search(r"Akin listens on (http://[0-9.:]+)", log_file.read_text())
            assert address is not None
            self.clients.append(httpx.Client(base_url=address[1], headers=ADMIN, timeout=30))

    def see_to_two_workers(self) -> None:
        """Start as many as are missing, and wait until they are at work."""
        self.workers = [worker for worker in self.workers if worker.poll() is None]
        started = [self.start("worker") for _ in range(2 - len(self.workers))]
        self.workers += [process for process, _ in started]
        for _, log_file in started:
            wait_for(lambda path=log_file: "worker_started" in path.read_text(), 60)

    def ended(self, operation_id: str, seconds: float = 120) -> Operation:
        """Wait until an operation has ended."""
        wait_for(lambda: self.works.operation(operation_id).finished_at is not None, seconds)
        return self.works.operation(operation_id)

    def steps_done(self, operation_id: str) -> list[str]:
        """Return the steps of an operation that workers have done, in their logs: as often as each was done."""
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
    running_system.see_to_two_workers()
    with running_system.works.open() as opened, opened.database.reading() as session:
        release_id = active_release(session).release_id
    running_system.all_serve(release_id, 60)
    return running_system


def ask_both(system, path, **given):
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


def test_each_job_is_done_once_whichever_server_took_it_and_each_server_serves_what_is_active(system):
    served = []
    for number in range(4):
        answers = ask_both(system, "/v1/admin/releases", json={"note": f"number {number}"})

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


def test_the_same_request_to_both_servers_is_one_job(system):
    answers = ask_both(system, "/v1/admin/releases", json={}, headers={"Idempotency-Key": "once"})

    assert [answer.status_code for answer in answers] == [202, 202]
    operation_ids = {answer.json()["operation_id"] for answer in answers}
    assert len(operation_ids) == 1
    operation = system.ended(operation_ids.pop())
    assert (operation.state, operation.attempts) == ("succeeded", 1)
    assert system.steps_done(operation.id) == BUILD_STEPS


def test_two_workers_share_the_work_and_one_finishes_what_the_other_was_killed_at(system):
    asked = {"preset": "head", "overrides": list(FAST), "gate": {"max_latency_ratio": 1000}}
    accepted = system.clients[0].post("/v1/admin/retrain", json=asked)
    assert accepted.status_code == 202, accepted.text
    retrain_id = accepted.json()["operation_id"]
    wait_for(lambda: system.works.operation(retrain_id).step == "train", 60)
    trainer = system.works.operation(retrain_id).worker_id

    built = system.clients[1].post("/v1/admin/releases", json={"activate": False})
    build = system.ended(built.json()["operation_id"])
    # The job of the other kind was done beside it, by the worker that was free.
    assert build.state == "succeeded", build.error
    assert build.worker_id != trainer
    assert system.works.operation(retrain_id).step in ("train", "evaluate")
    with system.works.open() as opened, opened.database.reading() as session:
        pids = {process.id: process.pid for process in list_processes(session, kind="worker")}
    os.kill(pids[trainer], signal.SIGKILL)

    retrain = system.ended(retrain_id)
    assert (retrain.state, retrain.worker_id) == ("succeeded", build.worker_id), retrain.error
    names = [step["name"] for step in retrain.steps]
    assert len(names) == len(set(names))
    assert sorted(system.steps_done(retrain_id)) == sorted(names)
    system.all_serve(retrain.result["release"]["release_id"], 5)


def test_what_is_written_through_one_server_is_seen_through_the_other(system):
    first, second = system.clients
    listed = first.get("/v1/admin/labels", params={"limit": 1}).json()["labels"][0]

    written = first.post("/v1/admin/labels", json={"labels": [{"image_id": listed["image_id"], "label": "tea-pot"}]})

    assert written.status_code == 200, written.text
    seen = second.get(f"/v1/admin/labels/{listed['image_id']}").json()
    assert seen["label"] == "tea-pot"
    back = {"labels": [{"image_id": listed["image_id"], "label": listed["label"]}]}
    assert second.post("/v1/admin/labels", json=back).status_code == 200
    assert first.get(f"/v1/admin/labels/{listed['image_id']}").json()["label"] == listed["label"]


def test_a_key_made_at_one_server_works_at_the_other_and_a_revoked_one_stops_within_seconds(system):
    first, second = system.clients
    made = first.post("/v1/admin/keys", json={"name": "shop", "scopes": ["search"]}).json()

    def status(client):
        # An empty search: 422 is the answer to whoever may search.
        headers = {"X-API-Key": made["key"], "Content-Type": "image/png"}
        return client.post("/search", headers=headers).status_code

    assert (status(second), status(first)) == (422, 422)
    assert first.post("/v1/admin/keys/shop:revoke").status_code == 200
    assert status(first) == 401
    wait_for(lambda: status(second) == 401, 3)


def test_two_workers_that_start_at_the_same_moment_on_a_new_sqlite_file_do_a_job_once(tmp_path, learning_shop):
    works = copied_shop(tmp_path, learning_shop)
    operation_id = works.ask(kind=BUILD)
    try:
        for worker in [works.start_worker(), works.start_worker()]:
            assert worker.wait(120) == 0
    finally:
        stop_all(works)

    operation = works.operation(operation_id)
    assert (operation.state, operation.attempts) == ("succeeded", 1), operation.error
    logs = "".join(path.read_text() for path in tmp_path.glob("worker-*.log"))
    assert [logs.count(f"point: within {step}\n") for step in BUILD_STEPS] == [1] * len(BUILD_STEPS)
