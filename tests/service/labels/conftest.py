"""The shop of three products, copied rather than imported for each test."""

import pytest

from service.installation.installation import Installation


@pytest.fixture
def shop(admin_shop: Installation) -> Installation:
    """An installation whose catalogue has the three products."""
    return admin_shop
