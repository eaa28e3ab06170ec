"A run that is killed or asked to stop, wherever it is, goes on as if nothing had happened."
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import hir
from changed import dotted
from hir.training.checkpoint import CheckpointError, checkpoints
from hir.cli import main
from hir.training.config import make_config
from hir.instructions.instruction import load_instructions
from hir.policies.policy import load_policy
from hir.policies.engines.hf import HFEngine
from hir.training.runlog import read_log
from hir.files import shipped
from hir.training.trainer import fit

TOY = Path(hir.__file__).parent/'configs'/'toy.yaml'
STEPS = 6
CLOCKS = ('seconds', 'cpu_seconds', 'tokens_per_second')

PLACES = {'sampling': ('hir.training.context', '_draw_rows'), 'updating': ('hir.training.step', '_optimise', True), 'logging': ('hir.training.trainer', '_log_rows'),
          'logged': ('hir.training.trainer', '_log_step', True), 'writing weights': ('hir.training.checkpoint', 'save_policy', True),
          'hashing': ('hir.training.checkpoint', '_manifest_of'), 'publishing': ('hir.training.checkpoint', 'remove'),
          'saved': ('hir.training.trainer', '_save_now', True), 'evaluating': ('hir.training.trainer', '_log_eval'), 'torn': ('hir.training.trainer', 'append')}


def die(): os.kill(os.getpid(), signal.SIGKILL)

def fatal(nth, module, name, after=False):
    "Kill this process at the start, or after the end, of the nth call of a function."
    real, calls = getattr(sys.modules[module], name), []
    def counted(*args, **kw):
        calls.append(1)
        if len(calls) == nth and not after: die()
        out = real(*args, **kw)
        if len(calls) == nth and after: die()
        return out
    setattr(sys.modules[module], name, counted)

def torn(nth, module, name):
    "Kill this process when it has written half a line of the rollout log, in step nth."
    real = getattr(sys.modules[module], name)
    def half(path, *records):
        real(path, *records)
        if path.name == 'rollouts.jsonl' and records[0]['step'] == nth:
            os.truncate(path, os.path.getsize(path) - 40)
            die()
    setattr(sys.modules[module], name, half)

def command(log, where, nth, words):
    "`hir` with these words; dies where told."
    with open(log, 'wb') as f:
        os.dup2(f.fileno(), 1)
        os.dup2(f.fileno(), 2)
    if where: (torn if where == 'torn' else fatal)(nth, *PLACES[where])
    raise SystemExit(main(words))


def words(out, *more):
    return ['train', '--config', str(TOY), '--steps', str(STEPS), '--batch', '3', '--m', '3', '--method.k', '1', '--eval_every', '3',
            '--heldout', str(Path(out).parent/'heldout.jsonl'), '--eval_samples', '1', '--save_every', '2', '--keep', '2',
            '--cards_every', '2', '--schedule', 'cosine', '--method.kl_coef', '.01', '--max_new_tokens', '16', '--out', str(out), *more]


# Processes of their own, forked from one that has imported everything and computed nothing: what takes long is the import.
FORK = multiprocessing.get_context('forkserver')
FORK.set_forkserver_preload(['hir.cli', 'hir.training.trainer', 'hir.recipes', 'hir.evaluation.evaluate', 'test_resume'])


def started(out, where='', nth=1):
    "`hir train --resume auto` on its way; what it says goes to a file beside the run's folder."
    short = out.parent/'heldout.jsonl'
    short.write_text(''.join(Path(shipped('toy/heldout.jsonl')).read_text().splitlines(True)[:3]))
    child = FORK.Process(target=command, args=(out.parent/'said', where, nth, words(out, '--resume', 'auto')))
    child.start()
    return child

def run(out, *killed):
    "Its exit code, once it has ended."
    child = started(out, *killed)
    child.join(240)
    return child.exitcode

def said(out): return (out.parent/'said').read_text()[-2000:]


def left(out):
    "All that a run leaves behind, without its clocks."
    def timeless(path):
        return [{k: v for k, v in r.items() if k not in CLOCKS and not k.startswith('time/')} for r in read_log(path)]
    logs = {n: timeless(out/f'{n}.jsonl') for n in ('history', 'eval', 'rollouts')}
    return logs | {'cards': (out/'cards.md').read_text(), 'names': sorted(p.name for p in out.iterdir()),
                   'weights': {k: v for k, v in load_policy(out/'policy')[0].state_dict().items()}}


