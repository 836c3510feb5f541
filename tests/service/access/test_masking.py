"""Keys in other text: found, and masked."""

from urllib.parse import quote

import pytest
from pydantic import SecretStr

from service.access.masking import has_key, without_keys


def test_keys_are_told_from_other_text():
    assert has_key(f"GET /x?y=akin_{'a' * 43} HTTP/1.1")
    assert without_keys(f"/v1/admin/keys/akin_{'-' * 43}:rotate") == "/v1/admin/keys/akin_***:rotate"
    for text in ("akin_data", "akin_" + "a" * 31, "akin_summer-catalogue-2024-front", "/x" + "%25" * 10_000):
        assert not has_key(text)
        assert without_keys(text) == text


@pytest.mark.parametrize("key", ["akin_" + "a-_9" * 10 + "xyz", "akin_" + "0123456789abcdef" * 4])
@pytest.mark.parametrize("before", ["", "x%3D", "b", "-", "/"])
def test_a_key_is_found_inside_other_text_and_percent_encoded(key, before):
    assert has_key(f"{before}{key}x")
    assert key[5:] not in without_keys(f"{before}{key}x")
    for underscore in ("%5F", "%5f"):
        encoded = before + key.replace("_", underscore, 1)

        assert has_key(encoded)
        assert without_keys(encoded, instead="/route") == "/route"


@pytest.mark.parametrize("secret", ["0123456789abcdef" * 3, "q83/ab+cd==ef9021xyzQWE", "50%25-off-and-more-of-it"])
def test_the_key_of_the_settings_is_found_in_any_form(secret):
    key = SecretStr(secret)

    assert without_keys(f"/x/{secret}:rotate", key) == "/x/***:rotate"
    encoded = "".join(f"%{ord(letter):02X}" for letter in secret)
    assert has_key(f"/x/{encoded}", key)
    assert without_keys(f"/x/{encoded}", key, instead="/route") == "/route"
    assert quote(secret, safe="") not in without_keys(f"/x/{quote(secret, safe='')}", key)
    assert not has_key(f"/x/{secret[:-1]}", key)


def test_a_key_of_the_settings_that_looks_encoded_is_found_as_servers_decode_it():
    key = SecretStr("0123456789%41bcdef-of-the-settings")

    assert has_key("/x/0123456789Abcdef-of-the-settings", key)
    assert without_keys("/x/0123456789Abcdef-of-the-settings", key) == "/x/***"
