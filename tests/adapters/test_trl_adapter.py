"""`hir.adapters.trl` within TRL, on the toy: the reward and its columns; the replays, equal to a step of `hir`.

    ADAPTERS=trl make test-adapters
    pytest -q tests/adapters/test_trl_adapter.py
"""
import json
import os
import pickle
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip('trl', reason='TRL is not installed: pip install -r tests/adapters/trl.txt')
os.environ['TRL_EXPERIMENTAL_SILENCE'] = '1'                                # `rollout_func`, by which both draw the same

import pandas
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from datasets import Dataset
from torch.optim.lr_scheduler import LambdaLR
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from hir.adapters.trl import Replaying, completion_text, constraint_columns, trl_dataset, trl_reward
from hir.constraints.verifier import cla, ila, verify
from hir.files import DataError, shipped
from hir.instructions.instruction import Message, load_instructions, record_of
from hir.methods.hir import hir
from hir.policies.engines.hf import HFEngine
from hir.policies.policy import Policy, load_policy
from hir.replays.select import lam
from hir.training.method import Parts, Rules, Sizes
from hir.training.step import step

ROOT = Path(__file__).resolve().parent.parent.parent
B, M, K, SEED = 4, 6, 2, 7
TRAIN = load_instructions(shipped('toy/train.jsonl'))[:4*B]


def config(out, kind=GRPOConfig, **more):
    given = dict(output_dir=str(out), use_cpu=True, bf16=False, max_steps=1, per_device_train_batch_size=B*M, num_generations=M,
                 max_completion_length=32, shuffle_dataset=False, learning_rate=1e-3, max_grad_norm=1e9, seed=SEED, epsilon=.2,
                 logging_steps=1, save_strategy='no', report_to='none', disable_tqdm=True, dataloader_pin_memory=False)
    return kind(**given | more)


# ---- one step of both

class Recorder(torch.optim.SGD):
    "Plain descent that keeps the gradient it was given."
    def step(self, closure=None):
        self.seen = [p.grad.clone() for group in self.param_groups for p in group['params']]
        return super().step()


def our_step(train=TRAIN[:B], reward=ila, **replay):
    "Our step: its rows, its batch, its loss and its gradient."
    AcceleratorState._reset_state(reset_partial_state=True)
    model, tokenizer = load_policy(shipped('toy/start'))
    optimizer, found = Recorder(model.parameters(), lr=1e-3), {}
    parts = Parts(Accelerator(cpu=True), Policy(model), optimizer, tokenizer, HFEngine(model, tokenizer, max_new_tokens=32))
    metrics, rows = step(hir(kl_coef=0., **replay), parts, train, seed=SEED, rules=Rules(reward=reward),
                         sizes=Sizes(m=M, minibatches=1, micro=1000, max_grad_norm=1e9),
                         seen=lambda rows, batch: found.update(batch=batch))
    return rows, found['batch'], metrics['loss'], optimizer.seen


class Watched(Replaying, GRPOTrainer):
    "Keeps what it learns from, and its losses."
    def _generate_and_score_completions(self, inputs):
        self.learned = super()._generate_and_score_completions(inputs)
        return self.learned
    def _compute_loss(self, model, inputs):
        loss = super()._compute_loss(model, inputs)
        self.losses = [*getattr(self, 'losses', []), loss.item()]
        return loss


def their_step(out, rows, replay, train=TRAIN[:B], reward=ila, **more):
    "TRL's step on the same instructions and responses; the trainer and its gradient."
    AcceleratorState._reset_state(reset_partial_state=True)
    model, tokenizer = load_policy(shipped('toy/start'))
    optimizer, drawn = Recorder(model.parameters(), lr=1e-3), [row for row in rows if not row.replay]
    def said(prompts, trainer):
        first = trainer.accelerator.process_index*len(prompts)
        mine = drawn[first:first + len(prompts)]
        return dict(prompt_ids=[list(row.prompt_ids) for row in mine], completion_ids=[list(row.ids) for row in mine],
                    logprobs=[list(row.old) for row in mine])
    trainer = Watched(model, trl_reward(reward), args=config(out, delta=3., **more), train_dataset=trl_dataset(train),
                      replay=replay, processing_class=tokenizer, rollout_func=said,
                      optimizers=(optimizer, LambdaLR(optimizer, lambda _: 1.)))
    trainer.train()
    return trainer, optimizer.seen


