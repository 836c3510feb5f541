import json
import shutil
from dataclasses import replace

import pytest

from service.catalogue.queries import count_catalogue
from service.demo.errors import DemoError
from service.demo.preparation import check_demo
from service.installation.installation import open_installation
from service.installation.settings import Settings
from service.web.app import create_app
from service.web.server import listen, running
from tests.images import encode, scene
from tests.service.catalogue.test_sources import write_grocery
from tests.service.conftest import write_shop
from tests.service.demo.conftest import prepare_in

pytestmark = pytest.mark.one_database


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """A prepared demo of six drawn products, which tests only read: its settings, the demo, and what was announced."""
    settings = Settings(home=tmp_path_factory.mktemp("sample") / "home", release_poll_seconds=0.05)
    announced: list[str] = []
    with pytest.MonkeyPatch.context() as context:
        context.setattr("service.demo.preparation._NUM_PRODUCTS", 6)
        return settings, prepare_in(settings, announced), announced


@pytest.fixture(scope="module")
def address(sample):
    """Address of a server of the prepared demo."""
    settings, demo, _ = sample
    # One thread per pool, started by a first search: no test starts a thread that outlives it.
    settings = settings.model_copy(update={"decode_workers": 1, "search_workers": 1})
    with listen("127.0.0.1", 0) as listener, running(create_app(settings), listener) as address:
        check_demo(
            replace(demo, queries=demo.queries[:1], images=replace(demo.images, min_recall=0.0)),
            address,
            announce=lambda _: None,
        )
        yield address


@pytest.fixture
def small_sample(monkeypatch):
    monkeypatch.setattr("service.demo.preparation._NUM_PRODUCTS", 3)


def test_the_check_measures_recall_on_held_out_images(sample, address, announced):
    _, demo, _ = sample

    recall = check_demo(demo, address, announce=announced.append)

    assert len(demo.queries) == 12
    assert 0.3 <= recall <= 1
    assert f"recall@1 {recall:.2f} (12 queries)" in announced


def test_a_recall_below_the_minimum_fails_the_check(sample, address, announced):
    _, demo, _ = sample
    impossible = replace(demo, images=replace(demo.images, min_recall=1.01), queries=demo.queries[:1])

    with pytest.raises(DemoError, match=r"below the minimum of 1\.01"):
        check_demo(impossible, address, announce=announced.append)


def test_a_second_start_reuses_the_release(sample, announced):
    settings, first, announced_before = sample

    second = prepare_in(settings, announced)

    assert second == first
    assert "a catalogue of packaged products that Akin draws" in announced_before[0]
    assert f"release {first.release_id} already holds this catalogue" in announced


def test_a_home_that_was_moved_keeps_its_sample(sample, announced, tmp_path):
    settings, first, _ = sample
    shutil.copytree(settings.home, tmp_path / "moved")

    assert (
        prepare_in(settings.model_copy(update={"home": tmp_path / "moved"}), announced).release_id == first.release_id
    )


def test_a_home_cannot_change_to_other_images(sample, announced, tmp_path):
    settings, _, _ = sample

    with pytest.raises(DemoError, match="holds a demo of other images"):
        prepare_in(settings.model_copy(update={"demo_data": write_shop(tmp_path / "shop")}), announced)


@pytest.mark.usefixtures("tiny_default_model")
def test_a_folder_holds_out_one_image_of_each_product(settings, prepare, announced, tmp_path):
    shop = write_shop(tmp_path / "shop")

    prepared = prepare(demo_data=shop)

    assert [(product_id, path.name) for product_id, path in prepared.queries] == [
        ("amber", "side.png"),
        ("birch", "side.png"),
        ("cedar", "side.png"),
    ]
    assert str(shop) in announced[0]
    with open_installation(settings) as installation, installation.database.reading() as session:
        assert count_catalogue(session).num_images == {"catalogue": 3, "example": 3}


@pytest.mark.usefixtures("tiny_default_model")
def test_the_grocery_demo_searches_with_its_test_photos(prepare, tmp_path):
    root = write_grocery(tmp_path / "g") / "dataset"
    for number, name in enumerate(("iconic/Oat-Milk.jpg", "train/Oat-Milk/1.jpg", "test/Oat-Milk/1.jpg")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encode(scene(number), "JPEG"))

    prepared = prepare(demo_data=tmp_path / "g")

    assert prepared.queries == [("Oat-Milk", root / "test/Oat-Milk/1.jpg")]


def test_a_home_with_another_catalogue_is_refused(prepare, shop):
    with pytest.raises(DemoError, match="3 products that is not the demo's; set AKIN_HOME"):
        prepare()


def test_a_grocery_folder_without_test_photos_is_refused(prepare, tmp_path):
    root = write_grocery(tmp_path / "g")
    (root / "dataset" / "test.txt").unlink()

    with pytest.raises(DemoError, match=r"lacks test\.txt"):
        prepare(demo_data=root)


@pytest.mark.usefixtures("tiny_default_model")
def test_an_interrupted_preparation_is_resumed(prepare, small_sample, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr("service.demo.preparation.build_release", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare()

    assert len(prepare().queries) == 6


def test_a_damaged_state_file_is_refused(prepare, settings):
    settings.home.mkdir()
    (settings.home / "demo.json").write_text(json.dumps([1]))

    with pytest.raises(DemoError, match=r"demo\.json cannot be read"):
        prepare()


def test_data_that_is_not_a_folder_is_refused(prepare, tmp_path):
    (tmp_path / "grocery.zip").write_bytes(b"PK")

    with pytest.raises(DemoError, match=r"grocery\.zip is not a folder; unpack"):
        prepare(demo_data=tmp_path / "grocery.zip")
