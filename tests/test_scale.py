"How a step is cut and what is computed once must not change what is learned."
import warnings
from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from transformers import AttentionInterface, AutoModelForCausalLM, CONFIG_MAPPING

from hir.training.batch import PerToken, micro_batches
from hir.methods.hir import explore, push, spare
from hir.instructions.instruction import load_instructions
from hir.policies.policy import Policy, layout_of, load_policy, pad_rows, same_prompt, _states
from hir.policies.processes import _in_step, start
from hir.policies.engines.hf import HFEngine
from hir.training.method import Rules, _recomputed
from hir.training.context import StepError
from hir.replays.reward import dropped, kept, masked, penalised
from hir.methods.hir import hir
from hir.training.context import Context
from hir.training.method import Parts, Sizes
from hir.training.step import prepared, step, update
from hir.files import shipped

SMALL = dict(vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=40, pad_token_id=0, eos_token_id=1, bos_token_id=2)
FAMILIES = {'llama': {}, 'qwen2': {}, 'qwen3': dict(head_dim=8), 'gpt2': dict(n_positions=20)}   # gpt2: learned positions
ROWS = [([5, 6, 7], [8, 9, 10, 11]), ([20], [12]), ([5, 6, 7], [14]), ([21, 22, 23, 24, 25, 26, 27, 28], [3, 4, 5, 6, 7, 8]),
        ([20], [9, 9, 9]), ([5, 6], [7, 8, 9]), ([5, 6, 7], [8, 9, 10, 11])]


def tiny(family, dtype=torch.float64, **changes):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIG_MAPPING[family](**(SMALL | FAMILIES.get(family, {}) | changes))).to(dtype).eval()


def scored(policy, rows=ROWS, temperature=.8):
    "Log-probabilities, entropies and the gradient of a weighted sum of the former."
    ids, prompt_len, mask = pad_rows(rows, 0)
    policy.zero_grad()
    logp, entropy = policy(ids, prompt_len, mask, temperature)
    (logp*torch.linspace(-1, 2, logp.numel(), dtype=logp.dtype).view_as(logp)).sum().backward()
    return logp.detach(), entropy, {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}


def agree(a, b, eps):
    "Values, and gradients as shares of the largest."
    assert (a[0] - b[0]).abs().max() < eps and (a[1] - b[1]).abs().max() < eps
    most = max(g.abs().max() for g in b[2].values())
    assert set(a[2]) == set(b[2]) and most > .01
    for name in b[2]: assert (a[2][name] - b[2][name]).abs().max() < eps*max(most, 1.), name


@pytest.mark.parametrize('tied', [True, False])
@pytest.mark.parametrize('family', FAMILIES)
def test_shared_prompts_change_nothing(family, tied, eps=1e-6):
    for dtype, attention in ((torch.float64, 'sdpa'), (torch.float32, 'sdpa'), (torch.float32, 'eager')):
        model = tiny(family, dtype, tie_word_embeddings=tied, attn_implementation=attention)
        with warnings.catch_warnings():
            warnings.simplefilter('error', UserWarning)   # ours, not those of transformers
            ours = Policy(model, chunk=2)
        assert ours.share, ours.why
        agree(scored(ours), scored(Policy(model, share=False)), eps)
        same = [(q, a) for q, a in ROWS if len(q) == 3]                          # no padding on the left
        agree(scored(ours, same), scored(Policy(model, share=False), same), eps)
        agree(scored(ours, [([5, 6], [7])]*3), scored(Policy(model, share=False), [([5, 6], [7])]*3), eps)   # one token each


@pytest.mark.parametrize('chunks', [2, 5, 40])
def test_any_number_of_chunks_gives_the_same(chunks):
    "Processes with few tokens project as often as the others, at times none; the gradient is the same."
    model, calls = tiny('qwen2'), []
    policy = Policy(model, share=False)
    plain = scored(policy)
    model.get_output_embeddings().register_forward_pre_hook(lambda m, args: calls.append(len(args[0])))
    policy.agree = lambda own: chunks
    agree(scored(policy), plain, 1e-9)
    assert len(calls) == 2*chunks and sum(calls) == 2*sum(len(a) for _, a in ROWS)                  # once more in the backward pass


def test_prompts_are_read_once(monkeypatch):
    "Counted at the body: distinct prompts, then the responses less their last token."
    model, seen = tiny('llama'), []
    policy = Policy(model)
    model.get_decoder().register_forward_pre_hook(lambda m, args, kw: seen.append(tuple(kw['input_ids'].shape)), with_kwargs=True)
    policy(*pad_rows(ROWS, 0))
    assert seen == [(4, 8), (7, 5)]
    seen.clear()
    policy(*pad_rows([ROWS[0], ROWS[1]], 0))                                     # nothing to share: the plain path
    assert seen == [(2, 7)]


