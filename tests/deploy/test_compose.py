"""docker-compose.yml as parsed by the real Compose, which needs no engine for this."""

import ipaddress
import re
import subprocess
import tomllib

import pytest

from service.installation.settings import Settings, load_settings, unknown_settings
from service.web import server
from service.worker import process as worker
from tests.deploy.conftest import ENVIRONMENT, ROOT, TOOLS, compose, seconds

OURS = {"api", "worker", "migrate", "sample"}  # run Akin's image
ONCE = {"migrate", "sample"}  # run to completion
SETTINGS = {f"AKIN_{name.upper()}" for name in Settings.model_fields}


def test_has_the_documented_services(services):
    assert set(services) == OURS | {"gateway", "postgres"}


def test_every_service_is_unprivileged(services):
    for name, service in services.items():
        user, _, group = service["user"].partition(":")
        assert int(user) > 0, name
        assert int(group) > 0, name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        forbidden = ("privileged", "cap_add", "pid", "ipc", "network_mode", "devices")
        assert [key for key in forbidden if service.get(key)] == [], name


def test_every_service_has_limits(services):
    for name, service in services.items():
        limits = service["deploy"]["resources"]["limits"]
        assert limits["cpus"] > 0, name
        assert int(limits["memory"]) >= 2**29, name
        assert limits["pids"] > 0, name
        assert all("size=" in place or name == "postgres" for place in service["tmpfs"]), name


def test_tmp_leaves_memory_for_the_process(services):
    """Files in a tmpfs count towards the memory limit of the container."""
    for name, service in services.items():
        (megabytes,) = re.findall(r"/tmp:size=(\d+)m", " ".join(service["tmpfs"]))
        limit_bytes = int(service["deploy"]["resources"]["limits"]["memory"])
        assert int(megabytes) * 2**20 <= limit_bytes * 2 / 3, name


def test_logs_are_bounded(services):
    for name, service in services.items():
        assert set(service["logging"]["options"]) == {"max-size", "max-file"}, name


def test_no_environment_contains_a_secret(services):
    for name, service in services.items():
        for variable in service.get("environment", {}):
            is_secret = re.search("PASSWORD|SECRET|ADMIN_KEY$|DATABASE_URL|TOKEN", variable)
            assert not is_secret or variable.endswith("_FILE"), f"{name}: {variable}"


def test_each_service_gets_only_the_secrets_that_it_needs(services):
    given = {name: {secret["source"] for secret in service.get("secrets", [])} for name, service in services.items()}

    assert given == {
        "gateway": set(),
        "migrate": {"akin_database_url"},
        "api": {"akin_database_url", "akin_admin_key"},
        "worker": {"akin_database_url"},
        "sample": {"akin_database_url"},
        "postgres": {"postgres_password"},
    }


def test_only_the_gateway_is_published_and_by_default_only_on_the_host(services):
    published = {name: service["ports"] for name, service in services.items() if service.get("ports")}

    assert set(published) == {"gateway"}
    assert [(port["host_ip"], port["published"]) for port in published["gateway"]] == [("127.0.0.1", "8080")]


def test_the_gateway_cannot_reach_the_database(configuration, services):
    assert set(services["postgres"]["networks"]) == {"database"}
    assert set(services["gateway"]["networks"]) == {"front"}
    assert configuration["networks"]["database"]["internal"] is True


def test_servers_trust_only_the_gateway(configuration, services):
    address = services["gateway"]["networks"]["front"]["ipv4_address"]
    (addresses,) = configuration["networks"]["front"]["ipam"]["config"]

    assert services["api"]["environment"]["AKIN_TRUSTED_PROXIES"] == address
    assert ipaddress.ip_address(address) in ipaddress.ip_network(addresses["subnet"])
    # Replicas get addresses from this range, so none can get the gateway's.
    assert ipaddress.ip_address(address) not in ipaddress.ip_network(addresses["ip_range"])
    assert addresses["gateway"] != address


def test_services_start_from_the_database_to_the_gateway(services):
    waits = {
        name: {other: how["condition"] for other, how in service.get("depends_on", {}).items()}
        for name, service in services.items()
    }
    after_migrate = {"migrate": "service_completed_successfully", "postgres": "service_healthy"}

    assert waits == {
        "postgres": {},
        "migrate": {"postgres": "service_healthy"},
        "api": after_migrate,
        "worker": after_migrate,
        "sample": after_migrate,
        "gateway": {"api": "service_healthy"},
    }


def test_services_with_dependents_have_a_health_check(services):
    """The check of Akin's image applies where a service defines none."""
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert "HEALTHCHECK" in dockerfile
    for name, service in services.items():
        check = service.get("healthcheck", {})
        if name in ONCE:
            assert check["disable"] is True
        elif name == "api":
            assert check == {}
        else:
            assert check["test"][0] == "CMD", name
            assert seconds(check["timeout"]) < seconds(check["interval"]) or name == "postgres", name


