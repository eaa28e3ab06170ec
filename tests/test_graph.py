"Sampling over fixed buffers writes what the loop over growing ones writes; recorded it is tried in with_gpu/."
from functools import partial

import pytest
import torch

from engines import MODELS, contract, questions, stir, toy
from engines import CHECKS
from hir.policies import graph
from hir.policies.engines.hf import HFEngine
from hir.policies.generate import generate
from hir.policies.graph import FixedSampler, why_looped
from hir.policies.policy import PolicyError
from hir.policies.precision import follow, half_copy, why_uncopied
from hir.training.method import _where_inexact
from test_generate import FAMILIES, LENGTH, PROMPTS, STOP, agree, plainly, tiny

PLAIN = [f for f in FAMILIES if f not in ('falcon', 'mistral', 'gemma3_text')]
KW = dict(m=4, stop=STOP, max_new_tokens=LENGTH, generator=list(range(12)))


# ---- the same tokens

@pytest.mark.parametrize('family, sampling', [(family, {}) for family in PLAIN] + [
    ('llama', dict(temperature=.7, top_k=9)), ('llama', dict(temperature=1.4, top_p=.8)), ('llama', dict(temperature=0)),
    ('qwen3', dict(temperature=.9, top_k=20, top_p=.9))], ids=str)
def test_fixed_buffers_write_what_growing_ones_write(family, sampling):
    "Rows that end at different times, prompts of different lengths, 12 rows that become 6, 3 and fewer."
    model = tiny(family)
    ours, theirs = (f(PROMPTS, **KW | sampling) for f in (FixedSampler(model).generate, partial(generate, model)))
    agree(ours, theirs)
    for a, b in zip(ours, theirs): assert (a.drawn or [0]) == pytest.approx(b.drawn or [0], abs=1e-6) and bool(a.drawn) == bool(b.drawn)
    agree(ours, plainly(model, PROMPTS, m=4, generator=list(range(12)), **sampling))

@pytest.mark.parametrize('look', [1, 3, 8, 99])
def test_fixed_buffers_are_looked_at_now_and_then(look):
    "However often: rows are taken out, and no response changes. So many looks at numbers, and none between."
    model, looks = tiny('llama'), []
    sampler = FixedSampler(model, look=look)
    sampler.generate(PROMPTS, **KW)                                                           # makes the room
    def close_up(room, rows, own=graph._close_up): looks.append(len(rows)); own(room, rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph, '_close_up', close_up)
        ours = sampler.generate(PROMPTS, **KW)
    agree(ours, generate(model, PROMPTS, **KW))
    assert bool(looks) == (look < 99) and looks == sorted(looks, reverse=True)

@pytest.mark.parametrize('attention', ['sdpa', 'eager'])
@pytest.mark.parametrize('prompts, m', [([[5, 6]], 1), ([[5, 6], [7, 8]], 3), ([[5]], 7), (PROMPTS, 5)],
                         ids=['one row', 'one length', 'one prompt', '15 of 16 rows'])
def test_fixed_buffers_of_more_rows_than_there_are(prompts, m, attention):
    model = tiny('llama', torch.float32)                       # in float64, eager attention gives NaN for padding
    model.set_attn_implementation(attention)
    kw = KW | dict(m=m, generator=[9 + i for i in range(m*len(prompts))])
    agree(FixedSampler(model).generate(prompts, **kw), generate(model, prompts, **kw), 1e-4)

@pytest.mark.parametrize('length', [0, 1, 2, 9, 90])
def test_fixed_buffers_of_any_length(length):
    "Of 90 tokens and more the columns in view become 128."
    model, kw = tiny('qwen2'), KW | dict(max_new_tokens=length)
    agree(FixedSampler(model).generate(PROMPTS, **kw), generate(model, PROMPTS, **kw))

