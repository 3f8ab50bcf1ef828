"""What a test needs from the machine, beyond what pip has installed."""

from __future__ import annotations

import os

import pytest


def require(found: object, what: str) -> None:
    """Skip the test if something was not found; on the project's own machine, fail."""
    if found:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what} is missing, and CI=true says that nothing is skipped")
    pytest.skip(f"{what} is missing")
