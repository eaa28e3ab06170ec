"Importance weights through whole steps: what an engine draws otherwise than the trainer computes."
import math
from copy import deepcopy
from dataclasses import replace
from itertools import product

import pytest
import torch
from accelerate import Accelerator

from hir.files import shipped
from hir.instructions.instruction import load_instructions
from hir.methods.dpo import dpo
from hir.methods.hir import hir
from hir.methods.sft import sft
from hir.policies.engines.hf import HFEngine
from hir.policies.importance import (ess, log_ratios, mask_above, mismatch, sequence_weights, token_weights, truncate,
                                     unweighted)
from hir.policies.policy import Policy, load_policy
from hir.training.config import ConfigError, make_config, rules_of
from hir.training.context import Context, StepError
from hir.training.loss import clip_pg
from hir.training.method import Parts, Rules, Sizes, _recomputed
from hir.training.step import prepared, step, update
from hir.training.trainer import fit

HIR, RL = hir(kl_coef=0.), hir(k=0, kl_coef=0., advantage='plain')
CUTS, LEVELS = (truncate, mask_above), (token_weights, sequence_weights)


@pytest.fixture(scope='module')
def toy():
    return *load_policy(shipped('toy/start')), Accelerator(cpu=True), load_instructions(shipped('toy/train.jsonl'))[:8]


class Hot(HFEngine):
    "Draws from a hotter model than the trainer's, and says how likely its tokens were there."
    exact, heat = False, 1.2

    def generate(self, instructions, m, seeds, **sampling):
        return super().generate(instructions, m, seeds, **sampling | dict(temperature=self.heat))

class Cold(Hot): heat = .8

class Half(HFEngine):
    "Samples from a copy of the weights in 16 bits."
    def sync(self, model): self.model = deepcopy(model).bfloat16()

class Hidden(HFEngine):
    "As vLLM with top_p: what it drew from is told, the whole softmax and entropies are not."
    exact = False

    def generate(self, instructions, m, seeds, **sampling):
        none = lambda r: (math.nan,)*len(r.ids)
        return [replace(r, logps=none(r), entropies=none(r))
                for r in super().generate(instructions, m, seeds, **sampling | dict(top_p=.8))]


def parts_of(toy, engine=HFEngine, **kw):
    policy = Policy(deepcopy(toy[0]))
    return Parts(toy[2], policy, torch.optim.SGD(policy.parameters(), .1), toy[1],
                 engine(policy.model, toy[1], max_new_tokens=24, **kw))

def batch_of(toy, engine=Hot, method=HIR, **rules):
    ctx = Context(method, parts_of(toy, engine), Rules(**rules), base=1)
    rows = method.rows(toy[3], ctx)
    return prepared(rows, ctx), rows

def weights_of(policy): return torch.cat([p.detach().flatten() for p in policy.parameters()])

def one_step(toy, engine=HFEngine, method=HIR, kw={}, sizes=Sizes(), **rules):
    parts = parts_of(toy, engine, **kw)
    found, _ = step(method, parts, toy[3], rules=Rules(**rules), sizes=sizes)
    return weights_of(parts.policy), found


# ---- the weights

def test_importance_by_hand():
    w = torch.tensor([.2, .9, 1.4, 2.5, 7.])
    assert torch.equal(truncate(w, 2.), torch.tensor([.2, .9, 1.4, 2., 2.]))
    assert torch.equal(mask_above(w, 2.), torch.tensor([.2, .9, 1.4, 0., 0.]))
    assert torch.equal(mask_above(w, 3.), torch.tensor([.2, .9, 1.4, 2.5, 0.]))
    assert torch.equal(unweighted(w, 2.), torch.ones(5))
    assert ess(w) == pytest.approx(12**2/(5*(.04 + .81 + 1.96 + 6.25 + 49)))


@pytest.mark.parametrize('seed', range(5))
def test_importance_of_whole_responses_gives_the_gradient_of_the_expected_reward(seed, V=3, T=3):
    "All 27 responses of a tabular policy, drawn from another one; the loss is the one that runs, and its autograd."
    g = torch.Generator().manual_seed(seed)
    tables = [torch.randn(*[V]*(t + 1), generator=g, dtype=torch.float64, requires_grad=True) for t in range(T)]
    off = [(x + torch.randn(x.shape, generator=g)).detach() for x in tables]
    every = list(product(range(V), repeat=T))
    def logp_of(tables): return torch.stack([torch.stack([x.log_softmax(-1)[y[:t + 1]] for t, x in enumerate(tables)])
                                             for y in every])
    reward = torch.randn(len(every), generator=g, dtype=torch.float64)
    pi, mu = logp_of(tables), logp_of(off)
    true = torch.autograd.grad((pi.sum(1).exp()*reward).sum(), tables, retain_graph=True)
    def away(weight):
        "Distance of the expected gradient, under μ, of the clipped loss on each response, from the true one."
        loss = sum(p*clip_pg(pi[i:i + 1], pi[i:i + 1].detach(), reward[i].expand(1, T), torch.ones(1, T), tokens=1,
                             weight=weight[i:i + 1]) for i, p in enumerate(mu.sum(1).exp()))
        return max((x + y).abs().max().item() for x, y in zip(torch.autograd.grad(loss, tables, retain_graph=True), true))
    w = sequence_weights((pi - mu).detach())
    assert away(w) < 1e-12 and away(truncate(w, 1.5)) > 1e-3 and away(torch.ones(len(every), 1)) > 1e-2