@pytest.mark.parametrize('family, changes, says', [
    ('mistral', dict(sliding_window=6), 'SlidingWindow'), ('phi3', dict(sliding_window=6), 'SlidingWindow')])
def test_a_model_that_cannot_share_goes_the_plain_way_and_says_so(family, changes, says):
    model = tiny(family, **changes)
    with pytest.warns(UserWarning, match=f'setting share.*{says}'): policy = Policy(model)
    assert not policy.share
    agree(scored(policy), scored(Policy(model, share=False)), 1e-6)


def test_a_padding_that_turns_into_nan_is_noticed():
    "In float64, eager attention masks with a number that float32 cannot hold: rows of padding only become NaN."
    with pytest.warns(UserWarning, match='differ'): assert not Policy(tiny('llama', attn_implementation='eager')).share


def test_a_shared_path_that_computes_something_else_is_not_taken(monkeypatch):
    model = tiny('llama')
    monkeypatch.setattr('hir.policies.policy._shared_states', lambda model, at, body: torch.zeros(len(at.pick), 32, dtype=torch.float64))
    with pytest.warns(UserWarning, match='differ'): assert not Policy(model).share

    def broken(*args): raise RuntimeError('no cache here')
    monkeypatch.setattr('hir.policies.policy._shared_states', broken)
    with pytest.warns(UserWarning, match='no cache here'): assert not Policy(model).share


def test_gradient_checkpointing_switches_sharing_off():
    model = tiny('llama')
    policy, plain = Policy(model), scored(Policy(model, share=False))
    model.gradient_checkpointing_enable()
    model.train()
    assert not policy.share
    agree(scored(policy), plain, 1e-6)


def test_weights_in_pieces_switch_sharing_off_and_say_so():
    sharded, policy = SimpleNamespace(distributed_type=DistributedType.FSDP), Policy(tiny('llama'))
    assert policy.share
    with pytest.warns(UserWarning, match='setting share.*Llama.*weights lie in pieces'): _in_step(sharded, policy)
    assert not policy.share
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        _in_step(sharded, Policy(tiny('llama'), share=False))                     # nobody asked for it


def test_shared_prompts_with_lora():
    peft = pytest.importorskip('peft')
    model = peft.get_peft_model(tiny('qwen2'), peft.LoraConfig(r=4, target_modules='all-linear'))
    for name, p in model.named_parameters():
        if 'lora_B' in name: torch.nn.init.normal_(p, std=.2)                    # 0 at the start: nothing to see
    model.eval()
    ours, plain = Policy(model), Policy(model, share=False)
    assert ours.share and all('lora' in name for name in scored(ours)[2])
    agree(scored(ours), scored(plain), 1e-6)
    with model.disable_adapter(), torch.no_grad(): off = plain(*pad_rows(ROWS, 0), .8)[0]
    assert (off - scored(ours)[0]).abs().max() > 1e-3


def test_shared_prompts_under_ddp(tmp_path):
    torch.distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    try:
        wrapped = torch.nn.parallel.DistributedDataParallel(Policy(tiny('llama')))
        ours = scored(wrapped)
        plain = scored(Policy(tiny('llama'), share=False))
        agree((*ours[:2], {name.removeprefix('module.'): g for name, g in ours[2].items()}), plain, 1e-6)
    finally: torch.distributed.destroy_process_group()


def test_packed_rows_are_the_padded_ones():
    "One sequence with positions that begin again, read here as a block-diagonal mask."
    for attention in ('sdpa', 'eager'):
        model = tiny('qwen3', attn_implementation=attention)
        ids, prompt_len, mask = pad_rows(ROWS, 0)
        packed, padded = (layout_of(ids, prompt_len, mask, packed=how) for how in (True, False))
        away = _states(model, packed)[packed.pick] - _states(model, padded)[padded.pick]
        assert away.abs().max() < 1e-6 and packed.ids.shape == (1, sum(len(q) + len(a) for q, a in ROWS))


