"Run folders from strangers: nothing in them runs, nothing that is not ours is deleted, and nothing changes in silence."
import hashlib
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hir.constraints.constraint import Constraint, kind
from hir.constraints.verifier import CheckError
from hir.files import shipped
from hir.instructions.instruction import load_instructions
from hir.policies.policy import load_policy
from hir.replays.reward import RewardError
from hir.training.checkpoint import CheckpointError, _Index, _manifest_of, check_checkpoint, checkpoints
from hir.training.config import ConfigError, make_config
from hir.training.runlog import read_log
from hir.training.trainer import fit

from changed import dotted

TRAIN = load_instructions(shipped('toy/train.jsonl'))[:4]

def small(out, **more):
    return make_config(dotted(**dict(out=str(out), batch=2, steps=2, m=2, max_new_tokens=8, kl_coef=0., cpu=True, cards_every=1,
                                     save_every=1, keep=9) | more))

def trained(cfg, train=TRAIN, **kw): return fit(cfg, *load_policy(shipped('toy/start')), train, progress=False, **kw)

@pytest.fixture(scope='module')
def run_once(tmp_path_factory):
    out = tmp_path_factory.mktemp('once')/'run'
    trained(small(out))
    return out

@pytest.fixture
def run(run_once, tmp_path): return Path(shutil.copytree(run_once, tmp_path/'run'))

def forged(folder):
    "The manifest of a folder made anew, as whoever changed a file in it would."
    (folder/'manifest.json').write_text(json.dumps(_manifest_of(folder)))

def sums(folder, but=()):
    return {p: hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() and not p.is_symlink() else os.path.islink(p) and os.readlink(p)
            for p in sorted(folder.rglob('*')) if not any(b == p or b in p.parents for b in but)}


# ---- code from a checkpoint

class Bomb:
    def __init__(self, path): self.path = path
    def __reduce__(self): return Path.touch, (self.path,)

def plain(bomb, path): path.write_bytes(pickle.dumps(bomb))
def packed(bomb, path, **kw):
    with open(path, 'wb') as f: torch.save({'state': bomb}, f, **kw)
def framed(bomb, path): packed(bomb, path, _use_new_zipfile_serialization=False)

@pytest.mark.parametrize('write', [plain, packed, framed])
def test_a_pickle_in_any_file_of_a_checkpoint_does_not_run(run_once, run, write, tmp_path):
    latest, hit = run/'checkpoint-000002', tmp_path/'hit'
    for name in [*_manifest_of(run_once/'checkpoint-000002'), 'state/custom_checkpoint_0.pkl', 'state/scheduler.bin', 'state/scaler.pt', 'state/new/.metadata',
                 'policy/pytorch_model.bin', 'policy/other.safetensors']:
        shutil.rmtree(run); shutil.copytree(run_once, run)
        (latest/name).parent.mkdir(parents=True, exist_ok=True); write(Bomb(hit), latest/name); forged(latest)
        try: trained(small(run, steps=3, resume='auto'))
        except Exception: pass
        assert not hit.exists(), f'{name} was run'

def test_a_bomb_would_be_seen(tmp_path):
    packed(Bomb(tmp_path/'hit'), tmp_path/'x'); torch.load(tmp_path/'x', weights_only=False)
    assert (tmp_path/'hit').exists()

def test_a_pickle_in_the_state_is_refused_by_name(run):
    packed(Bomb(run/'hit'), run/'checkpoint-000002'/'state'/'optimizer.bin'); forged(run/'checkpoint-000002')
    with pytest.raises(CheckpointError, match='optimizer.bin: holds more than tensors'): trained(small(run, steps=3, resume='auto'))


# ---- a manifest that binds

@pytest.mark.parametrize('name', ['policy/extra.safetensors', 'policy/model-00002-of-00002.safetensors', 'state/custom_checkpoint_0.pkl', 'run2.json'])
def test_what_the_manifest_does_not_list_is_not_there(run, name):
    (run/'checkpoint-000002'/name).write_bytes(b'x')
    with pytest.raises(CheckpointError, match=f'{Path(name).name}: is not in the manifest'): check_checkpoint(run/'checkpoint-000002')

def test_the_litter_of_a_file_manager_does_no_harm(run):
    (run/'checkpoint-000002'/'.DS_Store').touch(); check_checkpoint(run/'checkpoint-000002')

