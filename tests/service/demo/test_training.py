import pytest

from service.demo.errors import DemoError
from service.demo.preparation import check_demo, prepare_demo
from service.demo.training import train_demo
from service.installation.installation import open_installation
from service.web.app import create_app
from service.web.server import listen, running
from tests.service.conftest import write_shop

pytestmark = pytest.mark.one_database


@pytest.fixture
def announced():
    return []


@pytest.fixture
def trained(settings, announced, monkeypatch):
    """Prepare and train a demo of few products, with few steps and views."""
    monkeypatch.setattr("service.demo.preparation._NUM_PRODUCTS", 10)
    monkeypatch.setattr("service.demo.training._OVERRIDES", ("steps=100", "augmentation.catalogue_scenes=2"))

    def trained(**changes):
        with open_installation(settings.model_copy(update=changes)) as installation:
            knobs = {"announce": announced.append, "on_progress": lambda *_: None}
            return train_demo(installation, prepare_demo(installation, **knobs), **knobs)

    return trained


def test_the_demo_learns_and_serves_what_it_has_learnt(settings, trained, announced):
    demo = trained()

    with listen("127.0.0.1", 0) as listener, running(create_app(settings), listener) as address:
        recall = check_demo(demo, address, announce=announced.append)

    assert recall > 0.5
    assert any(line.startswith("  recall@1, products never trained on:") for line in announced)
    assert (settings.home / "runs" / "demo" / "report.html").exists()

    announced.clear()
    assert trained() == demo
    assert any("holds a trained checkpoint already" in line for line in announced)
    assert f"release {demo.release_id} is built with it already" in announced


def test_images_kept_for_the_check_are_never_trained_on(settings, trained, tmp_path):
    """The last image of each product is searched with, and stands in no row that training reads."""
    shop = write_shop(tmp_path / "shop")
    with pytest.raises(DemoError):
        trained(demo_data=shop)

    named = (settings.home / "demo-training.ndjson").read_text()
    assert named.count("\n") >= 1
    held_out = [sorted(folder.glob("*.*"))[-1].name for folder in shop.iterdir() if len(list(folder.glob("*.*"))) > 1]
    assert held_out
    for folder in shop.iterdir():
        images = sorted(folder.glob("*.*"))
        if len(images) > 1:
            assert str(images[-1]) not in named


def test_a_demo_cut_off_among_the_results_goes_on(settings, trained, monkeypatch):
    """The checkpoint is there, and what is shown of it is not."""
    with monkeypatch.context() as context:

        def stop(*_):
            raise KeyboardInterrupt

        context.setattr("training.run.per_class", stop)
        with pytest.raises(KeyboardInterrupt):
            trained()
    assert not (settings.home / "runs" / "demo" / "evaluation.json").exists()

    trained()

    assert (settings.home / "runs" / "demo" / "report.html").exists()