def test_a_server_has_time_to_drain_and_finish(services):
    environment = services["api"]["environment"]
    needed = float(environment["AKIN_DRAIN_SECONDS"]) + float(environment["AKIN_SHUTDOWN_SECONDS"])

    assert float(environment["AKIN_DRAIN_SECONDS"]) > 2  # the gateway resolves the servers again every 2 seconds
    assert seconds(services["api"]["stop_grace_period"]) > needed + server._OVERTIME_SECONDS


def test_a_worker_has_time_to_save_its_training_state(services):
    assert seconds(services["worker"]["stop_grace_period"]) > worker.STOP_SECONDS


def test_the_gateway_has_time_to_finish(services):
    template = (ROOT / "deploy" / "nginx" / "nginx.conf.template").read_text()
    longest = re.search(r"worker_shutdown_timeout (\d+)s;", template)

    assert longest
    assert seconds(services["gateway"]["stop_grace_period"]) > int(longest.group(1))


def test_all_services_share_one_image_with_a_versioned_tag(services, configuration):
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    images = {services[name]["image"] for name in OURS}
    targets = {services[name]["build"]["target"] for name in OURS}

    (target,) = targets
    assert images == {f"akin:{version}-{target}"}
    for service in services.values():
        assert re.search(r":\d[\w.-]*$", service["image"]), service["image"]


@pytest.mark.parametrize("gpu", [False, True])
def test_only_the_override_requests_gpus(gpu):
    services = compose(gpu=gpu)["services"]
    requesting = {
        name
        for name, service in services.items()
        for device in service["deploy"]["resources"].get("reservations", {}).get("devices", [])
        if device["driver"] == "nvidia" and device["capabilities"] == ["gpu"]
    }

    assert requesting == ({"api", "worker"} if gpu else set())
    assert all(services[name]["environment"]["AKIN_DEVICE"] == "cuda" for name in requesting)


def test_every_akin_variable_is_a_setting(services):
    for name in OURS:
        named = {variable for variable in services[name]["environment"] if variable.startswith("AKIN_")}
        assert named <= SETTINGS, name


@pytest.mark.parametrize("name", sorted(OURS))
def test_the_environment_of_a_container_is_accepted(monkeypatch, tmp_path, services, name):
    for variable, value in services[name]["environment"].items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("AKIN_SECRETS_DIR", str(tmp_path / "secrets"))
    subprocess.run(
        ["sh", "deploy/make-secrets.sh", str(tmp_path / "secrets")], cwd=ROOT, check=True, stdout=subprocess.DEVNULL
    )
    monkeypatch.chdir(tmp_path)

    settings = load_settings()

    assert unknown_settings() == []
    assert settings.auto_migrate is False
    assert settings.database_url.startswith("postgresql+psycopg://akin:")
    if name == "api":
        assert (settings.drain_seconds, settings.metrics_port, settings.max_searches) == (5, 9090, 32)


def test_the_gateway_gets_only_variables_of_its_template(services):
    template = (ROOT / "deploy" / "nginx" / "nginx.conf.template").read_text()
    known = set(re.findall(r"^#: (\w+)=", template, re.MULTILINE))

    assert set(services["gateway"]["environment"]) <= known


def test_the_example_lists_exactly_the_variables_that_compose_reads():
    text = (ROOT / ".env.example").read_text()
    assert all(re.match(r"#|$", line) for line in text.splitlines())
    example = dict(re.findall(r"^# ([A-Z_]+)=(.*)$", text, re.MULTILINE))
    command = [str(TOOLS / "docker-compose"), "--file", "docker-compose.yml", "--file", "docker-compose.gpu.yml"]
    listing = subprocess.run(
        [*command, "config", "--variables"], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=True
    ).stdout
    read = {row[0]: row[2] if len(row) > 2 else "" for row in map(str.split, listing.splitlines()[1:])}

    # The override has another default for IMAGE.
    assert {**read, "IMAGE": ""} == {**example, "IMAGE": ""}
    assert {name for name in read if name.startswith("AKIN_")} <= SETTINGS
    assert all(default == "" for name, default in read.items() if name.startswith("AKIN_"))


def test_replicas_and_the_path_prefix_are_variables():
    services = compose(environment={"API_REPLICAS": "5", "AKIN_ROOT_PATH": "/akin"})["services"]

    assert services["api"]["deploy"]["replicas"] == 5
    assert {services[name]["environment"]["AKIN_ROOT_PATH"] for name in ("api", "gateway")} == {"/akin"}


def test_the_page_lists_networks_and_limits_of_each_service():
    text = (ROOT / "docs" / "deployment.md").read_text()
    rows = re.findall(
        r"^\| `(\w+)`(?: × (\d+))? \|.*\| (.+) \| (\d+) CPUs?, (\d+) ([MG])B(?: each)? \|$", text, re.MULTILINE
    )
    services = compose()["services"]

    assert {row[0] for row in rows} == set(services) - {"sample"}
    for name, replicas, networks, cpus, size, unit in rows:
        deploy = services[name]["deploy"]
        assert deploy.get("replicas", 1) == int(replicas or 1), name
        assert set(networks.split(", ")) == set(services[name]["networks"]), name
        limits = deploy["resources"]["limits"]
        assert (limits["cpus"], int(limits["memory"])) == (int(cpus), int(size) * 2 ** {"M": 20, "G": 30}[unit]), name
