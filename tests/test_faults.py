"What goes wrong in real runs: full disks, killed processes, torn files, bad data."
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from changed import dotted
from hir.training.checkpoint import check_checkpoint, checkpoints, _find_checkpoint, own_weights, save_checkpoint
from hir.training.checkpoint import CheckpointError
from hir.cli import main
from hir.training.config import ConfigError, make_config
from hir.instructions.instruction import load_instructions
from hir.policies.policy import Policy, load_policy
from hir.files import shipped
from hir.training.runlog import read_log
from hir.training.trainer import fit

TOY = Path(__file__).parent.parent/'hir'/'configs'/'toy.yaml'
SHORT = ['--batch', '4', '--eval_every', '0', '--heldout', '', '--save_every', '2', '--cards_every', '0']


def test_full_disk_while_saving_keeps_the_last_checkpoint(tmp_path):
    "The operating system refuses to write beyond a limit, as a full disk does."
    code = f'''
import resource, signal
from accelerate import Accelerator
from hir.training.checkpoint import CheckpointError, own_weights, save_checkpoint
from hir.policies.policy import Policy, load_policy
from hir.files import shipped
model, tokenizer = load_policy(shipped('toy/start')); a = Accelerator(cpu=True); own_weights(a); p = Policy(model)
save_checkpoint(a, p, tokenizer, {str(tmp_path)!r}, dict(step=1))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try: save_checkpoint(a, p, tokenizer, {str(tmp_path)!r}, dict(step=2))
except CheckpointError as e: print('CheckpointError', e)
'''
    said = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert 'CheckpointError' in said.stdout and 'earlier checkpoints are untouched' in said.stdout, said.stderr[-800:]
    assert [p.name for p in sorted(tmp_path.iterdir())] == ['checkpoint-000001']
    check_checkpoint(tmp_path/'checkpoint-000001')


@pytest.fixture
def two_checkpoints(tmp_path):
    model, tokenizer = load_policy(shipped('toy/start'))
    accelerator = Accelerator(cpu=True)
    own_weights(accelerator)
    for step in (1, 2):
        save_checkpoint(accelerator, Policy(model), tokenizer, tmp_path, dict(step=step))
    return tmp_path


