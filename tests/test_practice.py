"What a practitioner runs into: mistaken settings, foreign folders, engines of one's own, runs that are cut off and changed."
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import hir
from changed import changed, dotted
from hir.cli import main
from hir.training.config import ConfigError, HirConfig, make_config, read_config
from hir.instructions.instruction import load_instructions
from hir.policies.policy import load_policy
from hir.recipes import dry_run
from hir.policies.engines.hf import HFEngine
from hir.training.runlog import read_log
from hir.training.context import StepError
from hir.files import shipped
from hir.training.trainer import TrainingError, fit

TRAIN = load_instructions(shipped('toy/train.jsonl'))[:4]
ALONE = [replace(q, constraints=q.constraints[:1]) for q in TRAIN]


def small(out, **changes):
    return make_config(dotted(model=str(shipped('toy/start')), out=str(out), batch=2, m=2, k=1, steps=2, max_new_tokens=8, kl_coef=0.,
                            cpu=True, cards_every=0, rollouts_mb=0, lr=1e-3) | dotted(**changes))


def trained(cfg, train=TRAIN, progress=False, **kw):
    model, tokenizer = load_policy(shipped('toy/start'))
    fit(cfg, model, tokenizer, train, progress=progress, **kw)
    return read_log(Path(cfg.out)/'history.jsonl')



# ---- going on

def test_a_new_rate_counts_from_the_resumed_step_on(tmp_path, capsys):
    trained(small(tmp_path, steps=2, schedule='linear', weight_decay=.5))
    first = read_config(tmp_path/'config.yaml', trust=True)
    cfg = small(tmp_path, steps=4, schedule='linear', lr=1e-4, weight_decay=0., resume='auto')
    seen = []
    import hir.training.trainer
    real = hir.training.trainer._train_step
    def watched(cfg, parts, *args):
        seen.append([(g['lr'], g['initial_lr'], g['weight_decay']) for g in parts.optimizer.param_groups])
        return real(cfg, parts, *args)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hir.training.trainer, '_train_step', watched)
        history = trained(cfg)
    assert seen[0] == [(1e-4*.5, 1e-4, 0.)] and [h['lr'] for h in history[2:]] == [1e-4*.5, 1e-4*.25]
    assert first.lr == 1e-3 and read_config(tmp_path/'config.yaml', trust=True).lr == 1e-4
    said = capsys.readouterr().out
    assert f'going on from {tmp_path}/checkpoint-000002; changed: ' in said
    assert 'steps 4 (was 2)' in said and 'lr 0.0001 (was 0.001)' in said and 'weight_decay 0.0 (was 0.5)' in said


def two_groups(parameters, lr, weight_decay):
    import torch
    first, *rest = parameters
    return torch.optim.SGD([dict(params=[first], lr=10*lr, weight_decay=0.), dict(params=rest)], lr=lr, weight_decay=weight_decay)


def test_groups_of_an_optimizer_keep_their_own_rates(tmp_path):
    sgd = dict(optimizer='test_practice:two_groups', weight_decay=.1)
    trained(small(tmp_path/'a', steps=1, **sgd))
    import hir.training.trainer
    seen, real = [], hir.training.trainer._train_step
    def watched(cfg, parts, *args):
        seen.extend((g['lr'], g['weight_decay']) for g in parts.optimizer.param_groups)
        return real(cfg, parts, *args)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hir.training.trainer, '_train_step', watched)
        trained(small(tmp_path/'a', steps=2, resume='auto', lr=1e-4, **sgd))
    assert seen == [(10*1e-4, 0.), (1e-4, .1)]


def test_fewer_steps_than_are_done_are_refused(tmp_path):
    trained(small(tmp_path))
    with pytest.raises(ConfigError, match="setting 'steps' cannot be 1: .*checkpoint-000002.*step 2"):
        trained(small(tmp_path, steps=1, resume='auto'))
    assert read_config(tmp_path/'config.yaml', trust=True).steps == 2
    assert len(trained(small(tmp_path, resume='auto'))) == 2                       # a finished run stays what it is


def test_a_resume_that_finds_nothing_says_what_it_discards(tmp_path, capsys):
    trained(small(tmp_path))
    shutil.rmtree(tmp_path/'checkpoint-000002')
    trained(small(tmp_path, resume='auto', steps=1))
    assert f'no whole checkpoint in {tmp_path}; starting at step 1; its 2 logged steps are discarded' in capsys.readouterr().out


