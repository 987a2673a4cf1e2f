"""Options, markers and folders that all tests share."""

import importlib.util
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


os.environ["QEBGATE_CACHE_DIR"] = ""
"""No test is answered by an earlier run; those about the cache name a folder of their own."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the slow tests too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    has_tensorflow = importlib.util.find_spec("tensorflow") is not None
    for item in items:
        if item.get_closest_marker("slow") and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))
        if item.get_closest_marker("data") and not os.environ.get("QEBGATE_DATA"):
            item.add_marker(pytest.mark.skip(reason="QEBGATE_DATA does not name the benchmark data's folder"))
        if item.get_closest_marker("tensorflow") and not has_tensorflow:
            item.add_marker(pytest.mark.skip(reason="needs the [tensorflow] extra"))


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def models() -> Path:
    """The tiny networks that can be enumerated (see tests/models/README.md)."""
    return ROOT / "tests" / "models"


@pytest.fixture(scope="session")
def digits() -> Path:
    """The digits example."""
    return ROOT / "examples" / "digits"


@pytest.fixture(scope="session")
def benchmark_data() -> Path:
    """The benchmark data; mark the test with ``data``."""
    return Path(os.environ["QEBGATE_DATA"])