def test_a_flash_model_is_packed(monkeypatch):
    "The way is chosen by the attention's name; the kernel itself needs a GPU."
    model, seen = tiny('llama'), []
    policy = Policy(model, share=False)
    plain = scored(policy)
    monkeypatch.setattr(type(model.config), '_attn_implementation', 'flash_attention_2', raising=False)
    body = model.get_decoder()
    forward = body.forward

    def as_sdpa(**kw):
        seen.append(tuple(kw['input_ids'].shape))
        with monkeypatch.context() as m:
            m.setattr(type(model.config), '_attn_implementation', 'sdpa')
            return forward(**kw)
    monkeypatch.setattr(body, 'forward', as_sdpa)
    agree(scored(policy), plain, 1e-6)
    assert seen == [(1, sum(len(q) + len(a) for q, a in ROWS))]


def test_a_mask_in_bfloat16_counts_every_token():
    "FSDP2 casts what a policy is given, and 257 is not a number of bfloat16."
    ids, prompt_len, mask = pad_rows([([5], [6]*257), ([5, 6], [7]*258)], 0)
    at = layout_of(ids, prompt_len, mask.bfloat16(), packed=True)
    assert at.ids.shape == (1, 258 + 260) and at.at[0, 258] == 0 and at.pick[0] == 0 and at.pick[-1] == 258 + 258


# ---- micro-batches

HIR = hir(kl_coef=0.)

@pytest.fixture(scope='module')
def toy():
    model, tokenizer = load_policy(shipped('toy/start'))
    return model, tokenizer, load_instructions(shipped('toy/train.jsonl'))[:6], Accelerator(cpu=True)


@pytest.fixture(scope='module')
def batch(toy):
    model, tokenizer, instructions, accelerator = toy
    ctx = Context(HIR, Parts(accelerator, Policy(model), None, tokenizer, HFEngine(model, tokenizer, max_new_tokens=24)), base=3)
    return prepared(HIR.rows(instructions, ctx), ctx)


@pytest.mark.parametrize('share', [True, False])
@pytest.mark.parametrize('world', [1, 2, 3])
def test_a_budget_of_tokens_is_kept_and_shared_out_evenly(batch, world, share):
    every = torch.arange(len(batch))
    number, answer = same_prompt(batch.ids, batch.prompt_len), batch.length

    def cost(part):
        if not len(part): return 0
        if not share: return len(part)*int((batch.prompt_len + answer)[part].max())
        return len(number[part].unique())*int(batch.prompt_len[part].max()) + len(part)*int(answer[part].max())
    for tokens in (1, 100, 500, 1000, 10**6):
        parts = micro_batches(batch, every, world, 7, tokens, share)
        assert len(parts) % world == 0 and sorted(torch.cat(parts).tolist()) == every.tolist()
        assert all(cost(p) <= tokens or len(p) == 1 for p in parts)
        if tokens == 1: assert all(len(p) <= 1 for p in parts)
        if tokens == 10**6:
            assert len(parts) == world
            assert max(map(cost, parts)) < 1.5*sum(map(cost, parts))/world                       # nobody waits long
    assert sum(map(cost, micro_batches(batch, every, 1, 8, share=True))) <= sum(cost(p) for p in every.split(8))


def weights_after(toy, batch, share=True, **kw):
    policy = Policy(deepcopy(toy[0]), share=share)
    update(HIR, Parts(toy[3], policy, torch.optim.SGD(policy.parameters(), .1), toy[1], None), batch, Sizes(**kw))
    return weights_of(policy)


def weights_of(model): return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_budgets_and_sharing_do_not_change_an_update(toy, batch):
    start, reference = weights_of(toy[0]), weights_after(toy, batch, share=False, micro=1)
    assert (reference - start).abs().max() > 1e-4
    for kw in (dict(micro_tokens=150), dict(micro_tokens=10**6), dict(micro_tokens=300, share=False), dict(micro=5), dict(micro=1000)):
        assert (weights_after(toy, batch, **kw) - reference).abs().max() < 1e-6, kw


# ---- old log-probabilities and truncated responses, through whole steps

def one_step(toy, engine=HFEngine, limit=16, s=1, k=2, **rules):
    policy = Policy(deepcopy(toy[0]))
    parts = Parts(toy[3], policy, torch.optim.SGD(policy.parameters(), .1), toy[1], engine(policy.model, toy[1], max_new_tokens=limit))
    found, rows = step(hir(k=k, kl_coef=0.), parts, toy[2], s=s, rules=Rules(**rules), sizes=Sizes(micro_tokens=400))
    return weights_of(policy), found, rows


class Off(HFEngine):
    "An engine of another precision: its log-probabilities are off, and entropies it has none."
    exact = False

    def generate(self, *args, **kw):
        return [replace(r, logps=tuple(x - .01 for x in r.logps), entropies=(float('nan'),)*len(r.ids))
                for r in super().generate(*args, **kw)]


