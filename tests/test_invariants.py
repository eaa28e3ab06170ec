"Whole runs that must coincide: other micro-batches, other numbers of processes, the same seed, no replays."
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import hir.methods.hir
from changed import changed, dotted
from hir.training.config import make_config, read_config
from hir.instructions.instruction import load_instructions
from hir.policies.policy import load_policy
from hir.files import shipped
from hir.training.runlog import read_log
from hir.training.trainer import fit

TOY = Path(__file__).parent.parent/'hir'/'configs'/'toy.yaml'
BASE = make_config(dotted(model=str(shipped('toy/start')), batch=6, steps=4, eval_every=0, cards_every=0, heldout='',
                        kl_coef=.01, lr=5e-5), base=read_config(TOY))


def run(out, **changes):
    "Final weights and history of a short run of the toy."
    model, tokenizer = load_policy(shipped('toy/start'))
    fit(changed(BASE, out=str(out), **changes), model, tokenizer, load_instructions(shipped('toy/train.jsonl'))[:48],
        progress=False)
    return torch.cat([p.detach().flatten() for p in model.parameters()]), read_log(out/'history.jsonl')


@pytest.fixture(scope='module')
def reference(tmp_path_factory):
    return run(tmp_path_factory.mktemp('reference'))


def far(a, b):
    return (a - b).abs().max().item()


def test_micro_batches_do_not_matter(tmp_path, reference):
    weights, history = run(tmp_path, micro=1)
    assert far(weights, reference[0]) < 1e-5        # the run moves them by more than 1e-4
    for ours, theirs in zip(history, reference[1]):
        assert ours['loss'] == pytest.approx(theirs['loss'], abs=1e-5)


def test_the_same_seed_is_the_same_run(tmp_path, reference):
    assert far(run(tmp_path/'same')[0], reference[0]) == 0
    assert far(run(tmp_path/'other', seed=1)[0], reference[0]) > 1e-4


def test_replays_go_through_the_step(tmp_path, monkeypatch, reference):
    "Dropping the replays changes the run: they are not decoration."
    monkeypatch.setattr(hir.methods.hir, 'replays_of', lambda *a, **k: [])
    weights, history = run(tmp_path)
    assert all(h['replays'] == 0 for h in history) and all(h['replays'] == 12 for h in reference[1])
    assert far(weights, reference[0]) > 1e-4


def test_without_replays_the_replay_switches_are_idle(tmp_path):
    "With k = 0, selection, relabelling and denominators cannot change anything."
    plain = run(tmp_path/'a', k=0)[0]
    other = run(tmp_path/'b', k=0, select='random', relabel='subset', denominator='rescore', lambda0=9., eta=.5)[0]
    assert far(plain, other) == 0


SCRIPT = '''
import sys
from accelerate import PartialState
from hir.training.config import read_config
from hir.instructions.instruction import load_instructions
from hir.policies.policy import load_policy
from hir.files import shipped
from hir.training.trainer import fit
cfg = read_config(sys.argv[1], trust=True)
model, tokenizer = load_policy(cfg.model)
fit(cfg, model, tokenizer, load_instructions(shipped('toy/train.jsonl'))[:48], progress=False)
PartialState().destroy_process_group()     # as `hir train` does: threads of gloo that still run at the end abort the process
'''


@pytest.mark.slow
@pytest.mark.parametrize('batch', [6, 1])
def test_two_processes_equal_one(tmp_path, batch):
    "gloo on this machine; with a batch of one instruction, the second process samples nothing."
    from hir.training.config import save_config
    save_config(changed(BASE, batch=batch, out=str(tmp_path/'two'), micro=16), tmp_path/'two.yaml')
    (tmp_path/'script.py').write_text(SCRIPT)
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    said = subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node', '2', '--master_port', str(port),
                           str(tmp_path/'script.py'), str(tmp_path/'two.yaml')], capture_output=True, text=True,
                          env=dict(os.environ, ACCELERATE_USE_CPU='true', OMP_NUM_THREADS='1'), timeout=300)
    assert said.returncode == 0, said.stderr[:3000]
    weights, history = run(tmp_path/'one', batch=batch, micro=16)
    two = torch.cat([p.detach().flatten() for p in load_policy(tmp_path/'two'/'policy')[0].parameters()])
    assert far(weights, two) < 1e-5
    for ours, theirs in zip(history, read_log(tmp_path/'two'/'history.jsonl'), strict=True):
        assert ours['loss'] == pytest.approx(theirs['loss'], abs=1e-5)
        assert (ours['sampled'], ours['replays'], ours['cla']) == (theirs['sampled'], theirs['replays'], theirs['cla'])
