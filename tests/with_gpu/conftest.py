"""Where no GPU is found, what needs one skips and says so.

`HIR_WITH_GPU=cpu` rehearses on the CPU what can be rehearsed there, which shows that the tests are sound, not that a card is.
"""
import os
from pathlib import Path

import pytest
import torch

REHEARSAL = os.environ.get('HIR_WITH_GPU') == 'cpu'


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available() or REHEARSAL: return
    for item in items:
        if Path(__file__).parent in item.path.parents: item.add_marker(pytest.mark.skip(reason='no CUDA GPU is found'))


@pytest.fixture
def on_cpu(): return REHEARSAL     # the setting `cpu` of runs that are to use the card
