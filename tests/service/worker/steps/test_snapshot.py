"""The first steps of a retrain on catalogues that are too small: each has its cause, and a remedy that helps."""

from pathlib import Path

import pytest
from PIL import Image

from service.catalogue.importing import import_catalogue
from service.catalogue.sources import read_import_source
from service.installation.installation import Installation
from service.operations.claims import claim_operation
from service.operations.errors import InvalidOperation
from service.operations.kinds import RETRAIN
from service.operations.records import create_operation
from service.operations.requests import parse_retrain
from service.worker.run import Run
from service.worker.steps.snapshot import split, take_snapshot
from tests.images import encode
from training.errors import UnfitData

# Catalogue images and examples of each product, the cause, and the remedy.
SHAPES = {
    "one image per product": ([(1, 0)] * 6, "each of the 6 classes has a single image", "add a second image"),
    "one product": ([(3, 2)], "all 5 images are of one class", "add images of other classes"),
    "one product with several images": (
        [(3, 0), (1, 0), (1, 0)], "only 'product-0' has two or more images", "add a second image to other classes",
    ),
    "too few products": ([(2, 0)] * 3, "3 classes have two or more images", "add classes with two or more images"),
    "examples alone": ([(0, 3)] * 8, "the catalogue has no image of any product", "add catalogue images"),
}  # fmt: skip


def fill(installation: Installation, folder: Path, counts: list[tuple[int, int]]) -> None:
    for product, (num_catalogue, num_examples) in enumerate(counts):
        for number in range(num_catalogue + num_examples):
            place = folder / f"product-{product}"
            if number >= num_catalogue:
                place /= "example"
            place.mkdir(parents=True, exist_ok=True)
            colours = (20 * product, 40 * number, 255 - 20 * product)
            (place / f"{number}.png").write_bytes(encode(Image.new("RGB", (12, 12), colours)))
    import_catalogue(read_import_source(folder), installation.database, installation.media_store)


def run_of(installation: Installation) -> Run:
    request = parse_retrain({"preset": "head"}).model_dump(mode="json")
    operation_id = create_operation(installation.database, RETRAIN, request, actor="test")[0].id
    claim_operation(installation.database, operation_id, "w")
    run = Run(installation, operation_id, "w", request, "test", lambda _, work: work())
    run.facts["preset"] = "head"
    return run


@pytest.mark.parametrize("shape", SHAPES)
def test_a_catalogue_that_cannot_be_trained_on_is_told_with_a_remedy_that_helps(
    installation: Installation, tmp_path: Path, shape: str
):
    counts, cause, remedy = SHAPES[shape]
    fill(installation, tmp_path / "products", counts)
    run = run_of(installation)
    run.facts |= take_snapshot(run)

    with pytest.raises(UnfitData) as raised:
        split(run)

    message = str(raised.value)
    assert cause in message
    assert remedy in message
    assert "akin labels import" in message
    # A retrain does not accept these settings.
    for setting in ("split.test", "split.unseen_share", "split.seen_example_share"):
        assert setting not in message


def test_an_empty_catalogue_names_the_command_that_fills_it(installation: Installation):
    with pytest.raises(InvalidOperation, match="akin catalogue import"):
        take_snapshot(run_of(installation))