@pytest.mark.parametrize('manifest', ['[]', '{"../../x": [1, "a"]}', '{"/etc/passwd": [1, "a"]}', '{"run.json": 3}', '{"run.json": [1]}', '['*100_000, '\x00'])
def test_a_manifest_that_is_none(run, manifest):
    (run/'checkpoint-000002'/'manifest.json').write_text(manifest)
    with pytest.raises(CheckpointError, match='manifest.json'): check_checkpoint(run/'checkpoint-000002')

def damaged(folder): 
    tokenizer = folder/'policy'/'tokenizer.json'
    tokenizer.write_bytes(b'\0\0' + tokenizer.read_bytes()[2:])

def test_damaged_checkpoints_are_put_aside_and_never_deleted(run, capsys):
    damaged(run/'checkpoint-000002'); before = sums(run/'checkpoint-000002')
    trained(small(run, steps=3, resume='auto'))
    assert 'damaged and was put aside as damaged-checkpoint-000002' in capsys.readouterr().out
    assert [*sums(run/'damaged-checkpoint-000002').values()] == [*before.values()]
    assert [p.name for p in checkpoints(run)] == [f'checkpoint-00000{s}' for s in (1, 2, 3)]
    assert [r['step'] for r in read_log(run/'history.jsonl')] == [1, 2, 3]

def test_a_run_without_a_whole_checkpoint_starts_over_only_if_told_to(run):
    for c in checkpoints(run): damaged(c)
    before = sums(run, [run/'.hir-lock'])
    with pytest.raises(CheckpointError, match='none of its checkpoints is whole.*--resume fresh'):
        trained(small(run, steps=3, resume='auto'))
    assert sums(run, [run/'.hir-lock']) == before
    assert trained(small(run, steps=1, resume='fresh'))['step'] == 1


# ---- deletion of what is not ours

FOREIGN = ['.venv.old', '.git.tmp', 'checkpoint-500', 'checkpoint-000001-best', '.checkpoint-000009.tmp', '.policy.old', 'notes', 'damaged']

@pytest.mark.parametrize('resume', ['auto', 'fresh'])
def test_what_is_not_ours_stays(run, resume):
    for name in FOREIGN: (run/name).mkdir(); (run/name/'mine').write_text('mine')
    before = {name: sums(run/name) for name in FOREIGN}
    trained(small(run, steps=3, resume=resume, keep=1))
    assert {name: sums(run/name) for name in FOREIGN} == before

def test_what_we_left_half_done_is_swept(run):
    for name in ('.checkpoint-000003.tmp', '.policy.old', '.checkpoint-000001.old'): (run/name).mkdir()
    (run/'.checkpoint-000003.tmp'/'.hir').touch(); (run/'.policy.old'/'manifest.json').touch(); (run/'.policy.old'/'config.json').touch()
    trained(small(run, steps=3, resume='auto'))
    assert not [p for p in run.iterdir() if p.name.endswith(('.tmp', '.old'))]

@pytest.mark.parametrize('name', ['eval.jsonl', 'config.yaml', 'history.jsonl', 'cards.md', 'notes.txt', 'src/main.py', '.hidden/x', '.git/HEAD'])
@pytest.mark.parametrize('resume', ['no', 'auto', 'fresh'])
def test_a_folder_with_other_things_is_no_folder_for_a_run(tmp_path, name, resume):
    (tmp_path/'out'/name).parent.mkdir(parents=True, exist_ok=True); (tmp_path/'out'/name).write_text('lr: 1')
    before = sums(tmp_path)
    with pytest.raises(ConfigError, match="setting 'out': .*out"): trained(small(tmp_path/'out', resume=resume))
    assert sums(tmp_path) == before

def test_a_checkpoint_of_somebody_else_is_not_replaced(run):
    shutil.rmtree(run/'checkpoint-000002'); (run/'checkpoint-000002').mkdir(); (run/'checkpoint-000002'/'mine').write_text('mine')
    trained(small(run, steps=2, resume='auto'))
    assert (run/'damaged-checkpoint-000002'/'mine').read_text() == 'mine' and len(checkpoints(run)) == 2


# ---- links

@pytest.mark.parametrize('name', ['cards.md', 'history.jsonl', 'eval.jsonl', 'config.yaml', 'rollouts.jsonl', 'hir-run.json', '.hir-lock',
                                  'policy', 'checkpoint-000002', 'checkpoint-000007'])