@pytest.mark.parametrize('damage', ['cut', 'flip', 'missing', 'manifest'])
def test_a_damaged_checkpoint_is_passed_over_by_name(two_checkpoints, damage):
    first, second = checkpoints(two_checkpoints)
    weights = second/'policy'/'model.safetensors'
    data = weights.read_bytes()
    if damage == 'cut':
        weights.write_bytes(data[:len(data)//2])
    if damage == 'flip':
        weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    if damage == 'missing':
        weights.unlink()
    if damage == 'manifest':
        (second/'manifest.json').write_text('{')
    told = []
    assert _find_checkpoint(two_checkpoints, warn=told.append) == first
    assert len(told) == 1 and 'checkpoint-000002' in told[0]
    with pytest.raises(CheckpointError, match='checkpoint-000002'):
        _find_checkpoint(two_checkpoints, str(second))


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_weights(tmp_path):
    "SIGKILL while training; the resumed run equals one that was never interrupted."
    def command(out, *more):
        return [sys.executable, '-m', 'hir', 'train', '--config', str(TOY), '--steps', '12', '--out', str(tmp_path/out),
                *SHORT, *more]
    env = dict(os.environ, TQDM_DISABLE='1')
    subprocess.run(command('whole'), check=True, env=env, capture_output=True)
    child = subprocess.Popen(command('killed'), env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.time() + 120
    while not checkpoints(tmp_path/'killed') and time.time() < deadline:
        time.sleep(.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    with open(tmp_path/'killed'/'history.jsonl', 'a') as f:
        f.write('{"step": 99, "ila"')                                 # a torn last line
    said = subprocess.run(command('killed', '--resume', 'auto'), env=env, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr[-800:]
    weights = [load_policy(tmp_path/n/'policy')[0].state_dict() for n in ('whole', 'killed')]
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    steps = [[r['step'] for r in read_log(tmp_path/n/'history.jsonl')] for n in ('whole', 'killed')]
    assert steps[0] == steps[1] == list(range(1, 13))


def test_an_earlier_run_is_never_mixed_with_a_new_one(tmp_path):
    "Refused by default, gone on with by `auto`, deleted by `fresh`; its checkpoints cannot win by their number."
    train = load_instructions(shipped('toy/train.jsonl'))[:4]

    def run(seed, steps, resume):
        model, tokenizer = load_policy(shipped('toy/start'))
        cfg = make_config(dotted(out=str(tmp_path), batch=2, steps=steps, max_new_tokens=32, kl_coef=0., cpu=True, seed=seed,
                               cards_every=0, save_every=1, resume=resume, lr=1e-3))
        return fit(cfg, model, tokenizer, train, progress=False)
    run(0, 3, 'no')
    with pytest.raises(ConfigError, match='holds an earlier run.*--resume auto'):
        run(1, 2, 'no')
    assert len(read_log(tmp_path/'history.jsonl')) == 3                  # nothing was touched
    assert run(0, 4, 'auto')['step'] == 4 and len(read_log(tmp_path/'history.jsonl')) == 4
    assert run(1, 2, 'fresh')['step'] == 2
    assert [c.name for c in checkpoints(tmp_path)] == ['checkpoint-000001', 'checkpoint-000002']
    assert [r['step'] for r in read_log(tmp_path/'history.jsonl')] == [1, 2]
    run(1, 3, str(tmp_path/'checkpoint-000001'))                         # back to an earlier one: later ones go
    assert [c.name for c in checkpoints(tmp_path)] == ['checkpoint-000002', 'checkpoint-000003']


BAD = {
    'unknown kind': ('{"task": "x", "constraints": [{"kind": "toy:nope"}]}', "constraints[0]': unknown kind"),
    'missing argument': ('{"task": "x", "constraints": [{"kind": "toy:include"}]}', "'word' is missing"),
    'mistyped argument': ('{"task": "x", "constraints": [{"kind": "toy:at_most", "args": {"n": "9"}}]}', 'must be int'),
    'broken line': ('{"task": "x", ', ':1: not valid JSON'),
    'empty data set': ('\n\n', 'holds no instructions'),
    'no constraints': ('{"task": "x", "constraints": []}', 'at least one constraint'),
    'prompt of another template': ('{"task": "x", "constraints": [{"kind": "toy:quotes"}], "prompt": "x\\n- y"}',
                                   "template 'inline' renders"),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_data_is_one_line_with_file_and_field(tmp_path, capsys, name):
    text, says = BAD[name]
    path = tmp_path/'data.jsonl'
    path.write_text(text + '\n')
    assert main(['train', '--config', str(TOY), '--train', str(path), '--out', str(tmp_path/'run')]) == 2
    err = capsys.readouterr().err
    assert says in err and 'data.jsonl' in err and err.count('\n') == 1
    assert not (tmp_path/'run').exists()


@pytest.mark.parametrize('field', ['pad_token', 'chat_template'])
def test_an_unfit_tokenizer_is_refused_at_the_door(tmp_path, capsys, field):
    model, tokenizer = load_policy(shipped('toy/start'))
    setattr(tokenizer, field, None)
    model.save_pretrained(tmp_path/'model')
    tokenizer.save_pretrained(tmp_path/'model')
    assert main(['train', '--config', str(TOY), '--model', str(tmp_path/'model'), '--out', str(tmp_path/'run')]) == 2
    assert field.split('_')[0] in capsys.readouterr().err


def test_skipped_updates_are_counted_and_leave_the_weights_alone(tmp_path, monkeypatch):
    monkeypatch.setattr('hir.methods.hir.clip_pg', lambda logp, *a, **k: logp.sum()*float('nan'))
    model, tokenizer = load_policy(shipped('toy/start'))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    cfg = make_config(dotted(out=str(tmp_path), batch=2, steps=2, max_new_tokens=32, kl_coef=0., cpu=True, cards_every=0))
    done = fit(cfg, model, tokenizer, load_instructions(shipped('toy/train.jsonl'))[:4], progress=False)
    assert done['skipped'] == 4                                       # two minibatches, two steps
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert [r['skipped'] for r in read_log(tmp_path/'history.jsonl')] == [2., 2.]
    assert json.loads((tmp_path/'checkpoint-000002'/'run.json').read_text())['skipped'] == 4
