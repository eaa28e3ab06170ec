"""Rollout logs that TRL 1.16.0 and verl 0.9.1 wrote, opened by what opens a run of ours.

`data/logs/trl` is a run of two steps on the toy, whose reward logs its instructions; `trl_bare` the same without. The tests marked
slow make them anew. `data/logs/verl` was written by verl's trainer in tests/adapters/test_verl_adapter.py, the same
responses as two steps."""
import json
import subprocess
import sys
from pathlib import Path

import pytest

from hir.adapters.logs import read_rollouts, recorded_of, save_run
from hir.cli import main
from hir.constraints.verifier import cla, verify
from hir.evaluation.plot import plot_history, show_rollout
from hir.evaluation.view import recorded_batch, show_explorer
from hir.files import DataError, records, shipped
from hir.instructions.instruction import load_instructions
from hir.training.runlog import read_log

HERE = Path(__file__).parents[1]/'data'/'logs'
TOY = load_instructions(shipped('toy/train.jsonl'))[:6]
LOGS = {'trl': [], 'trl_bare': TOY, 'verl': [], 'verl with instructions': TOY}    # what must be given beside


def opened(name): return dict(read_rollouts(HERE/name.split()[0], LOGS[name]))


def texts(name):
    "(prompt, response, reward) of every row, as the package wrote them."
    tables = sorted((HERE/name.split()[0]).iterdir())
    for _, r in (pair for t in tables for pair in records(t)):
        yield (r['input'], r['output'], r['score']) if 'output' in r else (r['prompt'][0]['content'], r['completion'][0]['content'], r['partial'])


# ---- read

@pytest.mark.parametrize('name', LOGS)
def test_every_row_is_there_and_verified_anew(name):
    rows = [row for rows in opened(name).values() for row in rows]
    assert sorted((row.rollout.instruction.prompt, row.rollout.response, row.reward) for row in rows) == sorted(texts(name))
    for row in rows:
        assert row.rollout.verdict == verify(row.rollout.instruction.constraints, row.rollout.response, reading='meant')
        assert row.reward == pytest.approx(cla(row.rollout.verdict))      # both runs were rewarded so
    assert len({cla(row.rollout.verdict) for row in rows}) > 2


def test_the_same_run_is_read_the_same_with_and_without_what_it_says():
    assert [[row.rollout for row in rows] for rows in opened('trl').values()] == [
        [row.rollout for row in rows] for rows in opened('trl_bare').values()]


def test_what_was_asked_must_be_said():
    with pytest.raises(DataError, match=r'completions_00001.parquet: row 0: does not say what was asked.*instructions'):
        dict(read_rollouts(HERE/'trl_bare'))
    with pytest.raises(DataError, match='row 0: none of the 1 instructions given has its prompt'):
        dict(read_rollouts(HERE/'trl_bare', load_instructions(shipped('toy/heldout.jsonl'))[-1:]))


@pytest.mark.parametrize('field', ['input', 'output', 'gts', 'score', 'step'])
def test_a_missing_column_is_named(tmp_path, field):
    lines = (HERE/'verl'/'1.jsonl').read_text(encoding='utf-8').splitlines()
    third = json.loads(lines[2]); del third[field]
    (tmp_path/'1.jsonl').write_text('\n'.join([*lines[:2], json.dumps(third)]) + '\n', encoding='utf-8')
    with pytest.raises(DataError, match=rf"1.jsonl:3: .*'{field}'"): dict(read_rollouts(tmp_path))


def test_two_runs_in_one_folder_are_not_mixed(tmp_path):
    for f in (*(HERE/'trl').iterdir(), *(HERE/'verl').iterdir()): (tmp_path/f.name).write_bytes(f.read_bytes())
    with pytest.raises(DataError, match='more than one run'): dict(read_rollouts(tmp_path))