def test_a_link_where_a_run_writes_is_refused_at_once(run, tmp_path, name):
    outside = tmp_path/'outside'; outside.write_text('mine')
    if (run/name).is_dir(): outside.unlink(); shutil.move(run/name, outside)
    else: (run/name).unlink(missing_ok=True)
    (run/name).symlink_to(outside); before = sums(tmp_path)
    with pytest.raises(ConfigError, match='is a link'): trained(small(run, steps=3, resume='auto'))
    assert sums(tmp_path) == before

@pytest.mark.parametrize('name', ['policy/model.safetensors', 'state/optimizer.bin', 'run.json', 'state', 'policy/secret'])
def test_a_link_in_a_checkpoint_is_not_followed(run, tmp_path, name):
    target = run/'checkpoint-000002'/name
    if target.exists(): shutil.move(target, tmp_path/'moved')
    else: (tmp_path/'moved').write_text('secret')
    target.symlink_to(tmp_path/'moved')
    with pytest.raises(CheckpointError, match='is a link'): check_checkpoint(run/'checkpoint-000002')

def test_export_takes_nothing_through_a_link(run, tmp_path, capsys):
    from hir.cli import main
    (tmp_path/'secret').write_text('secret'); (run/'policy'/'notes.txt').symlink_to(tmp_path/'secret')
    assert main(['export', str(run), '-o', str(tmp_path/'model')]) == 2 and 'is a link' in capsys.readouterr().err
    assert not (tmp_path/'model').exists()
    (run/'policy'/'notes.txt').unlink(); (run/'policy'/'notes.txt').write_text('not listed')
    assert main(['export', str(run), '-o', str(tmp_path/'model')]) == 2 and 'not in the manifest' in capsys.readouterr().err


# ---- silent change

def resumed(run, capsys, train=TRAIN, **more):
    trained(small(run, steps=3, resume='auto', **more), train)
    return next(l for l in capsys.readouterr().out.splitlines() if 'going on from' in l)

def test_other_instructions_are_said(run, capsys):
    assert 'changed: steps 3 (was 2), the content of train' in resumed(run, capsys, TRAIN[:3] + [replace(TRAIN[3], task='Other.')])

def test_the_same_instructions_are_not_said(run, capsys):
    assert resumed(run, capsys).endswith('changed: steps 3 (was 2)')

def test_other_heldout_instructions_are_said(tmp_path, capsys):
    held = tmp_path/'held.jsonl'; held.write_text('1')
    trained(small(tmp_path/'run', heldout=str(held))); held.write_text('2')
    assert resumed(tmp_path/'run', capsys, heldout=str(held)).endswith('the content of heldout')

def test_an_unknown_earlier_setting_hides_nothing(run, capsys):
    with open(run/'config.yaml', 'a') as f: f.write('warp: 9\n')
    said = resumed(run, capsys, lr=1e-4)
    assert 'lr 0.0001 (was' in said and "the earlier setting 'warp'" in said

def test_earlier_settings_that_cannot_be_read_are_said(run, capsys):
    (run/'config.yaml').write_text('lr: [')
    assert 'the earlier settings cannot be read' in resumed(run, capsys)


# ---- two at once

CHILD = '''
import sys
from test_safe_runs import small, trained
try: trained(small(sys.argv[1], steps=2, resume='auto', rollouts_mb=1))
except Exception as e: print(type(e).__name__, e)
else: print('done')
'''

def test_ten_at_once_one_goes_on_and_nine_say_why_not(tmp_path):
    env = dict(os.environ, PYTHONPATH=os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parent.parent)]))
    from hir.training.folder import claimed
    with claimed(tmp_path/'run'):
        children = [subprocess.Popen([sys.executable, '-c', CHILD, str(tmp_path/'run')], env=env, stdout=subprocess.PIPE, text=True)
                    for _ in range(2)]
        said = [c.communicate(timeout=200)[0] for c in children]
    assert all('another run is at work here' in s for s in said), said
    trained(small(tmp_path/'run', resume='auto'))
    assert [r['step'] for r in read_log(tmp_path/'run'/'history.jsonl')] == [1, 2]

def test_the_lock_of_a_dead_run_holds_nobody(tmp_path):
    code = f'import os; from hir.training.folder import claimed\nwith claimed({str(tmp_path/"run")!r}): os.kill(os.getpid(), 9)'
    subprocess.run([sys.executable, '-c', code])
    assert (tmp_path/'run'/'.hir-lock').exists() and trained(small(tmp_path/'run', resume='auto'))['step'] == 2


# ---- numbers

@kind('strange:raises', 'Raise.')
def raises(response:str)->bool: raise ZeroDivisionError('of a check')

