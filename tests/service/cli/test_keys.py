"""akin keys, akin admin-key and akin audit; every command that changes something is recorded in the audit log."""

import getpass
import json
import socket
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from pydantic import SecretStr

from service.access import audit
from service.access.audit import list_events
from service.access.keys import FIRST_KEY, create_key, ensure_admin_key, key_digest, load_keys, revoke_key
from service.access.masking import has_key
from service.cli.audit_recording import recorded
from service.cli.keys import show_new_key
from service.cli.main import search_warning
from service.installation.installation import open_installation
from service.installation.settings import Settings
from service.storage.errors import DatabaseUnavailable
from service.web.app import create_app
from service.web.server import listen, running
from tests.images import encode
from tests.service.conftest import product_image, wait_for, write_shop
from tests.service.fixtures.access import bearer
from tests.service.fixtures.tiny_model import save_tiny_checkpoint

DAY = timedelta(days=1)


def known(settings):
    with open_installation(settings) as installation:
        return {key.name: key for key in load_keys(installation.database)}


def recorded_events(settings):
    """Return the audit log, oldest first, as (action, target, outcome)."""
    with open_installation(settings) as installation:
        events = list_events(installation.database, limit=1000)
    return [(event.action, event.target, event.outcome) for event in reversed(events)]


def test_only_the_new_key_is_printed_to_standard_output(akin, settings):
    done = akin("keys", "create", "shop", "--scope", "search", "--scope", "catalogue:write")

    key = done.out.removesuffix("\n")
    assert has_key(key)
    assert len(key) == 48
    assert "shop may search, catalogue:write" in done.err
    assert key not in done.err
    made = known(settings)["shop"]
    assert (made.sha256, sorted(made.scopes), made.expires_at) == (key_digest(key), ["catalogue:write", "search"], None)


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("90d", lambda: datetime.now(UTC) + 90 * DAY),
        ("36h", lambda: datetime.now(UTC) + 1.5 * DAY),
        ("2100-01-31", lambda: datetime(2100, 1, 31, tzinfo=UTC)),
        ("2100-01-31T10:00:00+02:00", lambda: datetime(2100, 1, 31, 8, tzinfo=UTC)),
    ],
)
def test_a_key_may_expire_after_a_duration_or_at_a_time(akin, settings, text, end):
    akin("keys", "create", "shop", "--scope", "search", "--expires", text)

    found = known(settings)["shop"].expires_at
    assert found is not None
    assert abs(found - end()) < timedelta(minutes=1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("create", "a b", "--scope", "search"), "cannot be called 'a b'"),
        (("create", "shop", "--scope", "all"), "there is no scope 'all'"),
        (("create", "shop", "--scope", "search", "--expires", "tomorrow"), "--expires tomorrow: write a day"),
        (("create", "shop", "--scope", "search", "--expires", "999999999w"), "--expires 999999999w: write"),
        (("create", "shop", "--scope", "search", "--expires", "2001-01-01"), "is in the past"),
        (("show", "shop"), "there is no key 'shop'"),
        (("revoke", "shop"), "there is no key 'shop'"),
        (("rotate", "shop"), "there is no key 'shop'"),
        (("rotate", "shop", "--grace", "1y"), "--grace 1y: write a number and a unit"),
    ],
)
def test_an_error_is_one_line_with_the_reason(akin, settings, arguments, said):
    done = akin("keys", *arguments, status=1)

    assert done.out == ""
    (line,) = done.err.splitlines()
    assert said in line
    assert known(settings) == {}


def test_a_key_needs_a_scope(akin):
    assert "--scope" in akin("keys", "create", "shop", status=2).err


def test_lists_and_shows_keys_without_secrets(akin, settings):
    secret = akin("keys", "create", "shop", "--scope", "search", "--expires", "90d").out.strip()
    akin("keys", "create", "boss", "--scope", "admin")
    akin("keys", "rotate", "shop", "--grace", "1h")
    akin("keys", "create", "other", "--scope", "admin")
    akin("keys", "revoke", "boss")

    table = akin("keys", "list").out
    listed = {key["name"]: key for key in json.loads(akin("keys", "list", "--json").out)}
    shown = json.loads(akin("keys", "show", "shop").out)

    assert {name: key["state"] for name, key in listed.items()} == {
        "shop": "active",
        "boss": "revoked",
        "other": "active",
    }
    assert shown == listed["shop"]
    assert shown["created_by"] == f"command line, {getpass.getuser()}"
    assert shown["old_secret_until"] is not None
    for name in listed:
        assert name in table
    for text in (table, json.dumps(shown)):
        assert secret not in text
        assert key_digest(secret) not in text


