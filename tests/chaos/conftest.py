"""The seed of the chaos: printed with each test, and chosen with ``--chaos-seed`` to play it again."""

from __future__ import annotations

import random

import pytest


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """Where all chance of a test comes from."""
    given = request.config.getoption("--chaos-seed")
    chosen = random.SystemRandom().randrange(2**32) if given is None else int(given)
    print(f"replay with: pytest {request.node.nodeid} --chaos-seed {chosen}")
    return chosen