def test_fixed_buffers_take_seeds_or_a_generator():
    model, kw = tiny('llama'), KW | dict(generator=None)
    a, b = (f(PROMPTS, **kw | dict(generator=torch.Generator().manual_seed(3))) for f in
            (FixedSampler(model).generate, partial(generate, model)))
    agree(a, b)
    with pytest.raises(ValueError, match='3 seeds for 12'): FixedSampler(model).generate(PROMPTS, **kw | dict(generator=[1, 2, 3]))

def test_fixed_buffers_end_before_the_positions_do():
    "A row that has ended stays where it is, though others go on: a table of positions has an end."
    model = tiny('gpt2')                                                                       # 128 positions
    long, kw = [3 + i % 50 for i in range(126)], KW | dict(m=1, max_new_tokens=40, generator=[0, 1])
    stop = [generate(model, [long], **kw | dict(max_new_tokens=1, generator=[0]))[0].ids[0]]    # the long one ends at once
    ours = FixedSampler(model).generate([long, [5]], **kw | dict(stop=stop))
    agree(ours, generate(model, [long, [5]], **kw | dict(stop=stop)))
    assert len(ours[0].ids) == 1 and len(ours[1].ids) > 2

def test_fixed_buffers_with_adapters():
    peft = pytest.importorskip('peft')
    model = peft.get_peft_model(tiny('llama'), peft.LoraConfig(r=4, target_modules='all-linear', init_lora_weights=False)).double().eval()
    agree(FixedSampler(model).generate(PROMPTS, **KW), generate(model, PROMPTS, **KW))
    with model.disable_adapter(): assert why_looped(model) == why_uncopied(model) == 'its adapters are off'
    assert not why_looped(model) and not why_uncopied(model)

def test_fixed_buffers_in_16_bits():
    "Where tokens agree, so do their log-probabilities, to the precision of bfloat16."
    model, far = tiny('llama', torch.float32), []
    with torch.autocast('cpu', torch.bfloat16):
        for a, b in zip(FixedSampler(model).generate(PROMPTS, **KW), generate(model, PROMPTS, **KW)):
            n = next((i for i, (x, y) in enumerate(zip(a.ids, b.ids)) if x != y), len(b.ids))
            far += [abs(x - y) for x, y in zip(a.logps[:n], b.logps[:n])]
    assert len(far) > 50 and sum(far)/len(far) < .02


# ---- the same place

def test_fixed_buffers_stay_where_they_are(monkeypatch):
    "Whatever is sampled, as long as it fits; sizes of buckets are few."
    model, seen, sizes = tiny('llama'), set(), set()
    def step(model, room, sampling, own=graph._step):
        whole = [room.kv[0][0], room.mask, room.token, room.position, room.done, *room.said, room.u, room.at, room.t, room.ends]
        own(model, room, sampling)
        seen.add(tuple(x.data_ptr() for x in whole)); sizes.add((len(room.token), room.mask.shape[-1]))
    monkeypatch.setattr(graph, '_step', step)
    sampler = FixedSampler(model)
    sampler.generate(PROMPTS, **KW | dict(max_new_tokens=70))
    for m in (1, 2, 3, 4): sampler.generate(PROMPTS, **KW | dict(m=m, generator=list(range(3*m))))
    assert len(seen) == 1 and sampler.room.size == (12, 128, 70)
    assert {r for r, _ in sizes} <= {1, 2, 3, 4, 6, 8, 12} and {w for _, w in sizes} <= {64, 96, 128}

def test_fixed_buffers_are_given_back_where_they_are_large():
    model = tiny('llama')
    small, large = FixedSampler(model), FixedSampler(model, kept=1000)
    for s in (small, large): s.generate(PROMPTS, **KW); s.rest()
    assert small.room.bytes() > 1000 and large.room is None and large.generate(PROMPTS, **KW) == small.generate(PROMPTS, **KW)