@pytest.mark.parametrize('k', [2, 0])
def test_old_log_probabilities_are_computed_again_where_the_engine_is_inexact(toy, k):
    exact, found, rows = one_step(toy, k=k)
    again, off, others = one_step(toy, Off, k=k)
    assert 'old_diff' not in found and off['old_diff'] == pytest.approx(.01, rel=1e-2)
    assert (exact - again).abs().max() < 1e-6
    assert [(r.rollout.ids, r.replay, r.source) for r in rows] == [(r.rollout.ids, r.replay, r.source) for r in others]
    assert one_step(toy, old=_recomputed, k=k)[1]['old_diff'] < 1e-5


def test_truncated_responses_by_name(toy):
    steps = {f.__name__: one_step(toy, overlong=f) for f in (kept, masked, penalised, dropped)}
    assert len({round(w.double().sum().item(), 9) for w, *_ in steps.values()}) == 4                 # four different updates
    assert .1 < steps['kept'][1]['truncated'] < 1 and steps['masked'][1]['truncated'] > 0
    for name, (_, found, rows) in steps.items():
        cut = [r for r in rows if not r.rollout.stopped]
        assert bool(cut) == (name != 'dropped') == ('dropped' not in found)
        if name != 'kept': assert not any(r.replay for r in cut)
        if name == 'penalised': assert all(r.reward == 0 for r in cut)
    found = steps['dropped'][1]                                                    # what was sampled is described, dropped or not
    assert found['dropped'] > 0 and found['truncated'] == pytest.approx(found['dropped']/found['sampled'])


def test_masked_rows_count_in_advantages_but_not_in_the_loss(toy, batch):
    learn = torch.rand(len(batch), generator=torch.Generator().manual_seed(0)) < .5
    adv = batch.extras['adv'].x.clone(); adv[~learn] = 100.                                          # whatever they hold
    silent = replace(batch, learn=learn, extras=batch.extras | dict(adv=PerToken(adv)))
    assert (weights_after(toy, silent) - weights_after(toy, replace(batch, learn=learn))).abs().max() == 0
    assert (weights_after(toy, silent) - weights_after(toy, batch)).abs().max() > 1e-4


def test_a_second_run_in_a_process_has_its_own_precision():
    "As in a notebook: the state of accelerate is one for the process."
    first = start(cpu=True)
    assert start(cpu=True).mixed_precision == 'no' and first.device.type == 'cpu'
    assert start(cpu=True, mixed_precision='bf16').mixed_precision == 'bf16'
    assert start(cpu=True).mixed_precision == 'no'


def test_attention_that_needs_a_gpu_is_not_run_before_there_is_one(monkeypatch):
    "A policy is checked on the CPU; attention with a name of flash must wait."
    def only_on_gpu(module, query, *args, **kw):
        if query.device.type == 'cpu': raise ValueError('needs a GPU')
    AttentionInterface.register('flash_stand_in', only_on_gpu)
    model, _ = load_policy(shipped('toy/start'))
    monkeypatch.setattr(type(model), 'set_attn_implementation', lambda self, name: setattr(self.config, '_attn_implementation', name))
    model.set_attn_implementation('flash_stand_in')                     # without transformers looking for its kernel
    policy = Policy(model, share=True)
    assert policy.model.config._attn_implementation == 'flash_stand_in' and not policy.why
    with pytest.raises(ValueError, match='needs a GPU'): model(input_ids=torch.tensor([[1, 2]]))


@pytest.mark.parametrize('weigh,fails', [(push, False), (spare, False), (explore, True)])
def test_entropies_that_are_asked_for_are_missed(weigh, fails):
    class Blind(HFEngine):
        "An engine that gives no entropies."
        def generate(self, *args, **kw): return [replace(r, entropies=[float('nan')]*len(r.entropies)) for r in super().generate(*args, **kw)]
    model, tokenizer = load_policy(shipped('toy/start'))
    instructions = load_instructions(shipped('toy/train.jsonl'))[:2]
    method = hir(k=0, kl_coef=0., weigh=weigh)
    def rows():
        parts = Parts(start(cpu=True), Policy(model), None, tokenizer, Blind(model, tokenizer, max_new_tokens=8))
        return method.rows(instructions, Context(method, parts, sizes=Sizes(m=2)))
    if not fails: assert rows(); return
    with pytest.raises(StepError, match='set old to auto or recompute'): rows()
