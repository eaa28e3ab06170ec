"""The study's plumbing: every method runs, records are whole, what is there is not run again, failures are named.

It checks no score: two steps of training say nothing about a method.
"""
import json, math, subprocess, sys
from pathlib import Path

import pytest

from changed import dotted
from hir.files import shipped
from hir.policies.policy import load_policy
from hir.toy.gallery import GALLERY, noisy_lines
from hir.toy.study import MORE_ROWS, METHODS, PARTS, study_trials
from hir.toy.toy import REGIMES, draw_instructions
from hir.toy.trials import Trial, TrialError, run_trials
from hir.training.config import make_config, read_config
from hir.training.runlog import read_log
from hir.training.trainer import fit

MIXED = 'pairs of the policy, mixed'
GAP = {'pairs of the policy', 'pairs of the start', MIXED}
TOY = Path(__file__).parent.parent/'hir'/'configs'/'toy.yaml'


def quick(out, what='study'):
    command = [sys.executable, '-m', 'hir', what, '--quick', '--out', str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_quick_study(tmp_path):
    said = quick(tmp_path)
    records = [json.loads(line) for line in (tmp_path/'trials.jsonl').read_text().splitlines()]
    assert {r['method'] for r in records} == {*METHODS, *MORE_ROWS, *PARTS}
    assert {r['regime'] for r in records} == set(REGIMES) and all(g in said for g in REGIMES)
    for r in records:
        assert [e['step'] for e in r['evals']][0] == 0 and r['evals'][-1]['sampled'] >= 192, r['method']
        assert all(0 <= e['ila'] <= e['cla'] <= 1 for e in r['evals'])
        numbers = [x for xs in r['history'].values() for x in xs if x is not None]
        assert {'rows', 'sampled', 'length', 'truncated', 'entropy'} <= set(r['history']) and all(map(math.isfinite, numbers)), r['method']
        replays = any('replay/cla' == name for name in r['history'])
        assert replays == (r['method'] in PARTS or r['method'].startswith(('HiR', 'hybrid'))), r['method']
    starts = [json.loads(line) for line in (tmp_path/'starts.jsonl').read_text().splitlines()]
    assert [row['start'] for row in starts] == [0] and len(starts[0]['met']) == 13
    made = {p.name: p.stat().st_mtime_ns for p in (tmp_path/'records').iterdir()}
    assert len(made) == len(records)
    quick(tmp_path)                                                  # nothing left to do
    assert made == {p.name: p.stat().st_mtime_ns for p in (tmp_path/'records').iterdir()}


@pytest.mark.slow
def test_quick_gallery(tmp_path):
    said = quick(tmp_path, 'gallery')
    records = [json.loads(line) for line in (tmp_path/'trials.jsonl').read_text().splitlines()]
    assert {r['method'] for r in records} == {*GALLERY, *noisy_lines()} | GAP and all(f'| {name} ' in said for name in GALLERY)
    for r in records:
        first, last = r['evals'][0], r['evals'][-1]
        drawn = 0 if r['method'] == MIXED else 192                   # two steps of 96, or what more was drawn
        assert first['step'] == 0 and last['sampled'] >= drawn and last['cpu'] > 0, r['method']
        assert ('kl' in last) == (r['method'] in GAP) and abs(first.get('kl', 0)) < 1e-3 < last.get('kl', 1), r['method']
        assert all(0 <= e['ila'] <= e['cla'] <= 1 for e in r['evals']), r['method']
        assert first['ila'] == records[0]['evals'][0]['ila'] or 'PHF conditional' in r['method'] or r['method'] in ('CoH', 'LeTI')   # asked in their own way
    made = {p.name: p.stat().st_mtime_ns for p in (tmp_path/'records').iterdir()}
    quick(tmp_path, 'gallery')                                       # nothing left to do
    assert made == {p.name: p.stat().st_mtime_ns for p in (tmp_path/'records').iterdir()} and len(made) == len(records)


@pytest.mark.slow
def test_a_failing_trial_is_named_and_the_others_stay(tmp_path):
    good, = study_trials({'HiR': METHODS['HiR']}, {'HiR': 5e-4}, ['sparse'], (0,), 96)
    bad = Trial('sparse', 'no such method', (('m', 6), ('method', 'none')), budget=96)
    kept = run_trials([good], tmp_path, TOY, 1)
    with pytest.raises(TrialError, match='sparse-no-such-method'): run_trials([good, bad], tmp_path, TOY, 1)
    assert run_trials([good], tmp_path, TOY, 1) == kept


@pytest.mark.slow
def test_hir_real_trains_for_its_time_and_goes_on(tmp_path):
    "The command for the real model, here on the toy: it ends by its minutes, asks before and after, and a second call goes on."
    def real(minutes):
        command = [sys.executable, '-m', 'hir', 'real', '--out', str(tmp_path/'run'), '--minutes', str(minutes), '--config', 'toy', '--batch', '4']
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout, len((tmp_path/'run'/'history.jsonl').read_text().splitlines())
    said, steps = real(1e-6)
    assert steps == 1 and 'after step 0: [' in said and 'after step 1: [' in said and (tmp_path/'run'/'curves.png').stat().st_size > 1000
    said, steps = real(.01)
    assert steps > 1 and f'after step {steps}: [' in said and 'going on from' in said


def test_a_row_that_is_learned_twice_pulls_twice(tmp_path):
    "All rows twice is plain RL; some rows twice is another gradient from as many responses."
    found = {}
    for name, method in dict(plain=dict(name='hir', k=0, kl_coef=0.), some=dict(name='hir.toy.study:rows_again', k=2),
                             all=dict(name='hir.toy.study:rows_again', k=6)).items():
        cfg = make_config(dotted(model=str(shipped('toy/start')), batch=4, steps=1, m=6, minibatches=1, eval_every=0, cards_every=0, heldout='',
                                 lr=1e-3, max_new_tokens=24, out=str(tmp_path/name)) | dict(method=method), base=read_config(TOY))
        model, tokenizer = load_policy(cfg.model)
        fit(cfg, model, tokenizer, draw_instructions(8, seed=3, low=1, high=2), progress=False)
        found[name], = read_log(tmp_path/name/'history.jsonl')
    plain, some, every = found['plain'], found['some'], found['all']
    assert 0 < plain['reward'] < 1 and {r['sampled'] for r in found.values()} == {24}
    assert [r['rows'] for r in (plain, some, every)] == [24, 32, 48]
    assert every['grad_norm'] == pytest.approx(plain['grad_norm'], rel=2e-3)     # n - 1 tokens in a variance
    assert some['grad_norm'] != pytest.approx(plain['grad_norm'], rel=2e-2) and 'kl' not in every