def test_fixed_buffers_follow_weights_that_move():
    "Graphs remember addresses: after weights went elsewhere, nothing is kept."
    model = tiny('llama'); sampler = FixedSampler(model)
    sampler.generate(PROMPTS, **KW); room = sampler.room
    stir(model, .1)
    agree(sampler.generate(PROMPTS, **KW), generate(model, PROMPTS, **KW)); assert sampler.room is room
    weight = model.model.layers[0].mlp.up_proj.weight
    weight.data = weight.data.clone()*2
    agree(sampler.generate(PROMPTS, **KW), generate(model, PROMPTS, **KW)); assert sampler.room is not room

def test_fixed_buffers_forget_nan():
    model = tiny('llama'); sampler = FixedSampler(model, look=4)
    good, norm = sampler.generate(PROMPTS, **KW), model.model.norm.weight.data.clone()
    model.model.norm.weight.data.fill_(float('nan'))
    with pytest.raises(PolicyError, match='gives NaN'): sampler.generate(PROMPTS, **KW)
    with pytest.raises(PolicyError, match='empty prompt'): sampler.generate([[]])
    model.model.norm.weight.data.copy_(norm)
    assert sampler.generate(PROMPTS, **KW) == good and model.config._attn_implementation == 'sdpa'


# ---- graphs, with a stand-in: replaying one is taking the step

class Standin:
    def __init__(self, step): self.step, self.replays = step, 0
    def replay(self): self.replays += 1; self.step()

@pytest.fixture
def recording(monkeypatch):
    "A sampler on the CPU that believes it can record."
    made = []
    def recorded(step, pool): made.append(Standin(step)); return made[-1]
    monkeypatch.setattr(graph, '_graph_of', recorded)
    monkeypatch.setattr(graph, '_take_aside', lambda step, side: step())
    monkeypatch.setattr(torch.cuda, 'graph_pool_handle', lambda: (0, len(made)))
    def sampler(model, **kw):
        s = FixedSampler(model, **kw); s.record = True
        return s
    return sampler, made

def test_graphs_of_fixed_buffers_are_made_once(recording):
    make, made = recording
    model = tiny('llama'); sampler = make(model)
    agree(sampler.generate(PROMPTS, **KW), generate(model, PROMPTS, **KW))
    first = len(made)
    agree(sampler.generate(PROMPTS, **KW), generate(model, PROMPTS, **KW))
    assert first == len(made) <= 5 and all(g.replays for g in made)
    agree(sampler.generate(PROMPTS, **KW | dict(temperature=.5)), generate(model, PROMPTS, **KW | dict(temperature=.5)))
    assert len(made) > first                                                                 # sampling is part of a graph

def test_graphs_of_fixed_buffers_are_few(recording):
    "The one that was not used for longest goes."
    make, made = recording
    sampler = make(tiny('llama'), most=2)
    for temperature in (1., .9, .8): sampler.generate(PROMPTS, **KW | dict(temperature=temperature))
    assert len(made) > 2 == len(sampler.steps) and {key[2][0] for key in sampler.steps} == {.8}

def test_fixed_buffers_without_graphs_where_recording_fails(recording, monkeypatch):
    make, made = recording
    def fails(step, pool): raise RuntimeError('operation not permitted when stream is capturing\nand more')
    monkeypatch.setattr(graph, '_graph_of', fails)
    model = tiny('llama'); sampler = make(model)
    with pytest.warns(UserWarning, match='not recorded: LlamaForCausalLM: operation not permitted when stream is capturing$'):
        ours = sampler.generate(PROMPTS, **KW)
    agree(ours, generate(model, PROMPTS, **KW))
    assert sampler.why and not sampler.record


# ---- the engine

@pytest.fixture(scope='module', params=['toy', 'tied_lora', 'untied'])
def made(request):
    yield (found := contract(request.param, partial(HFEngine, graph=True)))
    found[0].close()

@pytest.mark.parametrize('check', CHECKS, ids=lambda f: f.__name__)
def test_engine_over_fixed_buffers(made, check): check(*made)

@pytest.mark.parametrize('family, why', [('mistral', 'DynamicSlidingWindowLayer'), ('gemma3_text', 'DynamicSlidingWindowLayer'),
                                         ('falcon', 'means of its own')])