def test_a_check_that_raises_is_named_and_loses_no_step(tmp_path):
    bad = [replace(q, constraints=(*q.constraints, Constraint('strange:raises'))) for q in TRAIN]
    cfg = small(tmp_path, steps=4, save_every=0)
    def broken(metrics, rows): train[:] = bad if metrics['step'] == 2 else train
    train = list(TRAIN)
    with pytest.raises(CheckError, match='strange:raises.*of a check'): trained(cfg, train, on_step=broken)
    assert [p.name for p in checkpoints(tmp_path)] == ['checkpoint-000002']
    assert trained(replace(cfg, resume='auto'))['step'] == 4
    whole = tmp_path/'whole'; trained(replace(cfg, out=str(whole)))
    same = [load_policy(p/'policy')[0].state_dict() for p in (tmp_path, whole)]
    assert all(torch.equal(same[0][k], same[1][k]) for k in same[0])

def nan_reward(verdict): return float('nan')

@pytest.mark.parametrize('reward', ['nan', 'inf'])
def test_a_reward_that_is_no_finite_number_is_refused_where_it_arises(tmp_path, reward, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], 'nan_reward', lambda verdict: float(reward))
    with pytest.raises(RewardError, match=f'the reward of toy:.* is {reward}, no finite number'):
        trained(small(tmp_path, reward=f'{__name__}:nan_reward'))

def test_a_torn_line_costs_only_itself(run):
    log = run/'history.jsonl'; first, second = log.read_text().splitlines(True)
    log.write_text(first[:9] + '\n' + second)
    trained(small(run, steps=3, resume='auto'))
    assert [r['step'] for r in read_log(log)] == [2, 3]


# ---- a disk that gives up

@pytest.mark.parametrize('error', [(28, 'No space left on device'), (30, 'Read-only file system')])
def test_a_disk_that_gives_up_amid_a_run_costs_no_checkpoint(run, error, monkeypatch):
    before = sums(run/'checkpoint-000002')
    def gives_up(*a, **k): raise OSError(*error, str(run/'history.jsonl'))
    monkeypatch.setattr('hir.training.trainer.append', gives_up); monkeypatch.setattr('hir.training.checkpoint.save_policy', gives_up)
    with pytest.raises(OSError, match=error[1]): trained(small(run, steps=4, resume='auto'))
    assert sums(run/'checkpoint-000002') == before and not [p for p in run.iterdir() if p.name.endswith('.tmp')]
    monkeypatch.undo()
    assert trained(small(run, steps=4, resume='auto'))['step'] == 4


# ---- killed

@pytest.mark.slow
def test_a_process_may_be_killed_at_any_moment():
    done = subprocess.run([sys.executable, str(Path(__file__).parent/'kills.py'), '24'], capture_output=True, text=True,
                          env=dict(os.environ, OMP_NUM_THREADS='1'))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count('nothing lost, nothing of the user touched') == 2


def test_an_index_names_no_attribute_of_a_module():
    def word(x): return b'\x8c' + bytes([len(x)]) + x.encode()             # as protocol 4 writes it
    reached = b'\x80\x04' + word('torch.distributed.checkpoint.metadata') + word('os.system') + b'\x93.'
    with pytest.raises(pickle.UnpicklingError, match='os.system has no place'): _Index(io.BytesIO(reached)).load()


@pytest.mark.parametrize('module, kind, name, fair', [('torch.distributed.checkpoint.metadata', '_MEM_FORMAT_ENCODING', 'TORCH_PRESERVE_FORMAT', True),
    ('torch.distributed.checkpoint.metadata', '_MEM_FORMAT_ENCODING', '__init__', False), ('torch.distributed.checkpoint.metadata', 'os', 'system', False),
    ('torch', 'Size', 'numel', False), ('collections', 'OrderedDict', 'fromkeys', False)])
def test_an_index_takes_members_of_enumerations_by_getattr_and_nothing_else(module, kind, name, fair):
    "Python 3.11.0 to 3.11.3 writes them so."
    def word(x): return b'\x8c' + bytes([len(x)]) + x.encode()
    written = b'\x80\x04' + word('builtins') + word('getattr') + b'\x93' + word(module) + word(kind) + b'\x93' + word(name) + b'\x86R.'
    if fair: assert _Index(io.BytesIO(written)).load().name == name
    else:
        with pytest.raises(pickle.UnpicklingError, match='getattr of'): _Index(io.BytesIO(written)).load()
