"""The search page in a real browser."""

import shutil
from contextlib import contextmanager

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from service.access.keys import create_key
from service.installation.installation import open_installation
from service.installation.settings import Settings
from service.web.app import create_app
from service.web.server import listen, running
from tests.images import encode
from tests.service.conftest import product_image, wait_for

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.long,
    pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium (a Debian package) is not installed"),
    # The driver of the browser leaves an event loop open until it is garbage-collected.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


@pytest.fixture
def console():
    """Messages of the browser console."""
    return []


@contextmanager
def opened_page(settings, console):
    with (
        listen("127.0.0.1", 0) as listener,
        running(create_app(settings), listener) as address,
        sync_playwright() as playwright,
    ):
        wait_until_ready(address)
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        opened = browser.new_page()
        opened.on("console", lambda message: console.append(message.text))
        opened.goto(address)
        yield opened
        browser.close()


@pytest.fixture
def page(served_home, console):
    with opened_page(Settings(home=served_home, max_image_bytes=300_000), console) as opened:
        yield opened


@pytest.fixture
def guarded_page(served_home, console):
    """The page of a server on which searching needs a key."""
    with opened_page(Settings(home=served_home, public_search=False), console) as opened:
        yield opened


@pytest.fixture(scope="module")
def keys(served_home):
    """A key with the scope search and one without it."""
    with open_installation(Settings(home=served_home)) as installation:
        return {
            scope: create_key(installation.database, f"page-{scope.partition(':')[0]}", [scope], actor="test")[1]
            for scope in ("search", "catalogue:write")
        }


def wait_until_ready(address):
    import httpx

    wait_for(lambda: httpx.get(f"{address}/readyz").status_code == 200)


def test_a_chosen_image_shows_its_product_first(page: Page, tmp_path, console):
    (tmp_path / "photo.png").write_bytes(encode(product_image("birch")))

    page.set_input_files("#file", tmp_path / "photo.png")

    expect(page.locator("#hits li")).to_have_count(3)
    expect(page.locator("#hits h2").first).to_have_text("birch")
    expect(page.locator("#preview")).to_be_visible()
    loaded = "images => images.every(image => image.complete && image.naturalWidth > 0)"
    wait_for(lambda: page.locator("#hits img").evaluate_all(loaded))
    expect(page.locator("#status")).to_contain_text("3 products in")
    page.fill("#k", "1")
    page.locator("#k").dispatch_event("change")
    expect(page.locator("#hits li")).to_have_count(1)
    assert console == []


def test_a_dropped_image_is_searched(page: Page):
    image = list(encode(product_image("cedar")))
    page.evaluate(
        """bytes => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "cedar.png", {type: "image/png"}));
            document.getElementById("drop").dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true}));
        }""",
        image,
    )

    expect(page.locator("#hits h2").first).to_have_text("cedar")


def test_the_page_shows_why_an_image_cannot_be_searched(page: Page, tmp_path):
    (tmp_path / "text.png").write_bytes(b"hello")
    (tmp_path / "big.png").write_bytes(bytes(300_001))

    page.set_input_files("#file", tmp_path / "text.png")
    expect(page.locator("#status.error")).to_contain_text("not an image in a supported format")
    page.set_input_files("#file", tmp_path / "big.png")
    expect(page.locator("#status.error")).to_contain_text("300,001 bytes; at most 300,000")
    expect(page.locator("#hits li")).to_have_count(0)


def test_the_page_has_no_key_field_if_searching_needs_no_key(page: Page):
    expect(page.locator("#key")).to_have_count(0)


def test_the_page_asks_for_a_key_if_searching_needs_one(guarded_page: Page, keys, tmp_path):
    page = guarded_page
    (tmp_path / "photo.png").write_bytes(encode(product_image("birch")))
    field = page.locator("#key")
    expect(field).to_have_attribute("type", "password")
    expect(field).to_have_attribute("autocomplete", "off")

    page.set_input_files("#file", tmp_path / "photo.png")
    expect(page.locator("#status.error")).to_contain_text("Searching needs a key")
    expect(field).to_be_focused()
    for wrong_key, message in (
        ("wrong", "is unknown"),
        ("clé", "is unknown"),
        (keys["catalogue:write"], "not for searching"),
    ):
        field.fill(wrong_key)
        field.press("Enter")
        expect(page.locator("#status.error")).to_contain_text(message)
        expect(page.locator("#hits li")).to_have_count(0)
    field.fill(f" {keys['search']} ")
    field.press("Enter")

    expect(page.locator("#hits h2").first).to_have_text("birch")
    loaded = "images => images.every(image => image.complete && image.naturalWidth > 0)"
    wait_for(lambda: page.locator("#hits img").evaluate_all(loaded))


def test_the_key_is_kept_in_this_tab_only(guarded_page: Page, keys, tmp_path):
    page = guarded_page
    (tmp_path / "photo.png").write_bytes(encode(product_image("cedar")))
    page.locator("#key").fill(keys["search"])
    page.locator("#key").press("Tab")

    page.reload()

    expect(page.locator("#key")).to_have_value(keys["search"])
    page.set_input_files("#file", tmp_path / "photo.png")
    expect(page.locator("#hits h2").first).to_have_text("cedar")
    kept = page.evaluate("[localStorage.length, document.cookie, location.href.length === location.origin.length + 1]")
    assert kept == [0, "", True]
    other = page.context.browser.new_page() if page.context.browser else page
    other.goto(page.url)
    expect(other.locator("#key")).to_have_value("")
