import pytest

from service.demo.errors import DemoError
from service.demo.preparation import check_demo, prepare_demo
from service.demo.training import train_demo
from service.installation.installation import open_installation
from service.web.app import create_app
from service.web.server import listen, running
from tests.service.conftest import PRODUCTS, write_shop

pytestmark = pytest.mark.one_database


@pytest.fixture
def train(settings, announced, monkeypatch):
    """Prepare and train a demo of few products with few steps and views."""
    monkeypatch.setattr("service.demo.preparation._NUM_PRODUCTS", 10)
    monkeypatch.setattr("service.demo.training._OVERRIDES", ("steps=100", "augmentation.catalogue_scenes=2"))

    def train(**changes):
        with open_installation(settings.model_copy(update=changes)) as installation:
            options = {"announce": announced.append, "on_progress": lambda *_: None}
            return train_demo(installation, prepare_demo(installation, **options), **options)

    return train


@pytest.mark.long
def test_an_interrupted_training_is_resumed_and_its_release_served(settings, train, announced, monkeypatch):
    """Interrupted after the checkpoint was written and before its evaluation."""

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr("training.running.run.per_class", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train()
    assert not (settings.home / "runs" / "demo" / "evaluation.json").exists()

    demo = train()
    with listen("127.0.0.1", 0) as listener, running(create_app(settings), listener) as address:
        recall = check_demo(demo, address, announce=announced.append)

    assert recall > 0.5
    assert any(line.startswith("  recall@1, products never trained on:") for line in announced)
    assert (settings.home / "runs" / "demo" / "report.html").exists()
    announced.clear()
    assert train() == demo
    assert any("already holds a trained checkpoint" in line for line in announced)
    assert f"release {demo.release_id} was already built with it" in announced


@pytest.mark.usefixtures("tiny_default_model")
def test_images_held_out_for_the_check_are_not_trained_on(settings, train, tmp_path):
    shop = write_shop(tmp_path / "shop")

    # Three products are too few to train on, but the manifest is written before that is found.
    with pytest.raises(DemoError):
        train(demo_data=shop)

    manifest = (settings.home / "demo-training.ndjson").read_text()
    assert str(shop / "amber" / "front.png") in manifest
    for product_id in PRODUCTS:
        assert str(shop / product_id / "side.png") not in manifest
