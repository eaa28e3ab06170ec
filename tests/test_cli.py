"Settings that the command line hands on: how the model attends."
import signal
import subprocess
import sys
import time

import pytest
import torch

from engines import gap, questions, trainers
from hir.cli import main
from hir.policies.policy import load_policy
from hir.policies.engines.hf import HFEngine
from hir.training.runlog import read_log
from hir.files import shipped

WORDS = dict(model=shipped('toy/start'), train=shipped('toy/train.jsonl'), steps=1, batch=4, m=3, **{'method.k': 1}, max_new_tokens=16, cpu='true',
             eval_every=0, save_every=0, lr=1e-4)


def hir_train(*flags, **words): return main(['train', *flags, *(f'--{k}={v}' for k, v in (WORDS | words).items())])


def test_every_attention_gives_the_same_log_probabilities():
    found = []
    for attention in ('sdpa', 'eager'):
        model, tokenizer = load_policy(shipped('toy/start'), attn_implementation=attention)
        assert model.config._attn_implementation == attention
        rollouts = HFEngine(model, tokenizer, 24).generate(questions(), 3, 0)
        assert gap(model, rollouts) < 1e-5
        found.append(rollouts)
    assert [r.ids for r in found[0]] == [r.ids for r in found[1]]
    for (a, _), (b, _) in zip(*(trainers(model, rollouts) for rollouts in found)): assert torch.allclose(a, b, atol=1e-5)
    for a, b in zip(*found): assert torch.allclose(torch.tensor(a.logps), torch.tensor(b.logps), atol=1e-5)


def test_a_run_attends_as_it_is_told(tmp_path, monkeypatch):
    "From the setting to the same numbers and weights, to 1e-5, in either way."
    import hir.training.trainer
    seen, fit, weights, said = [], hir.training.trainer.fit, {}, {}
    monkeypatch.setattr(hir.training.trainer, 'fit', lambda cfg, model, *rest: seen.append(model.config._attn_implementation) or fit(cfg, model, *rest))
    for attention in ('sdpa', 'eager'):
        assert hir_train(attention=attention, out=tmp_path/attention) == 0
        weights[attention] = torch.cat([p.detach().flatten() for p in load_policy(tmp_path/attention/'policy')[0].parameters()])
        said[attention], = read_log(tmp_path/attention/'history.jsonl')
    assert seen == ['sdpa', 'eager']
    for name in ('loss', 'grad_norm', 'entropy', 'cla'): assert said['sdpa'][name] == pytest.approx(said['eager'][name], abs=1e-5), name
    assert (weights['sdpa'] - weights['eager']).abs().max() < 1e-5


@pytest.mark.parametrize('flags', [(), ('--dry-run',)], ids=['run', 'dry run'])
@pytest.mark.parametrize('attention, says', [('sdap', 'is not supported'), ('flash_attention_2', "doesn't seem to be installed")])
def test_an_attention_that_cannot_be_had_is_told(attention, says, flags, tmp_path, capsys):
    if attention.startswith('flash'):
        from transformers.utils import is_flash_attn_2_available
        if is_flash_attn_2_available(): pytest.skip('flash attention is installed here')
    assert hir_train(*flags, attention=attention, out=tmp_path/'run') == 2
    said = capsys.readouterr().err
    assert said.startswith(f"hir: error: setting 'attention' cannot be '{attention}' here: ") and says in said, said
    assert not (tmp_path/'run').exists()


# ---- what one types instead

def told(capsys, *words, status=2):
    "What the command says of itself, on one line."
    try: found = main([str(w) for w in words])
    except SystemExit as e: found = e.code
    out, err = capsys.readouterr()
    assert found == status, err or out
    return err if status else out


@pytest.mark.parametrize('words, says', [
    (('--dryrun',), "did you mean --dry-run?"), (('--steps', 3, '--dryrun'), 'did you mean --dry-run?'), (('--confg', 'a.yaml'), 'did you mean --config?'),
    (('--config', 'qwen3-4'), "did you mean 'qwen3-4b'?"), (('--config', 'none.yaml'), 'none.yaml: no such config file'),
    (('--zzzzz', 3), 'hir train --help')])
