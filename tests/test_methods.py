"""The contract that every method meets, asked of those of `hir.methods` and of one of our own that needs all there is:
units of three, weighted tokens, a state. A method of yours joins it with a line in METHODS."""
import json
import math
import random
import signal
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hir.constraints.verifier import cla, ila
from hir.files import shipped
from hir.instructions.instruction import load_instructions
from hir.methods.dpo import dpo
from hir.policies.policy import Policy, load_policy
from hir.replays.reward import by_group, standing
from hir.training.batch import PerToken, take
from hir.training.checkpoint import checkpoints
from hir.training.config import make_config, method_of, methods, read_config, rules_of, sizes_of
from hir.training.context import Context, StepError
from hir.training.loss import token_mean
from hir.training.method import Method
from hir.training.runlog import read_log
from hir.training.step import prepared, step
from hir.training.trainer import Job, fit, _prepare_job
from test_launch import RUNS, TOY, launch_runs
from test_resume import FORK, command, left, assert_same

OWN = f'{__name__}:averaged'
METHODS = {'hir': {'name': 'hir', 'kl_coef': .01}, 'plain RL': {'name': 'hir', 'k': 0, 'kl_coef': 0.}, 'sft': {'name': 'sft'},
           'sft hindsight': {'name': 'sft', 'on': 'hindsight'}, 'dpo': {'name': 'dpo', 'beta': .5}, 'own': {'name': OWN}}
every_method = pytest.mark.parametrize('name', METHODS)


# ---- a method that needs everything

class Average:
    "An average of the policy, its teacher."
    def __init__(self, rate): self.rate, self.teacher, self.waiting, self.seen = rate, None, None, 0

    def of(self, ctx):
        if self.teacher is None:
            model = ctx.parts.accelerator.unwrap_model(ctx.parts.policy).model
            self.teacher = Policy(deepcopy(model).requires_grad_(False), share=False)
            if self.waiting: self.teacher.model.load_state_dict(self.waiting)
        return self.teacher

    @torch.no_grad()
    def follow(self, ctx):
        model = ctx.parts.accelerator.unwrap_model(ctx.parts.policy).model
        for own, new in zip(self.of(ctx).model.parameters(), model.parameters()): own.lerp_(new, self.rate)
        self.seen += 1

    def state_dict(self):
        if self.teacher is None: return {'seen': self.seen}
        return {'seen': self.seen} | {f'w.{k}': v.clone() for k, v in self.teacher.model.state_dict().items()}

    def load_state_dict(self, found):
        self.seen, self.waiting = found['seen'], {k[2:]: v for k, v in found.items() if k.startswith('w.')}


