import re
from pathlib import Path

import pytest

from service.errors import InvalidSetting
from service.installation.settings import Settings, load_settings, unknown_settings

ROOT = Path(__file__).parents[3]


def test_defaults_keep_all_state_under_one_folder():
    settings = Settings()

    assert str(settings.home) == "akin-data"
    assert settings.database_address.endswith("akin-data/akin.db")
    assert settings.media_address.endswith("akin-data/media")
    assert settings.releases_dir.parent == settings.checkpoints_dir.parent == settings.home


def test_reads_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("AKIN_HOME", str(tmp_path))
    monkeypatch.setenv("AKIN_PORT", "9000")
    monkeypatch.setenv("AKIN_DEMO_DATA", "")

    settings = load_settings()

    assert (settings.home, settings.port, settings.demo_data) == (tmp_path, 9000, None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AKIN_PORT", "99999"),
        ("AKIN_PORT", "http"),
        ("AKIN_PRECISION", "int4"),
        ("AKIN_MAX_IMAGE_BYTES", "0"),
        ("AKIN_MAX_IMAGE_PIXELS", "1000000000"),
        ("AKIN_RELEASE_POLL_SECONDS", "-1"),
        ("AKIN_LOG_LEVEL", "loud"),
        ("AKIN_AUDIT_RETENTION_DAYS", "99999999"),
        ("AKIN_AUDIT_RETENTION_DAYS", "-1"),
    ],
)
def test_a_bad_value_is_named_with_its_variable(monkeypatch, name, value):
    monkeypatch.setenv(name, value)

    with pytest.raises(InvalidSetting, match=f"{name}={value}"):
        load_settings()


def test_an_empty_value_counts_as_not_set(monkeypatch):
    monkeypatch.setenv("AKIN_HOME", "")
    monkeypatch.setenv("AKIN_PORT", "")

    assert load_settings() == Settings()


def test_unknown_names_are_listed(monkeypatch):
    monkeypatch.setenv("AKIN_HOEM", "x")
    monkeypatch.setenv("AKIN_HOME", "x")

    assert unknown_settings() == ["AKIN_HOEM"]


SECONDS = [name for name in Settings.model_fields if name.endswith("_seconds")]


@pytest.mark.parametrize("value", ["inf", "nan", "-inf", "1e300", "86401"])
@pytest.mark.parametrize("name", SECONDS)
def test_every_duration_is_bounded(monkeypatch, name, value):
    """A server with an unbounded drain time would never stop."""
    monkeypatch.setenv(f"AKIN_{name.upper()}", value)

    with pytest.raises(InvalidSetting, match=f"AKIN_{name.upper()}={value}"):
        load_settings()


def test_every_fractional_setting_is_a_duration():
    fractions = {name for name, value in Settings().model_dump().items() if isinstance(value, float)}

    assert fractions == set(SECONDS)


def test_unknown_names_in_dotenv_are_listed_too(monkeypatch, here):
    (here / ".env").write_text("AKIN_HOEM=x\nakin_prot=1\nAKIN_PORT=2\nGATEWAY_BIND=127.0.0.1\nAKIN_SECRETS_DIR=\n")
    monkeypatch.setenv("AKIN_DEVICES", "x")

    assert unknown_settings() == ["AKIN_DEVICES", "AKIN_HOEM", "AKIN_PROT"]


def test_the_example_dotenv_has_no_unknown_names(here):
    example = (ROOT / ".env.example").read_text()
    lines = re.findall(r"^# ([A-Z_]+=.*)$", example, re.MULTILINE)
    (here / ".env").write_text("\n".join(lines))

    assert sum(line.startswith("AKIN_") for line in lines) > 5
    assert unknown_settings() == []


def test_a_dotenv_that_is_not_utf8_is_reported(here):
    (here / ".env").write_bytes("AKIN_HOME=Äpfel\n".encode("latin-1"))

    with pytest.raises(InvalidSetting, match=re.escape(f"{here / '.env'} cannot be read: it is not UTF-8")):
        load_settings()
    assert unknown_settings() == []