@pytest.mark.parametrize('saves, says', [(1, 'checkpoint-000001; go on with --resume auto'), (0, 'no checkpoint yet')])
def test_ctrl_c_names_the_newest_checkpoint(tmp_path, capsys, saves, says):
    def stop(metrics, rows): raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): trained(small(tmp_path, save_every=saves), on_step=stop, progress=True)
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith('hir: interrupted after step 1 of 2; ') and says in line


def test_sigterm_is_told_on_a_line_of_its_own(tmp_path, capfd, monkeypatch):
    import os, signal
    monkeypatch.setattr('hir.progress.watched', lambda: True)                            # else there is no bar
    def ring(metrics, rows): os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(SystemExit): trained(small(tmp_path), on_step=ring, progress=True)
    out, err = capfd.readouterr()
    assert out.splitlines()[-1].startswith('hir: stopped by SIGTERM after step 1 of 2')
    assert err.rstrip('\n').endswith(']') and '\r' in err.rsplit('1/2', 1)[0][-200:]      # the bar was cleared, then drawn again


@pytest.mark.parametrize('resume, says', [('atuo', "did you mean 'auto'"), ('elsewhere', 'there are no, auto, fresh')])
def test_a_resume_that_cannot_be(tmp_path, resume, says):
    trained(small(tmp_path, steps=1))
    with pytest.raises(ConfigError, match=f"setting 'resume' cannot be '{resume}'.*{says}") as e:
        trained(small(tmp_path, resume=resume))
    assert f'{tmp_path}/checkpoint-000001' in str(e.value)
    with pytest.raises(ConfigError, match='checkpoint-000001'): trained(small(tmp_path, resume=str(tmp_path)))


@pytest.mark.parametrize('before, after', [({}, dict(lora_rank=2)), (dict(lora_rank=2), {}), (dict(lora_rank=2), dict(lora_rank=4))])
def test_a_checkpoint_of_another_shape_says_what_it_was(tmp_path, before, after):
    trained(small(tmp_path, steps=1, **before))
    was, now = (d.get('lora_rank', 0) for d in (before, after))
    with pytest.raises(ConfigError, match=f'does not fit: made with lora_rank {was}, not {now}'):
        trained(small(tmp_path, resume='auto', **after))
    assert len(read_log(tmp_path/'history.jsonl')) == 1


def test_another_model_on_a_run_says_which_it_was(tmp_path):
    from engines import tiny
    trained(cfg := small(tmp_path, steps=1))
    with pytest.raises(ConfigError, match=f"made with model {cfg.model}, not ./qwen; set this back"):
        fit(replace(cfg, model='./qwen', resume='auto'), *tiny(True), TRAIN, progress=False)


# ---- where a run may write

def test_a_policy_that_no_run_wrote_is_left_alone(tmp_path):
    (tmp_path/'policy').mkdir()
    (tmp_path/'policy'/'precious').write_text('mine')
    for resume in ('no', 'auto', 'fresh'):
        with pytest.raises(ConfigError, match="setting 'out'.*policy is not a run's"): trained(small(tmp_path, resume=resume))
    assert (tmp_path/'policy'/'precious').read_text() == 'mine' and len(list(tmp_path.iterdir())) == 1


def test_the_folder_of_a_model_is_no_folder_for_a_run(tmp_path):
    shutil.copytree(shipped('toy/start'), tmp_path/'model')
    with pytest.raises(ConfigError, match="setting 'out': .*model holds a model"): trained(small(tmp_path/'model', resume='fresh'))


def test_a_final_policy_alone_is_an_earlier_run(tmp_path):
    trained(small(tmp_path, steps=1))
    for p in tmp_path.iterdir():
        if p.name != 'policy': shutil.rmtree(p) if p.is_dir() else p.unlink()
    with pytest.raises(ConfigError, match=r'holds an earlier run \(policy\)'): trained(small(tmp_path))


@pytest.mark.parametrize('below', ['', 'x', 'x/y'])
def test_a_file_is_no_folder(tmp_path, capsys, below):
    (tmp_path/'file').write_text('')
    words = ['--model', './nowhere', '--train', str(shipped('toy/train.jsonl')), '--out', str(tmp_path/'file'/below)]
    assert main(['train', *words]) == 2                                              # before the model is looked for
    assert f"setting 'out': {tmp_path}/file is a file; name a folder" in capsys.readouterr().err


# ---- engines and rules of one's own

class Lost(HFEngine):
    def generate(self, *args, **kw): return super().generate(*args, **kw)[:-1]

class Bare(HFEngine):
    def generate(self, *args, **kw): return [replace(r, logps=()) for r in super().generate(*args, **kw)]

class Silent(HFEngine):
    def generate(self, *args, **kw): return [replace(r, ids=(), logps=(), entropies=()) for r in super().generate(*args, **kw)]

