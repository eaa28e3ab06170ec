"""`hir.adapters.trl` in TRL itself, on the toy: the reward and its columns, and the replays, equal to a step of `hir`.

    pip install -c constraints.txt -e . -r tests/adapters/trl.txt
    pytest -q tests/adapters/test_trl_adapter.py
"""
import pytest

pytest.importorskip('trl', reason='TRL is not installed: pip install -r tests/adapters/trl.txt')

import pandas
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from trl import GRPOConfig, GRPOTrainer

from hir.adapters.trl import Replaying, constraint_columns, trl_dataset, trl_reward
from hir.constraints.verifier import cla
from hir.files import shipped
from hir.instructions.instruction import load_instructions
from hir.methods.hir import hir
from hir.policies.engines.hf import HFEngine
from hir.policies.policy import Policy, load_policy
from hir.training.method import Parts, Rules, Sizes
from hir.training.step import step

B, M, K, SEED = 4, 6, 2, 7
TRAIN = load_instructions(shipped('toy/train.jsonl'))[:3*B]


def config(out, **more):
    given = dict(output_dir=str(out), use_cpu=True, bf16=False, max_steps=1, per_device_train_batch_size=B*M, num_generations=M,
                 max_completion_length=32, shuffle_dataset=False, learning_rate=1e-3, max_grad_norm=1e9, seed=SEED, epsilon=.2,
                 delta=3., logging_steps=1, save_strategy='no', report_to='none', disable_tqdm=True, dataloader_pin_memory=False)
    return GRPOConfig(**given | more)


# ---- one step of both

class Recorder(torch.optim.SGD):
    "Plain descent that keeps the gradient it was given."
    def step(self, closure=None):
        self.seen = [p.grad.clone() for g in self.param_groups for p in g['params']]
        return super().step()


def our_step(**replay):
    "Our step on the first B instructions: its rows, its batch, its loss and its gradient."
    AcceleratorState._reset_state(reset_partial_state=True)
    model, tokenizer = load_policy(shipped('toy/start'))
    optimizer, found = Recorder(model.parameters(), lr=1e-3), {}
    parts = Parts(Accelerator(cpu=True), Policy(model), optimizer, tokenizer, HFEngine(model, tokenizer, max_new_tokens=32))
    metrics, rows = step(hir(kl_coef=0., **replay), parts, TRAIN[:B], seed=SEED, rules=Rules(),
                         sizes=Sizes(m=M, minibatches=1, micro=1000, max_grad_norm=1e9),
                         seen=lambda rows, batch: found.update(batch=batch))
    return rows, found['batch'], metrics, optimizer.seen


class Watched(Replaying, GRPOTrainer):
    "Keeps what it learns from, and its losses."
    def _generate_and_score_completions(self, inputs):
        self.learned = super()._generate_and_score_completions(inputs)
        return self.learned
    def _compute_loss(self, model, inputs):
        self.losses = getattr(self, 'losses', []) + [super()._compute_loss(model, inputs)]
        return self.losses[-1]


def their_step(out, rows, replay, **more):
    "TRL's step on the same instructions and the same responses; the trainer and its gradient."
    AcceleratorState._reset_state(reset_partial_state=True)
    model, tokenizer = load_policy(shipped('toy/start'))
    optimizer = Recorder(model.parameters(), lr=1e-3)
    drawn = [row for row in rows if not row.replay]
    def said(prompts, trainer):
        return dict(prompt_ids=[list(row.prompt_ids) for row in drawn], completion_ids=[list(row.ids) for row in drawn],
                    logprobs=[list(row.old) for row in drawn])
    trainer = Watched(model, trl_reward(), args=config(out, **more), train_dataset=trl_dataset(TRAIN), replay=replay,
                      processing_class=tokenizer, rollout_func=said,
                      optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.)))
    trainer.train()
    return trainer, optimizer.seen


def close(a, b, tol=1e-6): torch.testing.assert_close(a, b, rtol=1e-4, atol=tol)


def without_padding(x, i): 
    "Prompt, response, advantages and old log-probabilities of a row that TRL learns from."
    p, c = x['prompt_mask'][i].bool(), x['completion_mask'][i].bool()
    return x['prompt_ids'][i][p].tolist(), x['completion_ids'][i][c].tolist(), x['advantages'][i][c], x['old_per_token_logps'][i][c]


@pytest.mark.parametrize('replay', [dict(k=K), dict(k=K, denominator='rescore'), dict(k=K, advantage='grpo', quota='instruction'),
                                    dict(k=K, select='random', relabel='subset')], ids=lambda r: '-'.join(map(str, r.values())))
def test_a_step_with_replays_is_ours(tmp_path, replay):
    "The same rows, advantages, old log-probabilities, loss, gradient and weights."
    rows, batch, metrics, gradient = our_step(**replay)
    assert sum(row.replay for row in rows) == B*K and len(rows) == B*(M + K)                # nothing was drawn to fill up
    trainer, theirs = their_step(tmp_path, rows, replay)
    x = trainer.learned
    assert len(x['prompt_ids']) == len(rows) and int(x['num_items_in_batch']) == int(batch.mask.sum())
    for i, row in enumerate(rows):
        prompt, ids, adv, old = without_padding(x, i)
        assert prompt == list(row.prompt_ids) and ids == list(row.ids)
        close(adv, batch.extras['adv'].x[i][:len(ids)], 1e-5); close(old, batch.extras['old'].x[i][:len(ids)], 1e-5)
    assert len(trainer.losses) == 1
    print('loss', abs(float(trainer.losses[0]) - metrics['loss']), 'grad', max(float((a - b).abs().max()) for a, b in zip(theirs, gradient)),
          'of', max(float(a.abs().max()) for a in gradient))
    assert abs(float(trainer.losses[0]) - metrics['loss']) < 1e-6
    for a, b in zip(theirs, gradient, strict=True): close(a, b, 1e-6)
