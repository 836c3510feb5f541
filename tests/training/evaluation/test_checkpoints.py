import pytest

from embedding.runtimes.options import NetworkOptions
from tests.training.shapes import write_shapes
from training.evaluation.checkpoints import evaluate_checkpoint

CPU = NetworkOptions("cpu")


def test_unreadable_images_are_named_and_do_not_shift_the_others(zero_shot_checkpoint, tmp_path):
    shop = write_shapes(tmp_path / "shop", per_class=3)
    broken = sorted(shop.glob("*/1.png"))[:2]
    for path in broken:
        path.write_bytes(b"no image")
    calls = []

    measured = evaluate_checkpoint(
        zero_shot_checkpoint, shop, part="all", network=CPU, on_progress=lambda *done: calls.append(done)
    )

    assert sorted(measured["unreadable"]) == [str(path.relative_to(shop)) for path in broken]
    num_images = len(list(shop.glob("*/*.png")))
    assert calls[-1] == ("Embedding", num_images, num_images)
    for path in broken:
        path.unlink()
    whole = evaluate_checkpoint(zero_shot_checkpoint, shop, part="all", network=CPU)
    assert measured["metrics"]["all"] == pytest.approx(whole["metrics"]["all"], abs=1e-6)
    assert measured["per_class"] == whole["per_class"]