class Mixed(HFEngine):
    def generate(self, *args, **kw): return [replace(r, group=0) for r in super().generate(*args, **kw)]

class Open:
    def __init__(self, model, tokenizer, **kw): pass
    def generate(self, *args): return []
    def sync(self, model): pass


@pytest.mark.parametrize('engine, says', [('Lost', '3 rollouts.* 2 instructions and m = 2'), ('Bare', 'logps'), ('Silent', 'ids'),
                                          ('Mixed', 'group')])
def test_an_engine_that_breaks_the_contract_is_told(tmp_path, engine, says):
    with pytest.raises(StepError, match=f'{says}.*setting engine'): trained(small(tmp_path, engine=f'test_practice:{engine}'))


def test_an_engine_without_close_is_told_before_the_first_step(tmp_path):
    with pytest.raises(ConfigError, match="setting 'engine': .*Open has no close"):
        trained(small(tmp_path, engine='test_practice:Open'))


def test_rules_of_ones_own_that_answer_otherwise_are_named(tmp_path, monkeypatch, capsys):
    "One score too few, a reward that is no number: an error in a line, not a traceback."
    (tmp_path/'ownrules.py').write_text('def few(rollouts, lam, rng): return [1.]*(len(rollouts) - 1)\ndef word(verdict): return "good"\n')
    monkeypatch.syspath_prepend(tmp_path)
    for words, says in ((['--method.select', 'ownrules:few'], 'scores for'), (['--reward', 'ownrules:word'], "must be a number for every response, not 'good'")):
        base = ['train', '--config', 'toy', '--steps', '1', '--batch', '2', '--max_new_tokens', '16', '--heldout', '', '--out', str(tmp_path/says[:4])]
        assert main([*base, *words]) == 2
        err = capsys.readouterr().err; assert says in err and 'Traceback' not in err


# ---- trackers

def test_a_tracker_that_is_not_installed(tmp_path):
    "In an interpreter where nothing has made an accelerator yet, for training and for the dry run."
    (tmp_path/'try.py').write_text(f'''
import sys, importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name.startswith(('tensorboard', 'tensorboardX', 'wandb')) else real(name, *a)
from hir.cli import main
words = ['train', '--config', {str(Path(hir.__file__).parent/'configs'/'toy.yaml')!r}, '--out', {str(tmp_path/'run')!r}]
print([main([*words, *more]) for more in (['--trackers', 'tensorboard'], ['--trackers', 'wandb', '--dry-run'], ['--trackers', 'wanbd'])])
''')
    done = subprocess.run([sys.executable, str(tmp_path/'try.py')], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip().endswith('[2, 2, 2]'), done.stdout + done.stderr[-2000:]
    for name in ('tensorboard', 'wandb'): assert f"setting 'trackers': {name} is not installed; pip install {name}" in done.stderr
    assert "setting 'trackers' cannot be 'wanbd'; did you mean 'wandb'?" in done.stderr


# ---- warnings

def test_instructions_with_one_constraint_cannot_be_replayed(tmp_path, capsys):
    trained(small(tmp_path/'some', steps=0), TRAIN[:2] + ALONE[2:])
    assert 'WARNING: 2 of 4 instructions have one constraint; they cannot be replayed' in capsys.readouterr().out
    cfg = small(tmp_path/'all', steps=0)
    with pytest.raises(TrainingError, match='every instruction has one constraint.* method.k 0'): trained(cfg, ALONE)
    with pytest.raises(TrainingError, match='every instruction has one constraint'): dry_run(cfg, ALONE)
    for changes in (dict(k=0), dict(pool='any')):
        trained(changed(cfg, out=str(tmp_path/str(changes)), **changes), ALONE)
        assert 'constraint' not in capsys.readouterr().out


def test_what_is_too_long_or_too_many_is_warned_of(tmp_path, capsys):
    cfg = small(tmp_path, steps=0, batch=5, max_new_tokens=510)
    trained(cfg)
    for said in (capsys.readouterr().out, dry_run(cfg, TRAIN)):
        assert 'max_new_tokens 510' in said and 'the 512 positions of the model' in said
        assert 'WARNING: batch 5 is more than the 4 instructions' in said
    assert 'WARNING' not in dry_run(small(tmp_path/'b'), TRAIN, device=10**15)


def test_the_dry_runs_bounds_hold_when_slots_are_filled(tmp_path):
    said = dry_run(small(tmp_path, m=2, k=1, steps=3), TRAIN)
    assert f'at most {2*3*8} tokens sampled' in said and '12 responses (18 at most' in said
    assert '12 responses,' in dry_run(small(tmp_path, m=2, k=0, steps=3), TRAIN)
