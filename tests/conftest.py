"What all tests share: one thread, no network, no window; slow tests on demand; a copy of the checkout."
import os

# before anything imports torch, transformers or matplotlib
os.environ.update(OMP_NUM_THREADS='1', MKL_NUM_THREADS='1', TOKENIZERS_PARALLELISM='false',
                  HF_HUB_OFFLINE='1', MPLBACKEND='Agg')

import shutil, subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def pytest_configure(config):
    config.addinivalue_line('markers', 'slow: takes long; runs only with HIR_SLOW=1')


def pytest_collection_modifyitems(items):
    if os.environ.get('HIR_SLOW', '0') not in ('', '0'): return
    skip = pytest.mark.skip(reason='slow: runs with HIR_SLOW=1')
    for item in items:
        if 'slow' in item.keywords: item.add_marker(skip)


def files():
    "Files of the checkout, relative: what git knows or would take, as they lie on disk now."
    listed = subprocess.run(['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'],
                            cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return sorted(f for f in set(listed.split('\0')) if f and (ROOT/f).is_file())


def copy_to(folder):
    "A copy of those files, for what writes into the checkout it works on."
    for f in files():
        (folder/f).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT/f, folder/f)
    return folder


@pytest.fixture
def checkout(tmp_path): return copy_to(tmp_path/'copy')