def test_fixed_buffers_are_refused_with_a_reason(family, why):
    model, tokenizer = tiny(family, torch.float32), toy()[1]
    model.resize_token_embeddings(len(tokenizer))
    engine = HFEngine(model, tokenizer, max_new_tokens=8, graph=True)
    with pytest.warns(UserWarning, match=f'growing buffers: .*{why}'): ours = engine.generate(questions(), m=2, seeds=0)
    loop = HFEngine(model, tokenizer, max_new_tokens=8)
    assert [r.ids for r in ours] == [r.ids for r in loop.generate(questions(), m=2, seeds=0)] and why in engine.why and not loop.why

def test_fixed_buffers_are_chosen_by_device_and_by_setting():
    from hir.training.config import engine_of, make_config
    model, tokenizer = toy()
    for options, fixed in (('', False), ('{"graph": true}', True), ('{"graph": false}', False)):
        engine = engine_of(make_config(dict(max_new_tokens=8, engine_options=options)), model, tokenizer)
        engine.generate(questions(), m=1, seeds=0)
        assert bool(engine.fixed) == fixed and engine.copy == (None, None) and engine.exact


# ---- the copy in 16 bits

@pytest.mark.parametrize('name', ['toy', 'tied', 'untied', 'tied_lora'])
def test_copy_in_16_bits_is_the_model_rounded(name, record_property):
    "After a sync its log-probabilities are the trained model's but for rounding; what is tied is tied."
    model, tokenizer = MODELS[name]()
    engine, far = HFEngine(model, tokenizer, 24, graph=True, half=True), []
    for size in (0., .05):
        stir(model, size); engine.sync(model)
        drawn = engine.generate(questions(), m=4, seeds=[7, 8, 9, 10])
        from engines import trainers
        far.append(max((logp - torch.tensor(r.logps)).abs().mean().item() for r, (logp, _) in zip(drawn, trainers(model, drawn))))
    record_property('nats', far)
    copy = engine.copy[1]
    assert max(far) < .05 and not engine.exact and {p.dtype for p in copy.parameters()} == {torch.bfloat16}
    assert [n for n, _ in copy.named_parameters()] == [n for n, _ in model.named_parameters()]      # a tied one has one name
    assert not any(p.requires_grad for p in copy.parameters()) and {p.dtype for p in model.parameters()} == {torch.float32}
    room = engine.fixed.room
    engine.generate(questions(), m=4, seeds=0); assert engine.copy[1] is copy and engine.fixed.room is room

def test_copy_in_16_bits_is_never_an_old_one():
    "Also where nobody called sync; and where adapters are off, the model itself is asked."
    model, tokenizer = MODELS['tied_lora']()
    engine = HFEngine(model, tokenizer, 8, half=True)
    engine.generate(questions(), m=1, seeds=0)
    stir(model, .1); engine.generate(questions(), m=1, seeds=0)
    assert all(torch.equal(p.bfloat16(), q) for p, q in zip(model.parameters(), engine.copy[1].parameters()))
    with model.disable_adapter():
        off = [r.ids for r in engine.generate(questions(), m=2, seeds=0)]
        assert engine.copy == (None, None) and off == [r.ids for r in HFEngine(model, tokenizer, 8).generate(questions(), m=2, seeds=0)]

def test_old_log_probabilities_are_the_trainers_where_a_copy_samples():
    class Accelerator: mixed_precision = 'no'
    model, tokenizer = toy()
    assert [_where_inexact(HFEngine(model, tokenizer, half=h, graph=g), Accelerator) for h in (False, True) for g in (False, True)] == [
        False, False, True, True]

def test_copy_follows_in_place():
    model = toy()[0]; copy = half_copy(model)
    places = [p.data_ptr() for p in copy.parameters()]
    stir(model, .1); follow(copy, model)
    assert places == [p.data_ptr() for p in copy.parameters()] and len(places) == len(list(model.parameters()))
