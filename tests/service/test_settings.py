import pytest

from service.errors import InvalidSetting
from service.settings import Settings, load_settings, unknown_settings


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
    ],
)
def test_a_bad_value_is_named_with_its_variable(monkeypatch, name, value):
    monkeypatch.setenv(name, value)

    with pytest.raises(InvalidSetting, match=f"{name}={value}"):
        load_settings()


def test_an_empty_value_is_none_given(monkeypatch):
    monkeypatch.setenv("AKIN_HOME", "")
    monkeypatch.setenv("AKIN_PORT", "")

    assert load_settings() == Settings()


def test_unknown_names_are_listed(monkeypatch):
    monkeypatch.setenv("AKIN_HOEM", "x")
    monkeypatch.setenv("AKIN_HOME", "x")

    assert unknown_settings() == ["AKIN_HOEM"]


def test_a_password_is_not_shown():
    settings = Settings(database_url="postgresql+psycopg://akin:s3cret@db/akin")

    assert settings.database_address_shown == "postgresql+psycopg://akin:***@db/akin"
