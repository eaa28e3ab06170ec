"""Run notebooks from top to bottom and say of each whether it passed: python .ci/notebooks.py [NOTEBOOK …]; JOBS=4 runs four at a time.

Each has a process of its own, for what one registers or seeds must not help or hurt the next. All are forked from this one,
which has imported the packages that most of them want; nothing of hir is among these."""
import atexit
import os
import sys
import tempfile
import time
from pathlib import Path

import accelerate, matplotlib.pyplot, peft, torch, transformers, transformers.models.llama.modeling_llama  # noqa: F401
from nbdev.config import get_config
from nbdev.test import test_nb

ROOT = Path(__file__).resolve().parents[1]
FLAGS = ['slow'] if os.environ.get('HIR_SLOW') else []      # cells so marked run as well


def begun(path):
    "The child that runs a notebook, and the file with its words."
    said = tempfile.TemporaryFile()
    pid = os.fork()
    if pid: return pid, said
    os.dup2(said.fileno(), 1); os.dup2(said.fileno(), 2)
    config, well = get_config(), False
    try:
        os.chdir(config.nbs_path)
        well = test_nb(path, config.tst_flags.split(), FLAGS, basepath=config.config_path)[0]
    finally:
        atexit._run_exitfuncs(); sys.stdout.flush(); sys.stderr.flush()
        os._exit(not well)


def words(said):
    said.seek(0)
    return said.read().decode(errors='replace')


def main(paths, jobs):
    "Run them all; the number that failed."
    waiting, running, failed = list(paths), {}, 0
    while waiting or running:
        while waiting and len(running) < jobs:
            path = waiting.pop(0); pid, said = begun(path); running[pid] = path, said, time.time()
        pid, status = os.wait()
        if pid not in running: continue
        path, said, start = running.pop(pid)
        name = path.relative_to(ROOT)
        if status: failed += 1; print(f'{words(said)}\nFAILED  {name}', flush=True)
        else: print(f'ok {time.time() - start:4.0f} s  {name}', flush=True)
    return failed


if __name__ == '__main__':
    os.chdir(ROOT)
    found = [Path(p).resolve() for p in sys.argv[1:]] or sorted(
        p for p in (ROOT/'nbs').rglob('[!._]*.ipynb') if not any(part.startswith('.') for part in p.relative_to(ROOT).parts))
    start = time.time(); failed = main(found, int(os.environ.get('JOBS') or 1))
    print(f'{len(found) - failed} notebooks passed, {failed} failed, in {time.time() - start:.0f} s')
    sys.exit(failed > 0 or not found)