def test_an_unreadable_dotenv_is_reported(monkeypatch, here):
    def refuse(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("service.installation.settings.dotenv_values", refuse)

    with pytest.raises(InvalidSetting, match=re.escape(f"{here / '.env'} cannot be read: Permission denied")):
        load_settings()


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql+psycopg://akin:s3cret@db/akin", "postgresql+psycopg://akin:***@db/akin"),
        ("postgresql://u:s3:cret/word@h:1/db", "postgresql://u:***@h:1/db"),
        ("postgresql://u:p@s3cret@h/db", "postgresql://u:***@h/db"),
        ("postgresql://u:p?s3cret@h/db", "postgresql://u:***@h/db"),
        ("postgresql://u:a@b?s3cret@h/db", "postgresql://u:***@h/db"),
        ("postgresql://u:p?x=s3cret@h/db", "postgresql://u:***@h/db"),
        ("postgresql://u:://s3cret@h/db", "postgresql://u:***@h/db"),
        ("postgresql://u/x:s3cret@h/db", "postgresql://u/x:***@h/db"),
        ("postgresql://:s3cret@h/db", "postgresql://:***@h/db"),
        ("postgresql://u@h/db?password=s3cret", "postgresql://u@h/db?password=***"),
        ("postgresql://u@h/db?pass%77ord=s3cret", "postgresql://u@h/db?pass%77ord=***"),
        (
            "postgresql://u:s3cret@h/db?sslmode=require&PASSWORD=s3cret@x&sslpassword=s3cret&passfile=/s3cret",
            "postgresql://u:***@h/db?sslmode=require&PASSWORD=***&sslpassword=***&passfile=***",
        ),
        ("u:s3cret@h/db", "u:***@h/db"),
        ("postgresql://u@h:5432/db", "postgresql://u@h:5432/db"),
        ("postgresql://h:5432/db?host=/run/postgresql", "postgresql://h:5432/db?host=/run/postgresql"),
        ("postgresql://[::1]:5432/db", "postgresql://[::1]:5432/db"),
        ("sqlite:////srv/a:b@c/akin.db", "sqlite:////srv/a:b@c/akin.db"),
    ],
)
def test_a_password_is_not_shown(address, shown):
    settings = Settings(database_url=address)

    assert settings.database_address_shown == shown
    assert "s3cret" not in shown + repr(settings)


GOOD_KEY = "0f3c9a7be1d2486a5c7b9e0d"
BAD_KEYS = [
    "",
    " ",
    "short",
    "a" * 40,
    "abcabcabcabcabcabcabcabc",
    "change-me-change-me-change-me",
    "example-key-0123456789",
    "my-secret-0123456789abcdef",
    "correct-password-0123456789",
    "your-key-goes-here-0123456789",
    "REPLACE_THIS_0123456789abcdef",
    "akin-admin-key-0123456789",
    "schlüssel-0123456789abcdef",
    "0123456789\tabcdefghijklm",
]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder with a folder of secrets, which AKIN_SECRETS_DIR names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AKIN_ADMIN_KEY", raising=False)
    (tmp_path / "secrets").mkdir()
    monkeypatch.setenv("AKIN_SECRETS_DIR", str(tmp_path / "secrets"))
    return tmp_path


def key_of(settings):
    return settings.admin_key.get_secret_value() if settings.admin_key else None


@pytest.mark.parametrize("place", ["environment", "lower case", ".env", "secret"])
@pytest.mark.parametrize("key", BAD_KEYS)
def test_an_empty_or_example_key_is_refused_and_not_repeated(monkeypatch, here, place, key):
    if place == "environment":
        monkeypatch.setenv("AKIN_ADMIN_KEY", key)
    elif place == "lower case":
        monkeypatch.setenv("akin_admin_key", key)
    elif place == ".env":
        (here / ".env").write_text(f"AKIN_ADMIN_KEY='{key}'\n")
    else:
        (here / "secrets" / "akin_admin_key").write_text(f"{key}\n")

    with pytest.raises(InvalidSetting, match="AKIN_ADMIN_KEY") as refused:
        load_settings()

    if key.strip():
        assert key not in str(refused.value)


@pytest.mark.parametrize("place", ["environment", ".env", "secret"])
def test_the_admin_key_may_come_from_the_environment_dotenv_or_a_secret(monkeypatch, here, place):
    if place == "environment":
        monkeypatch.setenv("AKIN_ADMIN_KEY", GOOD_KEY)
    elif place == ".env":
        (here / ".env").write_text(f"AKIN_ADMIN_KEY={GOOD_KEY}\n")
    else:
        (here / "secrets" / "akin_admin_key").write_text(f"{GOOD_KEY}\n")

    settings = load_settings()

    assert key_of(settings) == GOOD_KEY
    assert GOOD_KEY not in repr(settings)


def test_the_admin_key_is_unset_by_default(here):
    assert load_settings().admin_key is None


def test_the_environment_takes_precedence_over_files(monkeypatch, here):
    for name, value in (("admin_key", GOOD_KEY[::-1]), ("database_url", "sqlite:///from-a-file"), ("port", "1")):
        (here / "secrets" / f"akin_{name}").write_text(value)
    in_files = load_settings()
    (here / ".env").write_text("AKIN_PORT=2\n")
    in_dotenv = load_settings()
    monkeypatch.setenv("AKIN_ADMIN_KEY", GOOD_KEY)
    monkeypatch.setenv("AKIN_PORT", "3")
    in_environment = load_settings()

    assert (in_files.port, in_dotenv.port, in_environment.port) == (1, 2, 3)
    assert in_files.database_url == in_environment.database_url == "sqlite:///from-a-file"
    assert (key_of(in_files), key_of(in_environment)) == (GOOD_KEY[::-1], GOOD_KEY)


@pytest.mark.parametrize("place", ["environment", ".env"])
@pytest.mark.parametrize("name", ["nowhere", "file"])
def test_a_configured_folder_of_secrets_must_exist(monkeypatch, here, name, place):
    (here / "file").touch()
    if place == "environment":
        monkeypatch.setenv("AKIN_SECRETS_DIR", str(here / name))
    else:
        monkeypatch.delenv("AKIN_SECRETS_DIR")
        (here / ".env").write_text(f"AKIN_SECRETS_DIR={here / name}\n")

    with pytest.raises(InvalidSetting) as refused:
        load_settings()

    assert str(refused.value) == f"AKIN_SECRETS_DIR={here / name}: no such folder; correct it or unset it"
    assert "AKIN_SECRETS_DIR" not in unknown_settings()


