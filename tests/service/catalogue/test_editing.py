"""Removing products: by any form of their id, all or none."""

import pytest

from service.catalogue.editing import delete_products
from service.catalogue.errors import ProductNotFound
from service.storage.database import now
from service.storage.tables.catalogue import Product

NFC = "K\u00e4se"
NFD = "Ka\u0308se"
PERSIAN = "\u0646\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"


@pytest.fixture
def add(installation):
    """Store products with the given ids."""

    def add(*ids):
        with installation.database.transaction() as session:
            for number, product_id in enumerate(ids):
                session.add(Product(id=product_id, title="", attributes={}, change_seq=-number - 1, created_at=now()))

    return add


def remaining(installation):
    with installation.database.reading() as session:
        return {product.id for product in session.query(Product) if product.deleted_at is None}


@pytest.mark.parametrize(
    ("stored", "given"),
    [(NFC, NFC), (NFC, NFD), (NFD, NFC), (NFD, NFD), (PERSIAN, PERSIAN), ("kettle 1", "kettle\u00a01")],
    ids=ascii,
)
def test_a_product_is_found_by_any_form_of_its_id(installation, add, stored, given):
    """A version that did not normalise ids may have stored the form NFD."""
    add(stored, "other")

    delete_products(installation.database, [given])

    assert remaining(installation) == {"other"}


def test_the_given_form_comes_first(installation, add):
    add(NFC, NFD)

    delete_products(installation.database, [NFD])

    assert remaining(installation) == {NFC}


@pytest.mark.parametrize("product_id", ["unknown", "", "a\0b", "\ud800", "x" * 3000])
def test_an_unknown_product_removes_nothing(installation, add, product_id):
    add("kettle")

    with pytest.raises(ProductNotFound, match="the catalogue has no product"):
        delete_products(installation.database, ["kettle", product_id])

    assert remaining(installation) == {"kettle"}
