"""Recorded steps: one HiR step on random data, computed elsewhere in float64.

Set HIR_GOLDEN to the folder that holds `hir_step.json.gz`; without it these tests skip.
"""
import gzip, json, os
from functools import lru_cache
from pathlib import Path

import pytest
import torch

from hir.training.advantage import grpo, reinforce_pp, returns, terminal
from hir.constraints.constraint import Verdict
from hir.training.loss import clip_pg, clip_stats, kl_penalty, seq_mean_token_mean, seq_mean_token_sum, token_mean
from hir.policies.rollout import Rollout
from hir.replays.select import both, candidates, lam, select
from hir.constraints.verifier import ila

TIGHT, LOOSE = 1e-9, 1e-7   # loose: recorded with 1e-8 added to each sequence's token count
MODES = {'token-mean': (token_mean, TIGHT), 'seq-mean-token-sum': (seq_mean_token_sum, TIGHT),
         'seq-mean-token-mean': (seq_mean_token_mean, LOOSE)}


def cases():
    "The recorded cases, or one skipped placeholder that says what is missing."
    folder = os.environ.get('HIR_GOLDEN')
    if not folder:
        why = 'HIR_GOLDEN is not set: set it to the folder of hir_step.json.gz'
    elif not (file := Path(folder) / 'hir_step.json.gz').is_file():
        why = f'HIR_GOLDEN is set, but there is no file {file}'
    else:
        recorded = json.loads(gzip.decompress(file.read_bytes()))
        return [pytest.param(Step(case), id=f"seed{case['seed']}") for case in recorded]
    return [pytest.param(None, marks=pytest.mark.skip(reason=why), id='absent')]


def double(x): return torch.tensor(x, dtype=torch.float64)


class Step:
    "One recorded case, and the same step computed by `hir` from the recorded inputs."
    def __init__(self, case):
        self.case, self.expect = case, case['expect']
        self.mask, self.old, self.ref = (
            double(case[k]) for k in ('response_mask', 'old_logprobs', 'ref_logprobs'))
        self.rollouts = [self.rollout(i) for i in range(len(case['verdicts']))]

    def rollout(self, i):
        "Recorded row i; what selection does not look at is left empty."
        on = self.mask[i].bool()
        numbers = {name: tuple(double(self.case[key][i])[on].tolist())
                   for name, key in (('logps', 'old_logprobs'), ('entropies', 'entropies'))}
        return Rollout(instruction=None, response='', prompt_ids=(), ids=(0,)*int(on.sum()),
                       stopped=True, seed=i, group=i // self.case['rollouts'],
                       verdict=Verdict(self.case['verdicts'][i]), **numbers)

    @property
    def lam(self): return lam(self.case['step'], self.case['lambda0'], self.case['eta'])

    @property
    def candidates(self): return candidates(self.rollouts)

    @property
    def scores(self):
        "F of each candidate."
        return both([self.rollouts[i] for i in self.candidates], self.lam)

    @property
    def selected(self):
        place, scores = self.candidates, self.scores
        slots = self.case['prompts'] * self.case['replays_per_prompt']
        return [place[i] for i in select(scores, slots)]

    @property
    def batch_rows(self):
        "Originals in order, each followed by its replay: (row, 1 if replay)."
        chosen = set(self.selected)
        return [[i, replay] for i in range(len(self.rollouts))
                for replay in ((0, 1) if i in chosen else (0,))]

    @property
    def rows(self): return torch.tensor([i for i, _ in self.batch_rows])

    @property
    def batch_mask(self): return self.mask[self.rows]

    @property
    def groups(self): return torch.tensor([self.rollouts[i].group for i, _ in self.batch_rows])

    @property
    def rewards(self):
        reward = double([1. if replay else ila(self.rollouts[i].verdict)
                         for i, replay in self.batch_rows])
        rows, mask = self.rows, self.batch_mask
        return kl_penalty(terminal(reward, mask), self.old[rows], self.ref[rows], mask,
                          self.case['kl_coef'])

    @property
    def returns(self): return returns(self.rewards, self.batch_mask, self.case['gamma'])

    @property
    def advantages(self):
        return reinforce_pp(self.rewards, self.batch_mask, self.groups, self.case['gamma'])

    @property
    def grpo_advantages(self): return grpo(self.rewards, self.batch_mask, self.groups)

    @lru_cache
    def loss(self, mode):
        "The loss, its gradient and its statistics, all from `hir`'s own advantages."
        logp = double(self.expect['new_logprobs']).requires_grad_()
        args = logp, self.old[self.rows], self.advantages, self.batch_mask
        clips = dict(clip=self.case['clip'], dual_clip=self.case['dual_clip'])
        loss = clip_pg(*args, aggregate=MODES[mode][0], **clips)
        loss.backward()
        return loss.detach(), logp.grad, clip_stats(*args, **clips)


def agree(got, want, tol, what):
    "Same shape, and nowhere further apart than `tol`."
    got, want = torch.as_tensor(got, dtype=torch.float64), double(want)
    assert got.shape == want.shape, f'{what}: {tuple(got.shape)}, not {tuple(want.shape)}'
    error = (got - want).abs().max().item()
    assert error <= tol, f'{what}: off by {error:.3g}, allowed {tol:g}'  # fails on nan


CASES = cases()
every_case = pytest.mark.parametrize('step', CASES)
every_mode = pytest.mark.parametrize('mode', MODES)


@every_case
def test_lambda(step): agree(step.lam, step.expect['lam'], TIGHT, 'lambda')


@every_case
@pytest.mark.parametrize('name, recorded', [('candidates', 'valid'), ('selected', 'selected'),
                                            ('batch_rows', 'batch_rows')])
def test_indices(step, name, recorded): assert getattr(step, name) == step.expect[recorded]


@every_case
@pytest.mark.parametrize('name', ['scores', 'rewards', 'returns', 'advantages', 'grpo_advantages'])
def test_values(step, name): agree(getattr(step, name), step.expect[name], TIGHT, name)


@every_case
@every_mode
def test_loss(step, mode):
    agree(step.loss(mode)[0], step.expect['losses'][mode]['loss'], MODES[mode][1], f'{mode} loss')


@every_case
@every_mode
def test_gradient(step, mode):
    agree(step.loss(mode)[1], step.expect['losses'][mode]['grad'], MODES[mode][1],
          f'gradient of the {mode} loss')


@every_case
@every_mode
@pytest.mark.parametrize('name, metric', [
    ('clipped', 'actor/pg_clipfrac'), ('dual_clipped', 'actor/pg_clipfrac_lower'),
    ('kl_old', 'actor/ppo_kl')])
def test_statistics(step, mode, name, metric):
    stats = step.loss(mode)[2]
    agree(stats[name].double() / stats['tokens'], step.expect['losses'][mode]['metrics'][metric],
          TIGHT, f'{name} / tokens')
