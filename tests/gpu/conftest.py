"""Tests that need one CUDA GPU: ``make test STACK=cuda`` there; elsewhere they skip."""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch

    if torch.cuda.is_available():
        return
    here = str(__file__).rpartition("/")[0]
    for item in items:
        if str(item.path).startswith(here):
            item.add_marker(pytest.mark.skip(reason="no CUDA GPU on this machine"))