def same(theirs, ours):
    "Equal to float32 precision, measured by the largest gradient."
    largest = max(g.abs().max().item() for g in ours)
    for a, b in zip(theirs, ours, strict=True): torch.testing.assert_close(a, b, rtol=0, atol=1e-5*largest)


def learned_row(x, i):
    "Prompt, response, advantages and old log-probabilities of a row that TRL learns from."
    p, c = x['prompt_mask'][i].bool(), x['completion_mask'][i].bool()
    return x['prompt_ids'][i][p].tolist(), x['completion_ids'][i][c].tolist(), x['advantages'][i][c], x['old_per_token_logps'][i][c]


REPLAYS = [dict(k=K), dict(k=K, denominator='rescore'), dict(k=K, advantage='grpo', quota='instruction'),
           dict(k=K, select='random', relabel='subset')]
REWARDED = [(dict(k=0), cla), (dict(k=K), cla), *((replay, ila) for replay in REPLAYS)]

@pytest.mark.parametrize('replay, reward', REWARDED, ids=lambda x: getattr(x, '__name__', None) or '-'.join(map(str, x.values())))
def test_a_step_with_replays_is_ours(tmp_path, replay, reward):
    "The same rows, advantages and old log-probabilities; the same loss and gradient."
    rows, batch, loss, gradient = our_step(reward=reward, **replay)
    assert len(rows) == B*(M + replay['k']) and sum(row.replay for row in rows) == B*replay['k']       # none to fill up
    trainer, theirs = their_step(tmp_path, rows, replay, reward=reward)
    x = trainer.learned
    assert len(x['prompt_ids']) == len(rows) and x['num_items_in_batch'] == batch.mask.sum()
    for i, row in enumerate(rows):
        prompt, ids, adv, old = learned_row(x, i)
        assert (prompt, ids) == (list(row.prompt_ids), list(row.ids))
        torch.testing.assert_close(adv, batch.extras['adv'].x[i][:len(ids)], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(old, batch.extras['old'].x[i][:len(ids)], rtol=1e-5, atol=1e-5)
    assert trainer.losses == [pytest.approx(loss, abs=1e-6)]
    same(theirs, gradient)


def test_a_step_over_conversations_is_ours(tmp_path):
    "A constraint that stands in a system prompt leaves it in the replay."
    train = [replace(q, earlier=[Message('system', 'you are small .')],
                     constraints=[replace(q.constraints[0], turn=0), *q.constraints[1:]]) for q in TRAIN[:B]]
    rows, _, loss, gradient = our_step(train, k=K)
    trainer, theirs = their_step(tmp_path, rows, dict(k=K), train)
    assert [learned_row(trainer.learned, i)[0] for i in range(len(rows))] == [list(row.prompt_ids) for row in rows]
    assert trainer.losses == [pytest.approx(loss, abs=1e-6)]
    same(theirs, gradient)


def test_parts_of_an_accumulated_step_add_up(tmp_path):
    "24 originals and 8 replays in three parts: a silent row makes them equal, and changes nothing."
    rows, _, loss, gradient = our_step(k=K)
    trainer, theirs = their_step(tmp_path, rows, dict(k=K), per_device_train_batch_size=8, gradient_accumulation_steps=3)
    assert trainer.learned['completion_mask'].sum(1).eq(0).tolist() == [False]*32 + [True]
    assert len(trainer.losses) == 3 and sum(trainer.losses) == pytest.approx(loss, abs=1e-6)
    same(theirs, gradient)


@pytest.mark.slow
def test_two_processes_take_the_step_of_one(tmp_path):
    rows, _, _, gradient = our_step(k=K)
    (tmp_path/'rows.pkl').write_bytes(pickle.dumps(rows))
    done = subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2', __file__,
                           str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = [torch.load(tmp_path/f'{rank}.pt') for rank in (0, 1)]
    assert [len(x['mask']) for x in found] == [max(len(x['mask']) for x in found)]*2
    assert sum((x['mask'].sum(1) > 0).sum() for x in found) == len(rows)
    for x in found: same(x['gradient'], gradient)


def share_of_a_step(folder):
    "What a process of the test above does."
    rows = pickle.loads((folder/'rows.pkl').read_bytes())
    trainer, gradient = their_step(folder, rows, dict(k=K), per_device_train_batch_size=B*M//2)
    torch.save(dict(gradient=gradient, mask=trainer.learned['completion_mask']), folder/f'{trainer.accelerator.process_index}.pt')


# ---- runs

def trained(out, kind=GRPOTrainer, args=None, data=None, reward=None, **more):
    AcceleratorState._reset_state(reset_partial_state=True)
    model, tokenizer = load_policy(shipped('toy/start'))
    trainer = kind(model, reward or trl_reward(cla), args=args or config(out), processing_class=tokenizer,
                   train_dataset=trl_dataset(TRAIN) if data is None else data, **more)
    trainer.train()
    return trainer


def test_a_draw_may_be_learned_from_twice(tmp_path):
    "λ grows with the draws, not with the optimiser steps, and the ratio moves away from 1."
    args = config(tmp_path, max_steps=4, num_iterations=2)
    log = trained(tmp_path, Watched, args, replay=dict(k=K)).state.log_history
    assert [h['lambda'] for h in log if 'lambda' in h] == [pytest.approx(lam(s)) for s in (1, 2)]
    assert all(h['replays'] == B*K for h in log if 'replays' in h)


def test_responses_that_were_cut_off_are_masked_and_not_replayed(tmp_path):
    args = config(tmp_path, max_completion_length=12, mask_truncated_completions=True)
    x = trained(tmp_path, Watched, args, replay=dict(k=K)).learned
    cut = x['completion_mask'][:B*M].sum(1) == 0
    assert 0 < cut.sum() < B*M and (x['completion_mask'][B*M:].sum(1) > 0).all()


def test_without_candidates_there_are_no_replays(tmp_path):
    alone = [replace(q, constraints=q.constraints[:1]) for q in TRAIN[:B]]
    trainer = trained(tmp_path, Watched, replay=dict(k=K), data=trl_dataset(alone))
    assert trainer.state.log_history[0]['replays'] == 0 and len(trainer.learned['prompt_ids']) == B*M


def tables_of(trainer, folder):
    "The tables of completions; RLOO of TRL 1.16 writes no files, and shows the last."
    if isinstance(trainer, GRPOTrainer): return [pandas.read_parquet(f) for f in sorted((folder/'completions').iterdir())]
    log = trainer._logs
    return [pandas.DataFrame({name: log[name] for name in ('prompt', 'completion')} | log['rewards'] | log['extra'])]


@pytest.mark.parametrize('kind, settings, n', [(GRPOTrainer, GRPOConfig, 3), (RLOOTrainer, RLOOConfig, 1)])
def test_the_table_has_a_column_for_each_constraint(tmp_path, kind, settings, n):
    "After an evaluation too, whose batches are smaller; the verdicts are those of `verify`."
    columns = {name for q in TRAIN for name in constraint_columns(q.constraints)}
    args = config(tmp_path, settings, max_steps=2, log_completions=True, num_completions_to_print=0, eval_strategy='steps',
                  eval_steps=1, eval_on_start=True, per_device_eval_batch_size=M)
    trainer = trained(tmp_path, kind, args, reward=trl_reward(cla, columns=columns), eval_dataset=trl_dataset(TRAIN[:1]))
    asked, tables = {q.prompt: q for q in TRAIN}, tables_of(trainer, tmp_path)
    assert len(tables) == n and all(columns <= {*table} for table in tables)
    for _, row in pandas.concat(tables).iterrows():
        q = asked[row['prompt'][0]['content']]
        verdict = verify(q.constraints, completion_text(list(row['completion']), 'row'), reading='meant')
        assert [row[name] for name in constraint_columns(q.constraints)] == list(verdict)
        assert sum(row[name] is not None for name in columns) == len(q) and row['cla'] == pytest.approx(cla(verdict))
    assert {f'constraints/{name}' for name in columns} <= {name for line in trainer.state.log_history for name in line}


def test_rows_of_other_data_sets_are_read_or_left_alone(tmp_path):
    "IFEval's fields, padded by `datasets`, beside rows that another reward scores."
    ids, kwargs = ['punctuation:no_comma', 'startend:end_checker'], [{}, {'end_phrase': 'Ahoy!'}]
    rows = [{'prompt': [{'role': 'user', 'content': 'greet me .'}], 'instruction_id_list': ids, 'kwargs': kwargs, 'answer': None},
            {'prompt': [{'role': 'user', 'content': 'what is 3 + 4 ?'}], 'answer': '7'}]*2
    other = lambda completions, answer, **more: [a and 1. for a in answer]
    other.__name__ = 'other'
    trained(tmp_path, data=Dataset.from_list(rows), reward=[trl_reward(cla), other],
            args=config(tmp_path, log_completions=True, num_completions_to_print=0))
    table = pandas.read_parquet(next((tmp_path/'completions').iterdir()))
    ours = [i % (2*M) < M for i in range(B*M)]
    assert table['cla'].notna().tolist() == ours and table['punctuation:no_comma'].notna().tolist() == ours
    assert table['other'].notna().tolist() == [not o for o in ours]


def test_a_broken_record_stops_the_run_and_names_its_row(tmp_path):
    rows = [{'prompt': [{'role': 'user', 'content': 'greet me .'}], 'instruction_id_list': ['no:such'], 'kwargs': [{}]}]*B
    with pytest.raises(DataError, match=r"row 0 of the batch \(.*greet me .*'instruction_id_list\[0\]': unknown kind 'no:such'"):
        trained(tmp_path, data=Dataset.from_list(rows))


def test_a_prompt_that_is_not_its_instruction_is_refused(tmp_path):
    "A replay's prompt is rendered from the instruction, so it must be what the policy read."
    rows = [{'prompt': q.prompt, 'instruction': json.dumps(record_of(q))} for q in TRAIN]            # no chat
    with pytest.raises(DataError, match="row 0 of the batch .*TRL reads another prompt than column 'instruction' gives"):
        trained(tmp_path, Watched, data=Dataset.from_list(rows), replay=dict(k=K))


def test_rloo_has_no_place_for_replays(tmp_path):
    with pytest.raises(ValueError, match="loss_type None does not average over all tokens"):
        trained(tmp_path, type('Trainer', (Replaying, RLOOTrainer), {}), config(tmp_path, RLOOConfig))


@pytest.mark.parametrize('args, replay, says', [
    (dict(loss_type='grpo'), {}, "loss_type 'grpo' does not average over all tokens"), (dict(beta=.1), {}, 'beta must be 0'),
    ({}, dict(clip=.1), "setting 'clip' is TRL's here: epsilon"), ({}, dict(kl_coef=.1), "setting 'kl_coef' is TRL's here: beta")])
def test_another_loss_is_refused(tmp_path, args, replay, says):
    with pytest.raises(ValueError, match=says): trained(tmp_path, Watched, config(tmp_path, **args), replay=replay)


# ---- the guide

def blocks(language):
    "The blocks of that language in the guide."
    cells = json.loads((ROOT/'nbs/howto/use_trl.ipynb').read_text(encoding='utf-8'))['cells']
    return re.findall(rf'^```{language}\n(.*?)^```', '\n'.join(''.join(c['source']) for c in cells), re.M | re.S)


def test_the_lines_of_the_guide_run(tmp_path):
    "All Python blocks in order; what they print has the lines and words of the text blocks, whatever the numbers."
    done = subprocess.run([sys.executable, '-c', '\n'.join(blocks('python'))], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    def words(text): return re.sub(r'-?\d+\.?\d*|nan|None|True|False', '#', re.sub(r' +', ' ', text)).replace('- ', '')
    said = words(done.stdout)
    assert blocks('text') and all(words(text).strip() in said for text in blocks('text')), done.stdout[-3000:]


if __name__ == '__main__': share_of_a_step(Path(sys.argv[1]))
