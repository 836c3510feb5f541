"""The page in a real browser: choose a picture, see the products."""

import shutil

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from service.app import create_app
from service.server import listen, running
from service.settings import Settings
from tests.pictures import encode
from tests.service.conftest import product_image, wait_for

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium (a Debian package) is not installed"),
    # The driver of the browser leaves an event loop for the interpreter to collect.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


@pytest.fixture
def complaints():
    """What the browser has logged."""
    return []


@pytest.fixture
def page(served_home, tmp_path, complaints):
    settings = Settings(home=served_home, max_image_bytes=300_000)
    with (
        listen("127.0.0.1", 0) as listener,
        running(create_app(settings), listener) as address,
        sync_playwright() as playwright,
    ):
        wait_until_ready(address)
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        opened = browser.new_page()
        opened.on("console", lambda message: complaints.append(message.text))
        opened.goto(address)
        yield opened
        browser.close()


def wait_until_ready(address):
    import httpx

    wait_for(lambda: httpx.get(f"{address}/readyz").status_code == 200)


def test_a_chosen_picture_shows_its_product_first(page: Page, tmp_path, complaints):
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
    assert complaints == []


def test_a_dropped_picture_is_searched(page: Page):
    picture = list(encode(product_image("cedar")))
    page.evaluate(
        """bytes => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "cedar.png", {type: "image/png"}));
            document.getElementById("drop").dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true}));
        }""",
        picture,
    )

    expect(page.locator("#hits h2").first).to_have_text("cedar")


def test_what_cannot_be_searched_is_said_on_the_page(page: Page, tmp_path):
    (tmp_path / "text.png").write_bytes(b"hello")
    (tmp_path / "big.png").write_bytes(bytes(300_001))

    page.set_input_files("#file", tmp_path / "text.png")
    expect(page.locator("#status.error")).to_contain_text("no image in a supported format")
    page.set_input_files("#file", tmp_path / "big.png")
    expect(page.locator("#status.error")).to_contain_text("300,001 bytes; at most 300,000")
    expect(page.locator("#hits li")).to_have_count(0)
