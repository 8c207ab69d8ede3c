"""Fixtures of all tests."""

import signal

import pytest


@pytest.fixture(scope="session", autouse=True)
def _interruptible():
    """Has SIGINT interrupt, also where tests run in the background: there shells have it ignored, by children too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