def test_words_of_train_that_are_nearly_right(words, says, capsys):
    assert says in told(capsys, 'train', *words)

def test_flags_of_train_in_either_spelling(capsys, tmp_path):
    for flag in ('--dry-run', '--dry_run'):
        words = [f'--{k}={v}' for k, v in WORDS.items()]
        assert 'data' in told(capsys, 'train', *words, flag, status=0)

def test_a_config_that_came_with_the_package_has_a_name(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert 'data' in told(capsys, 'train', '--config', 'toy', '--dry-run', status=0)
    (tmp_path/'toy').write_text('steps: many\n')                                           # a file of that name is meant first
    assert "toy: setting 'steps' must be int" in told(capsys, 'train', '--config', 'toy', '--dry-run')

def test_data_that_are_not_there_yet_are_had_as_the_config_says(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = told(capsys, 'train', '--config', 'qwen3-4b', '--dry-run')
    assert 'HIR_trainv1.jsonl: no such file' in said and 'hf download sastpg/HIR-16K HIR_trainv1.jsonl' in said
    assert 'hf download' not in told(capsys, 'train', '--config', 'qwen3-4b', '--train', 'mine.jsonl', '--dry-run')

def test_debug_may_stand_behind_the_command(tmp_path):
    for words in (['train', '--steps', 'many', '--debug'], ['--debug', 'train', '--steps', 'many'], ['kinds', 'no:such_kind', '--debug']):
        with pytest.raises(ValueError): main(words)

def test_numbers_out_of_range_are_told_in_words(capsys):
    for words, says in ((('eval', '--model', 'x', '--samples', 0), "must be at least 1, not '0'"), (('demo', '--seeds', 'two'), "must be at least 1, not 'two'"),
                        (('eval', '--model', 'x', '--temperature', -1), "must be at least 0, not '-1'")):
        assert says in told(capsys, *words)

def test_help_says_what_a_line_of_data_holds(capsys):
    out = told(capsys, 'train', '--help', status=0)
    assert '"constraints": [{"kind"' in out and 'own_data' in out


# ---- eval

IFEVAL = '{"key": 1, "prompt": "Use no commas.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}\n'

def test_a_benchmarks_file_needs_its_suite(capsys, tmp_path):
    (tmp_path/'ifeval.jsonl').write_text(IFEVAL); (tmp_path/'bad.jsonl').write_text('{"task": "a", "constrains": []}\n')
    assert '--suite ifeval' in told(capsys, 'eval', '--model', 'x', '--data', tmp_path/'ifeval.jsonl')
    assert '--suite' not in told(capsys, 'eval', '--model', 'x', '--data', tmp_path/'bad.jsonl')
    for text in ('', '{"task": ', '[1]'):
        (tmp_path/'bad.jsonl').write_text(text)
        said = told(capsys, 'eval', '--model', 'x', '--data', tmp_path/'bad.jsonl')
        assert said.startswith(f'hir: error: {tmp_path/"bad.jsonl"}') and '--suite' not in said

def test_responses_are_kept_only_of_a_suite(capsys, tmp_path):
    words = 'eval', '--model', 'shipped:toy/start', '--data', 'shipped:toy/heldout.jsonl', '--responses', tmp_path/'said'
    assert '--responses' in (said := told(capsys, *words)) and '--suite' in said
    assert '--responses' in told(capsys, 'eval', '--scored', tmp_path/'a.jsonl', '--responses', tmp_path/'said')


def test_a_mistyped_model_is_named_with_its_setting(capsys, tmp_path, monkeypatch):
    "Also the second of two, before the first is evaluated; and one that looks like a name on the hub."
    (tmp_path/'data'/'toy').mkdir(parents=True); monkeypatch.chdir(tmp_path)
    data = '--data', 'shipped:toy/heldout.jsonl'
    monkeypatch.setattr('hir.evaluation.evaluate.evaluate', lambda *a, **k: pytest.fail('evaluated the first'))
    for words, named in (((*data, '--model', 'shipped:toy/start', 'data/toyy'), '--model'), ((*data, '--suite', 'own', '--model', 'data/toyy'), '--model')):
        assert f"hir: error: {named}: data/toyy: no such folder: data has no 'toyy'; did you mean 'toy'?" in told(capsys, 'eval', *words)
    for flags in ((), ('--dry-run',)):
        assert hir_train(*flags, model='data/toyy', out=tmp_path/'run') == 2
        assert capsys.readouterr().err.startswith("hir: error: setting 'model': data/toyy: no such folder: data has no 'toyy'; did you mean 'toy'?")
    assert not (tmp_path/'run').exists()


# ---- kinds

@pytest.mark.parametrize('asked, says', [('no_comma', "'punctuation:no_comma'"), ('IFEval', "did you mean 'ifeval'?"), ('ifeval:', "did you mean 'ifeval'?"),
                                         ('punctuation:no_coma', "did you mean 'punctuation:no_comma'?"), ('qqqq', 'see `hir kinds`')])
def test_kinds_that_are_nearly_right(asked, says, capsys):
    said = told(capsys, 'kinds', asked)
    assert says in said and said.find('punctuation:') <= max(said.find("'toy:"), said.find('punctuation:')), said

def test_a_kind_without_its_family_in_data(capsys, tmp_path):
    (tmp_path/'mine.jsonl').write_text('{"task": "a", "constraints": [{"kind": "no_comma"}]}\n')
    said = told(capsys, 'eval', '--model', 'x', '--data', tmp_path/'mine.jsonl')
    assert "did you mean 'punctuation:no_comma'" in said


def test_a_sweep_names_the_run_that_failed_and_does_the_others(tmp_path, capsys):
    plan = tmp_path/'plan.yaml'
    plan.write_text('config: toy\nout: runs\nall: {steps: 1, batch: 2, heldout: ""}\nruns:\n  lost: {train: lost.jsonl}\n  well: {}\n')
    said = told(capsys, 'sweep', plan)
    assert said.startswith("hir: error: run lost failed: ") and 'lost.jsonl: no such file' in said and 'lost.log' in said
    assert (tmp_path/'runs'/'well'/'policy').is_dir()
    assert main(['sweep', str(plan), '--show']) == 0
    table = capsys.readouterr().out
    assert 'lost' in table and '0/1' in table and '1/1' in table
    plan.write_text('runs: {a: {stepz: 1}}')
    assert "run a: no setting 'stepz'" in told(capsys, 'sweep', plan)


@pytest.mark.parametrize('number, status', [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=['SIGTERM', 'Ctrl-C'])
def test_a_sweep_that_is_stopped_lets_its_runs_save(number, status, tmp_path):
    (tmp_path/'plan.yaml').write_text('config: toy\nout: runs\nall: {steps: 4000, batch: 2, heldout: "", save_every: 0}\nruns: {a: {seed: 1}}\n')
    def plain(): signal.signal(number, signal.SIG_DFL)         # a shell's background jobs would not hear Ctrl-C
    sweep = subprocess.Popen([sys.executable, '-m', 'hir', 'sweep', str(tmp_path/'plan.yaml')], preexec_fn=plain, stderr=subprocess.PIPE)
    run = tmp_path/'runs'/'a'
    try:
        while not read_log(run/'history.jsonl'): assert sweep.poll() is None; time.sleep(.1)
        sweep.send_signal(number)
        assert sweep.wait(60) == status, sweep.stderr.read()
    finally: sweep.kill()
    done = len(read_log(run/'history.jsonl'))
    assert 0 < done < 4000 and (run/f'checkpoint-{done:06d}').is_dir() and len(read_log(run/'history.jsonl')) == done


def test_a_finished_run_whose_settings_have_changed_is_not_taken_for_the_plans(tmp_path, capsys):
    plan = tmp_path/'plan.yaml'
    def write(lr): plan.write_text(f'config: toy\nout: runs\nall: {{steps: 1, batch: 2, heldout: "", lr: {lr}}}\nruns: {{a: {{}}}}\n')
    write('1e-4'); assert main(['sweep', str(plan)]) == 0
    write('0.0001'); assert main(['sweep', str(plan)]) == 0                    # the same, said otherwise
    write('1e-2'); said = told(capsys, 'sweep', plan)
    assert 'run a is finished with lr 0.0001, and the plan says 0.01' in said and 'new name' in said