# ---- through a step

@pytest.mark.parametrize('level', LEVELS)
@pytest.mark.parametrize('cut', CUTS)
def test_importance_does_nothing_where_the_engine_is_exact(toy, cut, level):
    plain, found = one_step(toy)
    weighed, told = one_step(toy, importance=cut, importance_level=level)
    assert torch.equal(plain, weighed) and {k for k in told if 'time/' not in k} == {k for k in found if 'time/' not in k}
    again, told = one_step(toy, importance=cut, importance_level=level, old=_recomputed)   # the same, computed twice
    assert (plain - again).abs().max() < 1e-6 and told['importance/ess'] > 1 - 1e-6 and told['importance/cut'] == 0


def test_importance_off_weighs_nothing_and_tells_all_the_same(toy):
    off, found = one_step(toy, Hot)
    on, told = one_step(toy, Hot, importance=truncate)
    same = 'old_diff', 'old_diff_max', 'importance/ess', 'importance/cut', 'cla', 'length'
    assert [found[n] for n in same] == [told[n] for n in same]
    assert found['old_diff_max'] > found['old_diff'] > .01 and .5 < found['importance/ess'] < .999
    assert (on - off).abs().max() > 1e-5
    b, _ = batch_of(toy); assert torch.equal(b.weight, b.mask)


@pytest.mark.parametrize('engine', [Hot, Cold])
@pytest.mark.parametrize('level', LEVELS)
@pytest.mark.parametrize('cut', CUTS)
def test_importance_weights_of_a_batch(toy, cut, level, engine, cap=1.1):
    b, rows = batch_of(toy, engine, importance=cut, importance_level=level, importance_cap=cap)
    for i, row in enumerate(rows):
        w = [math.exp(p - m) for p, m in zip(row.origin.logps, row.origin.engine_logps)]
        if level is sequence_weights: w = [math.prod(w)]*len(w)
        want = [min(x, cap) if cut is truncate else x*(x <= cap) for x in w]
        assert b.weight[i, :len(w)].tolist() == pytest.approx(want, rel=1e-3, abs=1e-6)
    assert (b.weight == 0).any() or cut is truncate
    assert torch.equal(b.mask, batch_of(toy, engine)[0].mask)                    # what is masked still counts in the mean


@pytest.mark.parametrize('denominator', ['inherit', 'rescore'])
def test_importance_of_a_replay_is_that_of_its_original(toy, denominator):
    b, rows = batch_of(toy, method=hir(kl_coef=0., denominator=denominator), importance=truncate)
    again = [i for i, row in enumerate(rows) if row.replay]
    assert len(again) == 16
    for i in again:
        assert torch.equal(b.weight[i], b.weight[rows[i].source]) and rows[i].prompt_ids != rows[rows[i].source].prompt_ids


def test_importance_is_in_the_gradient_beside_the_ratio(toy):
    "The same update by hand: the clipped loss of each token times its weight."
    b, _ = batch_of(toy, method=RL, importance=truncate, importance_cap=1.1)
    b = replace(b, extras=b.extras | dict(idle=torch.zeros(len(b), dtype=torch.bool)))
    b.extras['adv'].x.copy_(torch.randn(b.mask.shape, generator=torch.Generator().manual_seed(0))*b.mask)
    parts = parts_of(toy); update(RL, parts, b, Sizes(minibatches=1, micro=7))
    by_hand = parts_of(toy); logp = by_hand.policy(b.ids, b.prompt_len, b.mask)[0]
    rho, A = (logp - b.extras['old'].x).exp(), b.extras['adv'].x
    (-(torch.min(rho*A, rho.clamp(.8, 1.2)*A)*b.weight*b.mask).sum()/b.mask.sum()).backward()
    torch.nn.utils.clip_grad_norm_(by_hand.policy.parameters(), 1.); by_hand.optimizer.step()
    start, ours = weights_of(toy[0]), weights_of(parts.policy)
    assert (ours - start).abs().max() > 1e-3 and (ours - weights_of(by_hand.policy)).abs().max() < 1e-6


@pytest.mark.parametrize('level', LEVELS)
def test_importance_does_not_see_micro_batches(toy, level):
    rules = dict(importance=truncate, importance_level=level)
    one, other = (one_step(toy, Hot, sizes=Sizes(micro=n), **rules)[0] for n in (1, 1000))
    assert (one - weights_of(toy[0])).abs().max() > 1e-4 and (one - other).abs().max() < 1e-6


