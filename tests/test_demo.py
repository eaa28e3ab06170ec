"The demo, small, as a user starts it: the files it promises and nothing about scores."
import json
import os
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_demo_leaves_a_table_a_picture_and_rows(tmp_path):
    said = subprocess.run([sys.executable, '-m', 'hir', 'demo', '--seeds', '2', '--budget', '768', '--out', 'runs/demo'],
                          capture_output=True, text=True, cwd=tmp_path, timeout=400)
    assert said.returncode == 0, said.stderr[-1500:]
    assert 'HiR' in said.stdout and 'RL-ILA' in said.stdout and 'ILA' in said.stdout
    out = tmp_path/'runs'/'demo'
    rows = json.loads((out/'results.json').read_text())
    assert set(rows[0]) == {'method', 'seed', 'step', 'sampled', 'seconds', 'ila', 'cla'}
    last = {(r['method'], r['seed']): r for r in rows}
    assert set(last) == {(m, s) for m in ('HiR', 'RL-ILA', 'hybrid achieved + GDPO') for s in (0, 1)}
    assert {r['sampled'] for r in last.values()} == {768}                # the same budget for everybody
    starts = {r['ila'] for r in rows if r['step'] == 0}
    assert len(starts) == 1                                              # the same start, the same held-out set
    assert (out/'curves.png').read_bytes()[:4] == b'\x89PNG'
    for folder in ('hir-0', 'rl-ila-1', 'hybrid-achieved-gdpo-0'):
        names = {p.name for p in (out/folder).iterdir()}
        assert {'config.yaml', 'history.jsonl', 'eval.jsonl', 'policy'} <= names


@pytest.mark.slow
def test_train_then_eval_from_another_folder(tmp_path):
    def hir(*words):
        return subprocess.run([sys.executable, '-m', 'hir', *words], capture_output=True, text=True, cwd=tmp_path,
                              env=dict(os.environ, COLUMNS='120'), timeout=300)
    (tmp_path/'run.yaml').write_text('model: shipped:toy/start\ntrain: shipped:toy/train.jsonl\nsteps: 2\nbatch: 4\n'
                                     'method: {kl_coef: 0}\nmax_new_tokens: 32\nlr: 1e-4\nout: here\n')
    done = hir('train', '--config', 'run.yaml', '--method.k', '1')
    assert done.returncode == 0 and 'see here' in done.stdout, done.stderr[-800:]
    seen = hir('eval', '--model', 'here/policy', '--data', str(next((tmp_path/'here').glob('nothing'), 'missing.jsonl')))
    assert seen.returncode == 2 and 'missing.jsonl: no such file' in seen.stderr
