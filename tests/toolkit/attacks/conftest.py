"""Fixtures of the attacks' tests."""

import pytest

from helpers.shipped import Shipped, open_shipped


@pytest.fixture(scope="session")
def shipped() -> Shipped:
    return open_shipped()
