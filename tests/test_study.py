"""The study's plumbing: every method runs, records are whole, what is there is not run again, failures are named.

It checks no score: two steps of training say nothing about a method.
"""
import json, math, subprocess, sys
from pathlib import Path

import pytest

from hir.toy.study import ABLATIONS, FASTER, METHODS, VARIANTS, study_trial
from hir.toy.trials import REGIMES, Trial, TrialError, run_trials

TOY = Path(__file__).parent.parent/'hir'/'configs'/'toy.yaml'


def quick(out):
    command = [sys.executable, '-m', 'hir', 'study', '--quick', '--out', str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_quick_study(tmp_path):
    said = quick(tmp_path)
    records = [json.loads(line) for line in (tmp_path/'trials.jsonl').read_text().splitlines()]
    assert {r['method'] for r in records} == {*METHODS, *VARIANTS, *ABLATIONS, *FASTER}
    assert {r['regime'] for r in records} == set(REGIMES) and all(g in said for g in REGIMES)
    for r in records:
        assert [e['step'] for e in r['evals']][0] == 0 and r['evals'][-1]['sampled'] >= 128, r['method']
        assert all(0 <= e['ila'] <= e['cla'] <= 1 for e in r['evals']) and 0 <= r['second']['ila'] <= 1
        numbers = [x for xs in r['history'].values() for x in xs if x is not None]
        assert len(numbers) > 20 and all(map(math.isfinite, numbers)), r['method']
        replays = r['history']['replays'][0]
        assert (replays > 0) == (r['method'] not in METHODS or r['method'] in ('HiR', 'hindsight FT')), r['method']
    made = {p.name: p.stat().st_mtime_ns for p in (tmp_path/'records').iterdir()}
    assert len(made) == len(records)
    quick(tmp_path)                                                  # nothing left to do
    assert made == {p.name: p.stat().st_mtime_ns for p in (tmp_path/'records').iterdir()}


@pytest.mark.slow
def test_a_failing_trial_is_named_and_the_others_stay(tmp_path):
    good, bad = study_trial('sparse', 'HiR', budget=96), Trial('sparse', 'no such method', (('m', 6), ('method', 'none')), budget=96)
    kept = run_trials([good], tmp_path, TOY, 1)
    with pytest.raises(TrialError, match='sparse-no-such-method'): run_trials([good, bad], tmp_path, TOY, 1)
    assert run_trials([good], tmp_path, TOY, 1) == kept
