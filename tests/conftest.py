"What all tests share: one thread, no network, no window; slow tests on demand."
import os

# before anything imports torch, transformers or matplotlib
os.environ.update(OMP_NUM_THREADS='1', MKL_NUM_THREADS='1', TOKENIZERS_PARALLELISM='false',
                  HF_HUB_OFFLINE='1', MPLBACKEND='Agg')

import pytest

from checkout import copy_to


def pytest_configure(config):
    config.addinivalue_line('markers', 'slow: takes long; runs only with HIR_SLOW=1')


def pytest_collection_modifyitems(items):
    if os.environ.get('HIR_SLOW', '0') not in ('', '0'): return
    skip = pytest.mark.skip(reason='slow: runs with HIR_SLOW=1')
    for item in items:
        if 'slow' in item.keywords: item.add_marker(skip)


@pytest.fixture
def checkout(tmp_path): return copy_to(tmp_path/'copy')