def test_rotates_with_a_day_of_grace_by_default_or_none(akin, settings):
    first = akin("keys", "create", "shop", "--scope", "search").out.strip()
    second = akin("keys", "rotate", "shop")
    after_one = known(settings)["shop"]
    third = akin("keys", "rotate", "shop", "--grace", "0", "--expires", "30d").out.strip()
    after_two = known(settings)["shop"]

    assert "stays valid for 24h" in second.err
    assert after_one.previous_sha256 == key_digest(first)
    assert after_one.previous_expires_at is not None
    assert abs(after_one.previous_expires_at - datetime.now(UTC) - DAY) < timedelta(minutes=1)
    assert (after_two.sha256, after_two.previous_sha256) == (key_digest(third), None)
    assert after_two.expires_at is not None


def test_the_last_admin_key_is_not_revoked(akin, settings):
    akin("keys", "create", "boss", "--scope", "admin")

    assert "akin keys create NAME --scope admin" in akin("keys", "revoke", "boss", status=1).err
    akin("keys", "create", "other", "--scope", "admin")
    assert "boss is revoked" in akin("keys", "revoke", "boss").out


def test_the_first_key_is_shown_once_and_replaced_on_request(akin, settings):
    first = akin("admin-key").out.strip()
    lost = akin("admin-key", status=1).err
    second = akin("admin-key", "--new").out.strip()

    assert "akin admin-key --new" in lost
    assert has_key(first)
    assert known(settings)[FIRST_KEY].sha256 == key_digest(second)
    assert known(settings)[FIRST_KEY].previous_sha256 is None


def test_a_start_shows_the_first_key_once(installation, capsys):
    show_new_key(installation)
    first = capsys.readouterr()
    show_new_key(installation)
    second = capsys.readouterr()

    assert has_key(first.err)
    assert (first.out, second.out, second.err) == ("", "", "")
    assert recorded_events(installation.settings) == [("first start", "admin (admin)", "succeeded")]


def test_a_start_warns_of_a_first_key_besides_the_key_of_the_settings(installation, capsys):
    settings = installation.settings.model_copy(update={"admin_key": SecretStr("of-the-settings")})
    ensure_admin_key(installation.database, installation.settings)

    with open_installation(settings) as with_key:
        show_new_key(with_key)
        warned = capsys.readouterr().err
        revoke_key(with_key.database, FIRST_KEY, settings=settings)
        show_new_key(with_key)

    assert "is also valid" in warned
    assert "akin keys revoke admin" in warned
    assert capsys.readouterr().err == ""


def test_a_start_warns_if_there_is_no_valid_admin_key(installation, capsys):
    settings = installation.settings.model_copy(update={"admin_key": SecretStr("of-the-settings")})
    create_key(installation.database, "boss", ["admin"], actor="test")
    revoke_key(installation.database, "boss", settings=settings)

    show_new_key(installation)

    assert "akin keys create NAME --scope admin" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("public_search", "trusted_proxies", "is_loopback", "said"),
    [
        (True, "", False, "every client that can reach"),
        (True, "", True, None),
        ("auto", "127.0.0.1", True, "set AKIN_PUBLIC_SEARCH to true or false"),
        ("auto", "127.0.0.1", False, None),
        ("auto", "", True, None),
        (False, "127.0.0.1", True, None),
    ],
)
def test_a_start_warns_of_searches_without_a_key(public_search, trusted_proxies, is_loopback, said):
    settings = Settings(public_search=public_search, trusted_proxies=trusted_proxies)

    warning = search_warning(settings, is_loopback)

    assert (warning is None) if said is None else (said in str(warning))