def assert_same(ours, theirs):
    for name in ('history', 'eval', 'rollouts', 'cards', 'names'):
        assert ours[name] == theirs[name], name
    assert all(torch.equal(v, theirs['weights'][k]) for k, v in ours['weights'].items())


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "The run that nothing happened to."
    out = tmp_path_factory.mktemp('whole')/'run'
    assert run(out) == 0, said(out)
    found = left(out)
    assert [r['step'] for r in found['history']] == list(range(1, STEPS + 1)) and [r['step'] for r in found['eval']] == [0, 3, 6]
    assert {r['step'] for r in found['rollouts']} == set(range(1, STEPS + 1)) and found['cards'].count('<!-- card') == 4
    return found


@pytest.mark.slow
@pytest.mark.parametrize('where', PLACES)
def test_killed_anywhere_it_goes_on_to_the_same_end(tmp_path, whole, where):
    "SIGKILL at a place, in a call drawn by a seed."
    rng, out = random.Random(where), tmp_path/'run'
    calls = {'updating': 2*STEPS, 'writing weights': 3, 'hashing': 3, 'publishing': 3, 'saved': 3, 'evaluating': 3}
    nth = rng.randint(1, calls.get(where, STEPS))
    assert run(out, where, nth) == -signal.SIGKILL, f'was not killed in {where}, call {nth}: {said(out)}'
    assert run(out) == 0, said(out)
    assert_same(left(out), whole)


@pytest.mark.slow
def test_killed_by_the_clock_it_goes_on_to_the_same_end(tmp_path, whole):
    "SIGKILL from outside after three random waits."
    rng, out = random.Random(1), tmp_path/'run'
    for _ in range(3):
        child, before = started(out), len(read_log(out/'history.jsonl'))
        while len(read_log(out/'history.jsonl')) <= before and child.is_alive():
            time.sleep(.01)
        time.sleep(rng.random()/5)
        child.kill()
        child.join()
    assert run(out) == 0, said(out)
    assert_same(left(out), whole)


@pytest.mark.slow
def test_sigterm_finishes_the_step_saves_and_says_so(tmp_path, whole):
    "The command itself, in an interpreter of its own."
    out = tmp_path/'run'
    run(out, 'sampling', 1)                                        # writes the files that the command needs
    child = subprocess.Popen([sys.executable, '-m', 'hir', *words(out, '--resume', 'auto')], stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, text=True)
    while not read_log(out/'history.jsonl') and child.poll() is None:
        time.sleep(.02)
    child.send_signal(signal.SIGTERM)
    text = child.communicate(timeout=120)[0]
    assert child.returncode == 143 and 'stopped by SIGTERM after step' in text and '--resume auto' in text, text[-2000:]
    last = read_log(out/'history.jsonl')[-1]['step']
    assert last < STEPS and checkpoints(out)[-1].name == f'checkpoint-{last:06d}'
    assert run(out) == 0, said(out)
    ours = left(out)
    ours['names'] = whole['names']                                 # it may keep the checkpoint of an odd step
    assert_same(ours, whole)


@pytest.mark.slow
def test_sigterm_to_one_of_two_processes_stops_both(tmp_path):
    "Both processes save the same step, and one process goes on from their checkpoint."
    out = tmp_path/'run'
    (tmp_path/'train.py').write_text('''
import os, signal, sys
import hir.training.trainer
real = hir.training.trainer._train_step
def step(cfg, parts, *args):
    if parts.run.step == 1 and parts.accelerator.process_index == 1: os.kill(os.getpid(), signal.SIGTERM)
    return real(cfg, parts, *args)
hir.training.trainer._train_step = step
from hir.cli import main
try: main(WORDS)
except SystemExit as e: open(f'{FOLDER}/status{os.environ["RANK"]}', 'w').write(str(e.code))
'''.replace('WORDS', repr(words(out, '--resume', 'auto'))).replace('{FOLDER}', str(tmp_path)))
    run(out, 'sampling', 1)
    both = subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2',
                           str(tmp_path/'train.py')], capture_output=True, text=True, timeout=240)
    status = [p.read_text() for p in sorted(tmp_path.glob('status?'))]
    assert status == ['143', '143'], both.stdout[-1000:] + both.stderr[-2000:]
    assert both.stdout.count('stopped by SIGTERM after step 2') == 1
    assert [c.name for c in checkpoints(out)] == ['checkpoint-000002']
    assert run(out) == 0, said(out)
    assert [r['step'] for r in read_log(out/'history.jsonl')] == list(range(1, STEPS + 1))