# ---- engines

def test_importance_of_sixteen_bits(toy):
    "The engine computes in bfloat16, as under mixed precision, or holds its weights so; the trainer computes anew."
    for engine, kw in ((HFEngine, dict(autocast='bf16')), (Half, {})):
        weighed, found = one_step(toy, engine, kw=kw, importance=truncate)
        assert 1e-4 < found['old_diff'] < found['old_diff_max'] < 1 and .99 < found['importance/ess'] < 1
        assert weighed.isfinite().all() and found['skipped'] == 0


def test_importance_of_a_truncated_draw_is_the_mass_that_was_kept(toy):
    for engine, kw in ((HFEngine, dict(top_p=.8)), (HFEngine, dict(top_k=3)), (Hidden, {})):
        weighed, found = one_step(toy, engine, kw=kw, importance=truncate)
        plain, same = one_step(toy, engine, kw=kw)
        assert found['importance/cut'] == 0 and .5 < found['importance/ess'] < 1 and (weighed - plain).abs().max() > 1e-6
        assert found['cla'] == same['cla'] and found['old_diff_max'] <= (-math.log(.8) + 1e-4 if 'top_k' not in kw else 20)
    rollouts = parts_of(toy, top_p=.8).engine.generate(toy[3], 4, 0)
    w = token_weights(log_ratios(rollouts))
    assert w.min() >= .8 - 1e-5 and w.max() <= 1 + 1e-6


def test_importance_of_an_engine_that_tells_nothing(toy):
    class Silent(Hot):
        def generate(self, *a, **k): return [replace(r, logps=(math.nan,)*len(r.ids)) for r in super().generate(*a, **k)]
    found = one_step(toy, Silent)[1]
    assert not {'old_diff', 'importance/ess'} & set(found) and math.isfinite(found['loss'])
    with pytest.raises(StepError, match='set importance to off'): one_step(toy, Silent, importance=truncate)
    one = parts_of(toy, Hot).engine.generate(toy[3][:1], 2, 0)
    told = [replace(r, engine_logps=r.logps, logps=tuple(x - .1 for x in r.logps)) for r in one]
    gone = [replace(told[0], engine_logps=(math.nan, *told[0].engine_logps[1:])), told[1]]       # one token is enough
    assert mismatch(gone) == mismatch(told[1:]) and mismatch(told)['old_diff'] == pytest.approx(.1, rel=1e-3)


# ---- settings

@pytest.mark.parametrize('method', [sft(), dpo()])
def test_importance_is_refused_where_there_is_no_policy_gradient(toy, method):
    parts = parts_of(toy, Hot); parts.reference = Policy(deepcopy(toy[0]))
    with pytest.raises(StepError, match='weighs a policy gradient'):
        step(method, parts, toy[3], rules=Rules(importance=truncate))


@pytest.mark.parametrize('settings, says', [(dict(old='engine'), 'old: engine'), (dict(method='sft'), 'method sft'),
                                            (dict(method='dpo'), 'method dpo')])
def test_importance_settings_that_do_not_go_together(settings, says):
    with pytest.raises(ConfigError, match=says): rules_of(make_config(dict(importance='mask') | settings))
    rules_of(make_config(settings))


@pytest.mark.parametrize('settings, says', [(dict(importance='clip'), 'off, truncate, mask'), (dict(importance_cap=1), 'above 1'),
                                            (dict(importance_cap=math.inf), 'float'), (dict(importance_level='row'), 'sequence')])
def test_importance_settings_that_cannot_be(settings, says):
    with pytest.raises(ConfigError, match=says): make_config(settings)


def test_importance_in_a_run(toy, tmp_path):
    "By the settings alone; what is written down holds, for every step, the same as without a pause."
    model, tokenizer, _, train = toy
    cfg = make_config(dict(steps=2, batch=4, m=4, method=dict(kl_coef=0), lr=1e-3, max_new_tokens=24, cpu=True, eval_every=0, top_p=.9,
                           importance='truncate', importance_level='sequence', importance_cap=3, out=str(tmp_path/'run')))
    log = []
    fit(cfg, deepcopy(model), tokenizer, train, progress=False, on_step=lambda metrics, rows: log.append(metrics))
    assert all(0 < m['importance/ess'] < 1 and m['importance/cut'] == 0 and m['skipped'] == 0 for m in log)
    off = make_config(dict(importance=False, out=str(tmp_path/'off')), base=cfg)                # YAML's `off`
    assert off.importance == 'off'
    other = []
    fit(off, deepcopy(model), tokenizer, train, progress=False, on_step=lambda metrics, rows: other.append(metrics))
    assert log[0]['importance/ess'] == other[0]['importance/ess'] and log[0]['grad_norm'] < other[0]['grad_norm']
