import re
from collections import Counter

import pytest

from service.demo.sample.products import SampleProduct, sample_products


def test_the_same_seed_gives_the_same_products():
    assert sample_products(40, 7) == sample_products(40, 7)


def test_another_seed_gives_other_products():
    first, second = sample_products(40, 0), sample_products(40, 1)

    assert {product.title for product in first}.isdisjoint(product.title for product in second)


def test_a_longer_list_starts_with_the_shorter_one():
    assert sample_products(200, 0)[:33] == sample_products(33, 0)


def test_products_are_distinct_and_named_in_order():
    products = sample_products(2000, 0)

    assert len({product.title for product in products}) == 2000
    assert len({product.design for product in products}) == 2000
    assert [product.id for product in products[:3]] == ["sample-0000", "sample-0001", "sample-0002"]


def test_products_come_in_ranges_that_differ_in_flavour_alone():
    ranges: dict[tuple[str, str], list[SampleProduct]] = {}
    for product in sample_products(120, 0):
        ranges.setdefault((product.attributes["brand"], product.attributes["kind"]), []).append(product)

    # The last range may be cut short by the number of products.
    complete = list(ranges.values())[:-1]
    assert all(2 <= len(siblings) <= 5 for siblings in complete)
    for siblings in complete:
        assert len({product.design.shape for product in siblings}) == 1
        assert len({product.design.layout for product in siblings}) == 1
        assert len({product.attributes["flavour"] for product in siblings}) == len(siblings)


def test_every_package_shape_appears_about_as_often_as_the_others():
    counts = Counter(product.attributes["category"] for product in sample_products(1000, 0))

    assert len(counts) == 9
    assert max(counts.values()) < 1.5 * min(counts.values())


def test_titles_use_only_characters_of_the_font():
    for product in sample_products(500, 0):
        assert re.fullmatch(r"[A-Za-z0-9 .,]+", product.title)


@pytest.mark.parametrize("num_products", [0, -1, 10_001])
def test_refuses_numbers_of_products_out_of_range(num_products):
    with pytest.raises(ValueError, match=rf"num_products .* got {num_products}"):
        sample_products(num_products, 0)


def test_refuses_a_negative_seed():
    with pytest.raises(ValueError, match="seed must be at least 0, got -1"):
        sample_products(1, -1)
