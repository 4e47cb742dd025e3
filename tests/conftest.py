"""The hypothesis profile, the `network` marker, and folders of its own for a test that asks for them."""

import os

import hypothesis
import pytest

os.environ["MPLBACKEND"] = "Agg"
hypothesis.settings.register_profile(
    "house",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=60,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.load_profile("house")


def pytest_configure(config):
    config.addinivalue_line("markers", "network: fetches a real data set (once; afterwards it comes from the cache)")


@pytest.fixture
def own_folders(monkeypatch, tmp_path):
    """Scale cpu, and a cache and a folder of records that hold nothing yet."""
    monkeypatch.setenv("KEXUE_SCALE", "cpu")
    monkeypatch.setenv("KEXUE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KEXUE_RECORDS", str(tmp_path / "records"))
    return tmp_path