@pytest.mark.parametrize("named", [None, ""])
def test_the_default_folder_of_secrets_need_not_exist(monkeypatch, here, named):
    monkeypatch.setattr("service.installation.settings._SECRETS_DIR", str(here / "nowhere"))
    monkeypatch.delenv("AKIN_SECRETS_DIR")
    if named is not None:
        monkeypatch.setenv("AKIN_SECRETS_DIR", named)

    assert load_settings().admin_key is None


def test_an_unreadable_secret_is_reported(here):
    (here / "secrets" / "akin_admin_key").write_text(GOOD_KEY)
    (here / "secrets" / "akin_database_url").write_bytes(b"\xff\xfe")

    with pytest.raises(InvalidSetting, match=r"the secret .*secrets/akin_database_url cannot be read; .*utf-8"):
        load_settings()


@pytest.mark.parametrize("value", ["", "10.0.0.7", "10.0.0.7, 172.16.0.0/12", "::1,fd00::/8"])
def test_trusted_proxies_are_addresses_and_networks(monkeypatch, value):
    monkeypatch.setenv("AKIN_TRUSTED_PROXIES", value)

    assert load_settings().trusted_proxies == value


@pytest.mark.parametrize(
    "value", ["*", "gateway", "10.0.0.0/33", "10.0.0.7/8", "10.0.0.7;10.0.0.8", "10.0.0.7 10.0.0.8"]
)
def test_invalid_trusted_proxies_are_refused(monkeypatch, value):
    """`*` would trust everybody, and a host name may resolve to another machine later."""
    monkeypatch.setenv("AKIN_TRUSTED_PROXIES", value)

    with pytest.raises(InvalidSetting, match="is neither an address nor a network"):
        load_settings()


@pytest.mark.parametrize(
    ("value", "prefix"),
    [("", ""), ("/", ""), ("/akin", "/akin"), ("/akin/", "/akin"), ("/a/b-c_d.e~f", "/a/b-c_d.e~f")],
)
def test_a_trailing_slash_of_the_path_prefix_is_dropped(monkeypatch, value, prefix):
    monkeypatch.setenv("AKIN_ROOT_PATH", value)

    assert load_settings().root_path == prefix


@pytest.mark.parametrize("value", ["akin", "https://shop.example/akin", "/a//b", "/a b", "/a?b", '/a"onload="x', "/ä"])
def test_an_invalid_path_prefix_is_refused(monkeypatch, value):
    monkeypatch.setenv("AKIN_ROOT_PATH", value)

    with pytest.raises(InvalidSetting, match="AKIN_ROOT_PATH"):
        load_settings()


@pytest.mark.parametrize(("value", "meaning"), [("auto", "auto"), ("true", True), ("false", False), ("0", False)])
def test_reads_whether_searching_is_public(monkeypatch, value, meaning):
    monkeypatch.setenv("AKIN_PUBLIC_SEARCH", value)

    assert load_settings().public_search == meaning


@pytest.mark.parametrize("value", ["maybe", "2"])
def test_an_invalid_value_for_public_search_is_reported_once(monkeypatch, value):
    monkeypatch.setenv("AKIN_PUBLIC_SEARCH", value)

    with pytest.raises(InvalidSetting) as refused:
        load_settings()

    assert str(refused.value) == f"AKIN_PUBLIC_SEARCH={value}: Value error, write true, false or auto"


@pytest.mark.parametrize(
    ("value", "origins"),
    [
        ("", ()),
        ("*", ("*",)),
        ("https://shop.example.com", ("https://shop.example.com",)),
        ("http://localhost:3000,https://a.example ", ("http://localhost:3000", "https://a.example")),
    ],
)
def test_permitted_origins_are_exact(monkeypatch, value, origins):
    monkeypatch.setenv("AKIN_CORS_ORIGINS", value)

    assert load_settings().permitted_origins == origins


@pytest.mark.parametrize(
    "value",
    [
        "shop.example.com",
        "https://shop.example.com/",
        "https://shop.example.com/search",
        "https://Shop.example.com",
        "https://shop.example.com:443",
        "http://localhost:80",
        "https://*.example.com",
        "ftp://shop.example.com",
        "null",
        "https://",
        "https://a.example https://b.example",
    ],
)
def test_other_forms_of_origins_are_refused(monkeypatch, value):
    """Browsers send the origin in one form, and it is compared as text."""
    monkeypatch.setenv("AKIN_CORS_ORIGINS", value)

    with pytest.raises(InvalidSetting, match="is not an origin; write the scheme and the host"):
        load_settings()


def test_all_origins_are_not_mixed_with_others(monkeypatch):
    monkeypatch.setenv("AKIN_CORS_ORIGINS", "*, https://shop.example.com")

    with pytest.raises(InvalidSetting, match="write it alone"):
        load_settings()