def test_every_change_is_recorded_also_if_it_fails(akin, settings, tmp_path):
    """Each command that changes something: once with success, and some with failure."""
    write_shop(tmp_path / "shop")
    checkpoint = save_tiny_checkpoint(tmp_path / "checkpoint")
    (tmp_path / "photo.png").write_bytes(encode(product_image("cedar", 7)))

    akin("catalogue", "import", tmp_path / "shop", "--dry-run")
    akin("catalogue", "import", tmp_path / "shop")
    akin("catalogue", "label", tmp_path / "photo.png", "--as", "cedar")
    image_id = json.loads(akin("catalogue", "labels", "--limit", "1", "--json").out)["labels"][0]["image_id"]
    akin("catalogue", "relabel", image_id, "birch")
    akin("catalogue", "relabel", "nothing", "birch", status=1)
    akin("catalogue", "remove", "amber")
    akin("catalogue", "remove", "nothing", status=1)
    first, second = (
        json.loads(akin("index", "build", "--checkpoint", checkpoint, "--json").out)["release_id"] for _ in range(2)
    )
    akin("release", "activate", first)
    akin("release", "activate", "nothing", status=1)
    akin("release", "rollback")
    akin("release", "prune", "--keep", "0", "--dry-run")
    akin("release", "prune", "--keep", "0")
    akin("retrain", "--no-wait")
    operation_id = json.loads(akin("operations", "list", "--json").out)[0]["operation_id"]
    akin("retrain", "--no-wait", status=1)
    akin("operations", "cancel", operation_id)
    akin("operations", "cancel", "nothing", status=1)
    akin("admin-key")
    akin("keys", "create", "shop", "--scope", "search")
    akin("keys", "create", "shop", "--scope", "search", status=1)
    akin("keys", "rotate", "shop")
    akin("keys", "revoke", "shop")
    akin("keys", "revoke", FIRST_KEY, status=1)

    assert recorded_events(settings) == [
        ("akin catalogue import", str(tmp_path / "shop"), "succeeded"),
        ("akin catalogue label", str(tmp_path / "photo.png"), "succeeded"),
        ("akin catalogue relabel", image_id, "succeeded"),
        ("akin catalogue relabel", "nothing", "invalid-labels"),
        ("akin catalogue remove", "amber", "succeeded"),
        ("akin catalogue remove", "nothing", "product-not-found"),
        ("akin index build", first, "succeeded"),
        ("akin index build", second, "succeeded"),
        ("akin release activate", first, "succeeded"),
        ("akin release activate", "nothing", "release-not-found"),
        ("akin release rollback", second, "succeeded"),
        ("akin release prune", "", "succeeded"),
        ("akin retrain", operation_id, "succeeded"),
        ("akin retrain", "", "operation-active"),
        ("akin operations cancel", operation_id, "succeeded"),
        ("akin operations cancel", "nothing", "operation-not-found"),
        ("akin admin-key", FIRST_KEY, "succeeded"),
        ("akin keys create", "shop (search)", "succeeded"),
        ("akin keys create", "shop (search)", "key-name-taken"),
        ("akin keys rotate", "shop", "succeeded"),
        ("akin keys revoke", "shop", "succeeded"),
        ("akin keys revoke", FIRST_KEY, "last-admin-key"),
    ]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (KeyboardInterrupt(), "interrupted"),
        (OSError("disk"), "storage-error"),
        (RuntimeError("a bug"), "internal-error"),
    ],
)
def test_an_interrupted_command_is_recorded(installation, error, outcome):
    with pytest.raises(type(error)), recorded(installation, "akin x", "y"):
        raise error

    assert recorded_events(installation.settings) == [("akin x", "y", outcome)]


def test_a_row_that_cannot_be_written_is_a_warning(akin, settings, monkeypatch):
    def fail(*_, **__):
        raise DatabaseUnavailable("gone")

    monkeypatch.setattr(audit, "record_event", fail)

    done = akin("keys", "create", "shop", "--scope", "search")

    assert "this is missing from the audit log: gone" in done.err
    assert "shop" in known(settings)


def test_lists_the_audit_log(akin, settings):
    akin("keys", "create", "shop", "--scope", "search")
    akin("keys", "revoke", "nobody", status=1)

    table = akin("audit").out
    events = json.loads(akin("audit", "--json").out)

    assert [event["action"] for event in events] == ["akin keys revoke", "akin keys create"]
    assert {event["actor"] for event in events} == {f"command line, {getpass.getuser()}"}
    assert {event["address"] for event in events} == {socket.gethostname()}
    assert (events[0]["status"], events[0]["request_id"]) == (None, None)
    assert "key-not-found" in table
    assert json.loads(akin("audit", "--outcome", "succeeded", "--json").out) == events[1:]
    assert json.loads(akin("audit", "--action", "akin keys r", "--limit", "1", "--json").out) == events[:1]
    assert json.loads(akin("audit", "--since", "1h", "--json").out) == events
    assert json.loads(akin("audit", "--since", "2100-01-01", "--json").out) == []
    assert json.loads(akin("audit", "--actor", "nobody", "--json").out) == []
    assert "--since soon" in akin("audit", "--since", "soon", status=1).err


@pytest.mark.long
def test_a_running_server_refuses_a_key_revoked_on_the_command_line(akin, settings):
    """Over a real socket: create, use, revoke, and the rows of the audit log."""
    with (
        listen("127.0.0.1", 0) as listener,
        running(create_app(settings, is_loopback=False), listener) as address,
        httpx.Client(base_url=address, trust_env=False) as client,
    ):
        key = akin("keys", "create", "boss", "--scope", "admin").out.strip()
        akin("keys", "create", "other", "--scope", "admin")
        client.headers.update(bearer(key))
        assert client.post("/v1/admin/keys/boss:rotate").status_code == 200
        akin("keys", "revoke", "boss")
        wait_for(lambda: client.get("/v1/admin/keys").status_code == 401, seconds=60)
        refusal = client.get("/v1/admin/keys").json()["code"]

    assert refusal == "revoked-key"
    events = json.loads(akin("audit", "--json").out)[::-1]
    assert [(event["actor"], event["address"], event["outcome"]) for event in events[2:5]] == [
        ("boss", "127.0.0.1", "succeeded"),
        (f"command line, {getpass.getuser()}", socket.gethostname(), "succeeded"),
        ("boss", "127.0.0.1", "revoked-key"),
    ]