def test_the_folder_of_the_run_will_do(tmp_path):
    (tmp_path/'completions').mkdir()
    for f in (HERE/'trl').iterdir(): (tmp_path/'completions'/f.name).write_bytes(f.read_bytes())
    assert list(dict(read_rollouts(tmp_path))) == [1, 2]


# ---- opened

@pytest.mark.parametrize('name', LOGS)
def test_hir_verify_the_plots_and_the_monitor_open_it(name, tmp_path, capsys):
    from hir.evaluation.widgets import run_monitor
    steps, out = opened(name), tmp_path/'run'
    save_run(steps.items(), out)
    main(['verify', str(out/'rollouts.jsonl'), '--out', str(tmp_path/'scored.jsonl'), '--reading', 'meant'])
    rows = [row for rows in steps.values() for row in rows]
    assert [r['strict'] for r in read_log(tmp_path/'scored.jsonl')] == [list(row.rollout.verdict) for row in rows]
    history = read_log(out/'history.jsonl')
    assert [h['step'] for h in history] == [1, 2] and sum(h['sampled'] for h in history) == len(rows)
    plot_history(history, ['ila', 'cla', 'zero_signal'])
    monitor = run_monitor(out)
    assert 'step 2: ILA' in monitor.card.text and '**Answered:**' in monitor.card.text
    assert not {'entropy', 'length', 'truncated'} & set(history[0])       # what the log cannot tell
    show_rollout(rows[0])


@pytest.mark.parametrize('name', LOGS)
def test_the_explorer_opens_it(name):
    from hir.evaluation.widgets import replay_explorer
    tokenizer = recorded_batch()[1]
    batch = recorded_of(opened(name)[2], tokenizer)
    explorer = replay_explorer(batch, tokenizer)
    assert 'replayed' in explorer.card.text and explorer.controls['select'].value.__name__ == 'integrity'
    shown = [show_explorer(batch, tokenizer, response=i).text for i in range(len(batch.rollouts))]
    assert any('no log-probabilities were recorded' in text and '[-' in text for text in shown)    # a replay, its prompt rewritten


# ---- made

TRAIN = '''
import json, sys
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer
from hir.constraints.verifier import cla, verify
from hir.files import shipped
from hir.instructions.instruction import as_instruction, load_instructions, record_of
from hir.policies.policy import load_policy
said = sys.argv[1] == 'said'
def partial(prompts, completions, instruction, log_extra=None, **other):
    if said: log_extra('instruction', list(instruction))
    asked = [as_instruction(json.loads(q), 'row').constraints for q in instruction]
    return [cla(verify(cs, c[-1]['content'], reading='meant')) for cs, c in zip(asked, completions)]
rows = [{'prompt': q.messages, 'instruction': json.dumps(record_of(q))} for q in load_instructions(shipped('toy/train.jsonl'))[:4]]
model, tokenizer = load_policy(shipped('toy/start'))
args = GRPOConfig(output_dir=sys.argv[2], use_cpu=True, bf16=False, max_steps=2, per_device_train_batch_size=8, num_generations=4,
                  max_completion_length=24, log_completions=True, logging_steps=1, save_strategy='no', report_to='none',
                  disable_tqdm=True, seed=7)
GRPOTrainer(model, partial, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer).train()
'''

@pytest.mark.slow
@pytest.mark.parametrize('said, name', [('said', 'trl'), ('bare', 'trl_bare')])
def test_trl_writes_such_a_log(tmp_path, said, name):
    pytest.importorskip('trl', reason='needs TRL: pip install -r tests/adapters/trl.txt')
    subprocess.run([sys.executable, '-c', TRAIN, said, str(tmp_path)], check=True, capture_output=True)
    steps = dict(read_rollouts(tmp_path, LOGS[name]))
    assert {s: len(rows) for s, rows in steps.items()} == {s: len(rows) for s, rows in opened(name).items()} == {1: 8, 2: 8}
    columns = lambda folder: [list(r) for _, r in records(folder/'completions_00002.parquet')][0]
    assert columns(tmp_path/'completions') == columns(HERE/name)
