import json
from dataclasses import replace

import pytest

from service.demo.errors import DemoError
from service.demo.preparation import check_demo, prepare_demo
from service.installation.installation import open_installation
from service.web.app import create_app
from service.web.server import listen, running
from tests.images import encode, scene
from tests.service.catalogue.test_sources import write_grocery
from tests.service.conftest import write_shop

pytestmark = pytest.mark.one_database


@pytest.fixture
def announced():
    return []


@pytest.fixture
def prepare(settings, announced):
    def prepare(**changes):
        with open_installation(settings.model_copy(update=changes)) as installation:
            return prepare_demo(installation, announce=announced.append, on_progress=lambda *_: None)

    return prepare


@pytest.fixture
def small_sample(monkeypatch):
    monkeypatch.setattr("service.demo.preparation._NUM_PRODUCTS", 6)


def check(settings, prepared, announced):
    with listen("127.0.0.1", 0) as listener, running(create_app(settings), listener) as address:
        return check_demo(prepared, address, announce=announced.append)


def test_the_sample_demo_measures_what_it_serves(settings, prepare, announced, small_sample):
    prepared = prepare()

    recall = check(settings, prepared, announced)

    assert len(prepared.queries) == 12
    assert 0.3 <= recall <= 1
    assert f"recall@1 {recall:.2f} (12 queries)" in announced
    assert "draws itself" in announced[0]


def test_a_second_start_uses_what_is_there(prepare, announced, small_sample):
    first = prepare()
    announced.clear()

    second = prepare()

    assert second == first
    assert f"release {first.release_id} holds this catalogue already" in announced


def test_a_recall_below_the_floor_fails(settings, prepare, announced, small_sample):
    prepared = prepare()
    impossible = replace(prepared, images=replace(prepared.images, floor=1.01))

    with pytest.raises(DemoError, match=r"below the floor of 1\.01"):
        check(settings, impossible, announced)


def test_a_folder_of_ones_own_keeps_one_image_of_each_product_to_search_with(settings, prepare, announced, tmp_path):
    shop = write_shop(tmp_path / "shop")

    prepared = prepare(demo_data=shop)

    assert [(product_id, path.name) for product_id, path in prepared.queries] == [
        ("amber", "side.png"),
        ("birch", "side.png"),
        ("cedar", "side.png"),
    ]
    assert str(shop) in announced[0]
    with open_installation(settings) as installation, installation.database.reading() as session:
        from service.catalogue.records import count_catalogue

        assert count_catalogue(session).num_images == {"catalogue": 3, "example": 3}


def test_the_grocery_demo_searches_with_its_test_photos(prepare, tmp_path):
    root = write_grocery(tmp_path / "g") / "dataset"
    for number, name in enumerate(("iconic/Oat-Milk.jpg", "train/Oat-Milk/1.jpg", "test/Oat-Milk/1.jpg")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encode(scene(number), "JPEG"))

    prepared = prepare(demo_data=tmp_path / "g")

    assert prepared.queries == [("Oat-Milk", root / "test/Oat-Milk/1.jpg")]


def test_never_mixes_with_another_catalogue(prepare, shop, tmp_path):
    with pytest.raises(DemoError, match="3 products that is not the demo's; set AKIN_HOME"):
        prepare()


def test_a_home_that_was_moved_keeps_its_sample(prepare, settings, small_sample, tmp_path):
    first = prepare()
    settings.home.rename(tmp_path / "moved")

    assert prepare(home=tmp_path / "moved").release_id == first.release_id


def test_a_grocery_folder_without_its_test_photos_is_named(prepare, tmp_path):
    root = write_grocery(tmp_path / "g")
    (root / "dataset" / "test.txt").unlink()

    with pytest.raises(DemoError, match=r"lacks its test\.txt"):
        prepare(demo_data=root)


def test_keeps_to_the_images_it_was_made_with(prepare, small_sample, tmp_path):
    prepare()

    with pytest.raises(DemoError, match="holds a demo of other images"):
        prepare(demo_data=write_shop(tmp_path / "shop"))


def test_goes_on_where_it_was_cut_off(prepare, small_sample, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr("service.demo.preparation.build_release", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare()

    assert len(prepare().queries) == 12


def test_a_damaged_state_file_is_named(prepare, settings):
    settings.home.mkdir()
    (settings.home / "demo.json").write_text(json.dumps([1]))

    with pytest.raises(DemoError, match=r"demo\.json cannot be read"):
        prepare()


def test_data_that_is_no_folder_is_named(prepare, tmp_path):
    (tmp_path / "grocery.zip").write_bytes(b"PK")

    with pytest.raises(DemoError, match=r"grocery\.zip is not a folder; unpack"):
        prepare(demo_data=tmp_path / "grocery.zip")