def small(out, **changes):
    return make_config(dotted(out=str(out), batch=2, m=2, k=1, steps=2, max_new_tokens=16, kl_coef=0., cpu=True, cards_every=0, lr=1e-3)
                       | dotted(**changes))


def short_fit(cfg, **kw):
    model, tokenizer = load_policy(shipped('toy/start'))
    fit(cfg, model, tokenizer, load_instructions(shipped('toy/train.jsonl'))[:4], progress=False, **kw)
    return model


def test_the_engine_is_closed_whatever_fails(tmp_path):
    "The first evaluation, reading a checkpoint, a step."
    closed = []

    class Closing(HFEngine):
        def close(self): closed.append(self)

    def fails(cfg, error, **kw):
        engine = Closing(*load_policy(shipped('toy/start')), max_new_tokens=16)
        with pytest.raises(error): short_fit(cfg, engine=engine, **kw)
        assert closed.pop() is engine and not closed

    def broken(*args): raise ZeroDivisionError
    fails(small(tmp_path/'a'), ZeroDivisionError, evaluate=broken)
    fails(small(tmp_path/'b'), ZeroDivisionError, on_step=broken)
    short_fit(small(tmp_path/'c', steps=1))
    (folder := checkpoints(tmp_path/'c')[0]).joinpath('run.json').unlink()
    fails(small(tmp_path/'c', resume=str(folder)), CheckpointError)


def test_an_update_that_is_skipped_leaves_optimizer_and_schedule_alone(tmp_path, monkeypatch):
    short_fit(small(tmp_path/'a', steps=1, schedule='linear'))
    real = hir.methods.hir.clip_pg
    monkeypatch.setattr('hir.methods.hir.clip_pg', lambda *a, **k: real(*a, **k)*float('nan'))
    shutil.copytree(tmp_path/'a', tmp_path/'b')
    short_fit(small(tmp_path/'b', steps=2, schedule='linear', resume='auto'))
    states = [torch.load(tmp_path/'b'/f'checkpoint-00000{s}'/'state'/'optimizer.bin') for s in (1, 2)]
    for old, new in zip(states[0]['state'].values(), states[1]['state'].values(), strict=True):
        assert all(torch.equal(old[k], new[k]) for k in old)
    schedules = [json.loads((tmp_path/'b'/f'checkpoint-00000{s}'/'scheduler.json').read_text()) for s in (1, 2)]
    assert schedules[0]['last_epoch'] == schedules[1]['last_epoch'] == 1


@pytest.mark.parametrize('changes', [dict(lora_rank=2, kl_coef=.01), dict(gradient_checkpointing=True, kl_coef=.01),
                                     dict(optimizer='torch.optim:SGD')], ids=['lora', 'gradient checkpointing', 'sgd'])
def test_other_ways_to_train_resume_exactly_too(tmp_path, changes):
    short_fit(small(tmp_path/'whole', **changes))
    short_fit(small(tmp_path/'cut', steps=1, **changes))
    short_fit(small(tmp_path/'cut', resume='auto', **changes))
    ours, theirs = (load_policy(tmp_path/n/'policy')[0].state_dict() for n in ('whole', 'cut'))
    start = load_policy(shipped('toy/start'))[0].state_dict()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours) and any(not torch.equal(ours[k], start[k]) for k in ours)


def test_gradient_checkpointing_trains_the_same(tmp_path):
    plain, again = (short_fit(small(tmp_path/n, gradient_checkpointing=n == 'again')).state_dict() for n in ('plain', 'again'))
    assert max((plain[k] - again[k]).abs().max() for k in plain) < 1e-5


def test_lora_checkpoints_are_adapters_and_the_end_is_a_whole_model(tmp_path):
    short_fit(small(tmp_path, lora_rank=2, kl_coef=.01))
    folder = checkpoints(tmp_path)[-1]/'policy'
    assert (folder/'adapter_model.safetensors').is_file() and not (folder/'model.safetensors').exists()
    assert (tmp_path/'policy'/'model.safetensors').is_file()
    first = read_log(tmp_path/'history.jsonl')[0]
    assert abs(first['kl']) < 1e-5                                 # the reference is the start, adapters off


def test_the_rollout_log_can_be_switched_off(tmp_path):
    short_fit(small(tmp_path, rollouts_mb=0, steps=1))
    assert not (tmp_path/'rollouts.jsonl').exists()
    assert json.loads((checkpoints(tmp_path)[-1]/'run.json').read_text())['step'] == 1