def averaged(rate:float=.3):
    "Best, middle and worst of a group, as a unit; every second token; beside a pull towards an average of the policy."
    state = Average(rate)

    def rows(instructions, ctx):
        units = [sorted(group, key=standing) for group in by_group(ctx.draw(instructions, ctx.sizes.m))]
        ctx.metrics['seen'] = state.seen
        return [replace(row, unit=u, weight=tuple(float(t % 2 == 0) for t in range(len(row.ids))))
                for u, group in enumerate(units) if len(group) > 2 for row in (group[0], group[len(group)//2], group[-1])]

    def extras(rows, batch, ctx):
        rank = torch.tensor([-1., 0., 1.]).repeat(len(rows)//3)
        return dict(teacher=PerToken(ctx.logps(rows, state.of(ctx))), rank=rank)

    def loss(out, batch, x, totals):
        _, place = batch.unit.unique(return_inverse=True)
        each = (out.logp*batch.mask).sum(1)/batch.mask.sum(1).clamp(min=1)
        gap = each.new_zeros(int(place.max()) + 1).index_add(0, place, each*x['rank'])
        pull = token_mean((out.logp - x['teacher'])**2*batch.weight, batch.mask, totals['tokens'])
        return -torch.nn.functional.logsigmoid(gap).sum()/totals['units'] + pull, {'gap': (gap.sum(), torch.tensor(float(len(gap)))), 'most': gap.max()}

    return Method(rows, loss, extras, state=state, after=state.follow, counts=lambda m: (m, 3))


# ---- runs

def settings(name, out, **changes):
    base = dict(model=str(shipped('toy/start')), batch=5, steps=2, m=4, eval_every=0, cards_every=1, save_every=0, heldout='', lr=.1, optimizer='torch.optim:SGD',
                max_new_tokens=20, micro=8, method=METHODS[name], reward='cla', out=str(out))
    return make_config(base | changes, base=read_config(TOY))


def run(name, out, **changes):
    "Final weights, history and rows of a short run."
    cfg = settings(name, out, **changes)
    model, tokenizer = load_policy(cfg.model)
    fit(cfg, model, tokenizer, load_instructions(shipped('toy/train.jsonl'))[:48], progress=False)
    return weights(load_policy(Path(out)/'policy')[0]), read_log(Path(out)/'history.jsonl'), read_log(Path(out)/'rollouts.jsonl')


def weights(model): return torch.cat([p.detach().flatten() for p in model.parameters()])

def far(a, b): return (a - b).abs().max().item()


@pytest.fixture(scope='module')
def reference(tmp_path_factory):
    "name -> the run that others are compared with, made once."
    made = {}

    def of(name):
        if name not in made: made[name] = run(name, tmp_path_factory.mktemp('reference'))
        return made[name]
    return of


def same(ours, theirs, eps=1e-5):
    start = weights(load_policy(shipped('toy/start'))[0])
    assert far(ours[0], start) > 1e-4 and far(ours[0], theirs[0]) < eps       # the run moves by more than it may differ
    for mine, other in zip(ours[1], theirs[1], strict=True):
        names = {k for k in mine if not k.startswith(('time/', 'tokens_per_second', 'seconds', 'cpu_seconds', 'ratio_max'))}
        assert names == {k for k in other if not k.startswith(('time/', 'tokens_per_second', 'seconds', 'cpu_seconds', 'ratio_max'))}
        if mine['step'] == 1: names.discard('accuracy')         # margins are 0 but for rounding, at the reference
        for k in names: assert mine[k] == pytest.approx(other[k], abs=10*eps, rel=1e-4), k
    assert [(r['response'], r['reward'], r['part'], r['unit']) for r in ours[2]] == [(r['response'], r['reward'], r['part'], r['unit']) for r in theirs[2]]


def test_these_methods_are_known():
    assert {m['name'] for m in METHODS.values() if ':' not in m['name']} <= set(methods())       # the others: test_gallery


@every_method
def test_eight_micro_batches_of_one_are_one_of_eight(tmp_path, reference, name):
    same(run(name, tmp_path/'one', micro=1), reference(name))
    same(run(name, tmp_path/'all', micro=1000), reference(name))
    same(run(name, tmp_path/'tokens', micro_tokens=150), reference(name))


@every_method
def test_shared_prompts_are_the_plain_path(tmp_path, reference, name): same(run(name, tmp_path, share=False), reference(name))


def one_step(name, tmp_path, engine=None, watch=None, **changes):
    "A step by hand: metrics, rows, context, and the batches that the loss was given."
    cfg = settings(name, tmp_path, cpu=True, **changes)
    model, tokenizer = load_policy(cfg.model)
    job, seen, kept = _prepare_job(cfg, model, tokenizer, engine and engine(model, tokenizer, cfg.max_new_tokens)), [], []
    real = job.method

    def rows(instructions, ctx): kept.append(ctx); return real.rows(instructions, ctx)
    def loss(out, batch, x, totals): seen.append(batch); return real.loss(out, batch, x, totals)
    job.method = replace(real, rows=rows, loss=loss)
    found, made = step(job.method, job, load_instructions(shipped('toy/train.jsonl'))[:5], rules=rules_of(cfg), sizes=sizes_of(cfg), seen=watch)
    return found, made, kept[0], seen


@every_method
@pytest.mark.parametrize('micro', [1, 2, 7])
def test_units_are_never_cut(tmp_path, name, micro):
    found, rows, ctx, seen = one_step(name, tmp_path, micro=micro)
    size = {'dpo': 2, 'own': 3}.get(name, 1)
    for batch in seen: assert all((batch.unit == u).sum() == size for u in batch.unit.unique().tolist())
    assert sum(len(b) for b in seen) <= len(rows) and len(rows) % size == 0


@every_method
def test_sampling_is_described_whole(tmp_path, name):
    "Every response that the engine gave counts; those of the step's own prompts make ILA and CLA, before a method chooses."
    from hir.policies.engines.hf import HFEngine
    given = []

    class Counting(HFEngine):
        def generate(self, *a, **k): out = super().generate(*a, **k); given.extend(out); return out
    found, rows, ctx, _ = one_step(name, tmp_path, engine=Counting)
    verdicts = [row.rollout.verdict for row in ctx.rows]
    assert found['sampled'] == len(given) == len(verdicts) >= 20
    assert found['cla'] == pytest.approx(sum(map(cla, verdicts))/len(verdicts)) and found['ila'] == sum(map(ila, verdicts))/len(verdicts)
    assert {k for k in ctx.metrics} <= set(found) and found['rows'] == len(rows)


@every_method
def test_the_row_log_shows_what_the_method_used(tmp_path, reference, name):
    batches = []
    _, rows, _, _ = one_step(name, tmp_path, watch=lambda rows, batch: batches.append(batch))
    used, log = set(batches[0].extras), reference(name)[2]
    assert log and all(set(r['used']) == used for r in log)
    for s, h in enumerate(reference(name)[1], 1): assert sum(r['step'] == s for r in log) == h['rows']
    assert {r['part'] for r in log} <= {row.part for row in rows}


@every_method
@pytest.mark.parametrize('overlong', ['keep', 'mask', 'penalise', 'punish', 'drop'])
def test_truncated_responses_are_used_as_the_rule_says(tmp_path, name, overlong):
    found, rows, ctx, seen = one_step(name, tmp_path, overlong=overlong, max_new_tokens=13, m=8)
    cut = [row for row in rows if not row.rollout.stopped]
    assert .1 < found['truncated'] < 1 and found['sampled'] == len(ctx.rows)
    if overlong == 'drop': assert not cut and found['dropped'] == sum(not row.rollout.stopped for row in ctx.rows)
    if overlong in ('penalise', 'punish'): assert all(row.reward <= -(overlong == 'punish') for row in cut) and not any(row.replay for row in cut)
    if overlong == 'mask':
        assert not any(row.replay for row in cut)
        lost = {row.unit if row.unit is not None else i for i, row in enumerate(rows) if not row.rollout.stopped}
        learned = len(rows) - sum((row.unit if row.unit is not None else i) in lost for i, row in enumerate(rows))
        assert sum(len(b) for b in seen) <= max(learned, 1) + 2*len(lost)             # a masked row takes its unit with it


@every_method
def test_a_masked_row_takes_its_unit_with_it(tmp_path, name):
    ctx, batches = None, []
    _, rows, ctx, _ = one_step(name, tmp_path, watch=lambda rows, batch: batches.append(batch))
    hidden = replace(rows[0], use=replace(rows[0].use, loss=False))
    batch = prepared([hidden, *rows[1:]], ctx)
    assert batch.learn.tolist() == [u != batch.unit[0].item() for u in batch.unit.tolist()]


@every_method
def test_without_rows_there_is_no_update(tmp_path, name):
    cfg = settings(name, tmp_path, cpu=True)
    model, tokenizer = load_policy(cfg.model)
    job, start = _prepare_job(cfg, model, tokenizer), weights(model).clone()
    def rows(instructions, ctx): ctx.draw(instructions, 2); return []
    job.method = replace(job.method, rows=rows, after=None)
    found, made = step(job.method, job, load_instructions(shipped('toy/train.jsonl'))[:3])
    assert (found['rows'], found['sampled'], made) == (0, 6, []) and 'loss' not in found
    assert torch.equal(weights(model), start)


@every_method
def test_adapters_learn_alone_and_micro_batches_do_not_matter(tmp_path, name):
    one, all_at_once = (run(name, tmp_path/str(micro), lora_rank=2, micro=micro, lr=.3, save_every=1) for micro in (1, 1000))
    assert far(one[0], all_at_once[0]) < 1e-4 < far(one[0], weights(load_policy(shipped('toy/start'))[0]))
    assert all(math.isfinite(h['loss']) for h in one[1]) and (checkpoints(tmp_path/'1')[-1]/'policy'/'adapter_model.safetensors').is_file()
    if name == 'dpo': assert abs(one[1][0]['margin']) < 3                # against the start: adapters off


# ---- killed and resumed

def words(name, out, *more):
    own = [x for k, v in METHODS[name].items() for x in (('--method', v) if k == 'name' else (f'--method.{k}', str(v)))]
    return ['train', '--config', str(TOY), '--steps', '4', '--batch', '3', '--m', '4', '--eval_every', '2', '--reward', 'cla',
            '--heldout', str(out.parent/'heldout.jsonl'), '--eval_samples', '1', '--save_every', '1', '--keep', '2', '--cards_every', '2',
            '--schedule', 'cosine', '--max_new_tokens', '16', '--out', str(out), *own, *more]


def started(name, out, where='', nth=1):
    (out.parent/'heldout.jsonl').write_text(''.join(Path(shipped('toy/heldout.jsonl')).read_text().splitlines(True)[:2]))
    child = FORK.Process(target=command, args=(out.parent/'said', where, nth, words(name, out, '--resume', 'auto')))
    child.start(); child.join(240)
    return child.exitcode


@pytest.mark.slow
@every_method
def test_killed_and_resumed_it_is_the_same_run_to_the_bit(tmp_path, name):
    "SIGKILL in an update and while a checkpoint is written; a method's own state is part of the run."
    assert started(name, tmp_path/'whole') == 0, (tmp_path/'said').read_text()[-2000:]
    out, rng = tmp_path/'cut', random.Random(name)
    for where, nth in (('updating', rng.randint(2, 4)), ('writing weights', 2)):
        assert started(name, out, where, nth) == -signal.SIGKILL, (tmp_path/'said').read_text()[-2000:]
    assert started(name, out) == 0, (tmp_path/'said').read_text()[-2000:]
    assert_same(left(out), left(tmp_path/'whole'))
    if name == 'own':
        assert json.loads((checkpoints(out)[-1]/'method.json').read_text()) == {'seen': 4}
        assert [r['seen'] for r in read_log(out/'history.jsonl')] == [0, 1, 2, 3]


def test_a_state_that_is_not_resumed_would_be_seen(tmp_path):
    "The test above can fail: forgetting the state changes the run."
    whole = run('own', tmp_path/'whole', steps=2, save_every=1)[0]
    run('own', tmp_path/'cut', steps=1, save_every=1)
    folder = checkpoints(tmp_path/'cut')[-1]
    found = json.loads((folder/'method.json').read_text())
    assert found == {'seen': 1} and (folder/'method.safetensors').stat().st_size > 1e5
    resumed = run('own', tmp_path/'cut', steps=2, save_every=1, resume='auto')[0]
    assert torch.equal(resumed, whole)
    run('own', tmp_path/'lost', steps=1, save_every=1)
    real, Average.load_state_dict = Average.load_state_dict, lambda self, found: None
    try: lost = run('own', tmp_path/'lost', steps=2, save_every=1, resume='auto')[0]
    finally: Average.load_state_dict = real
    assert not torch.equal(lost, whole)


# ---- two processes

TWO = {f'{name}-{kind}': dict(changes, method=METHODS[name]) for name in METHODS for kind, changes in
       dict(uneven={}, empty=dict(batch=1, m=3, minibatches=3, micro=1)).items()}


@pytest.fixture(scope='module')
def both(tmp_path_factory):
    "Folder of the runs of two gloo processes, all in one launch."
    folder = tmp_path_factory.mktemp('two')
    launch_runs('ddp', folder, RUNS + 'runs()', {n: dict(changes, reward='cla', lr=.1, optimizer='torch.optim:SGD', steps=2) for n, changes in TWO.items()})
    return folder


@pytest.mark.slow
@pytest.mark.parametrize('case', TWO)
def test_two_processes_are_one(tmp_path, both, case):
    "Five instructions on two processes, and one instruction: the second samples nothing and has no row in most micro-batches."
    from test_launch import alone
    alone(tmp_path, reward='cla', lr=.1, optimizer='torch.optim:SGD', steps=2, **TWO[case])
    def of(folder): return weights(load_policy(folder/'policy')[0]), read_log(folder/'history.jsonl'), read_log(folder/'rollouts.jsonl')
    same(of(tmp_path/'one'), of(both/case))


# ---- annotators who err

@every_method
def test_noise_turns_verdicts_round_in_training(tmp_path, name):
    "With noise 1 the first draw of a step is the same, and each of its verdicts the opposite."
    clean, wrong = (one_step(name, tmp_path/str(e), noise=e)[2].rows[:20] for e in (0., 1.))
    assert [r.rollout.ids for r in clean] == [r.rollout.ids for r in wrong]
    assert [[not ok for ok in r.rollout.verdict] for r in clean] == [[*r.rollout.verdict] for r in wrong]
    assert [r.reward for r in wrong] == [cla(r.rollout.verdict) for r in wrong]


def test_evaluation_stays_clean(tmp_path):
    from hir.evaluation.evaluate import evaluate
    held = load_instructions(shipped('toy/heldout.jsonl'))[:8]

    def first_evaluation(e):
        cfg = settings('plain RL', tmp_path/str(e), noise=e, steps=1)
        fit(cfg, *load_policy(cfg.model), load_instructions(shipped('toy/train.jsonl'))[:48], lambda engine: evaluate(engine, held, 2), progress=False)
        return [(r['q'], r['response'], r['marks']) for r in read_log(Path(cfg.out)/'answers.jsonl') if r['step'] == 0]
    assert first_evaluation(0.) == first_evaluation(1.) != []


# ---- mistakes are told

def broken(what):
    def make():
        rows = lambda instructions, ctx: [replace(r, unit=r.group) for r in ctx.draw(instructions, 2)]
        loss = lambda out, b, x, t: (-(out.logp*b.mask).sum()/t['tokens'], {})
        return replace(Method(rows, loss), **what)
    return make


@pytest.mark.parametrize('what, says', [
    (dict(prepare=lambda rows, b, ctx: {'a': torch.ones(1)}), "extra 'a' has shape"),
    (dict(prepare=lambda rows, b, ctx: {'a': ctx.logps(rows, 'reference')}), "asks for 'reference'"),
    (dict(rows=lambda q, ctx: ctx.draw(q, 1) + ctx.draw(q, 1)), 'draws twice with the tag')])
def test_a_method_that_breaks_the_contract_is_told(tmp_path, what, says):
    cfg = settings('sft', tmp_path, cpu=True)
    model, tokenizer = load_policy(cfg.model)
    job = _prepare_job(cfg, model, tokenizer); job.method = broken(what)()
    with pytest.raises(StepError, match=says): step(job.method, job, load_instructions(shipped('toy/train.jsonl'))[:3])
