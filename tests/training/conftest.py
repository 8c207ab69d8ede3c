"""Fixtures of the tests of training."""

from itertools import count

import pytest

from tests.training import starting


@pytest.fixture
def same_numbers(monkeypatch):
    """Each test draws the same numbers, whichever ran before it."""
    monkeypatch.setattr(starting, "SEEDS", count())
