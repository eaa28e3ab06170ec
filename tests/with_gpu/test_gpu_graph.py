"""Graphs write what the loop writes, on a GPU. In float64 and float32 to the token; in 16 bits as near as rounding lets them.

`HIR_WITH_GPU=cpu` rehearses on the CPU, where the steps are taken without graphs."""
import os
import sys
import warnings
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from engines import MODELS, gap, questions, stir, toy, trainers                                    # noqa: E402
from hir.policies.engines.hf import HFEngine                                                       # noqa: E402
from hir.policies.generate import generate                                                         # noqa: E402
from hir.policies.graph import FixedSampler                                                        # noqa: E402
from hir.policies.policy import PolicyError                                                        # noqa: E402
from test_generate import FAMILIES, LENGTH, PROMPTS, STOP, agree, tiny                             # noqa: E402

REHEARSAL = os.environ.get('HIR_WITH_GPU') == 'cpu'
DEVICE = 'cpu' if REHEARSAL else 'cuda'
pytestmark = pytest.mark.skipif(not (REHEARSAL or torch.cuda.is_available()), reason='no CUDA GPU is found')
KW = dict(m=4, stop=STOP, max_new_tokens=LENGTH, generator=list(range(12)))
PLAIN = [f for f in FAMILIES if f not in ('falcon', 'mistral', 'gemma3_text')]


@pytest.fixture(autouse=True)
def recorded():
    "Where recording fails, the loop goes on and warns: here that is an error."
    with warnings.catch_warnings():
        warnings.filterwarnings('error', 'sampling is not recorded')
        yield

def graphs(sampler): return sum('replay' in repr(step) for step in sampler.steps.values())

@pytest.mark.parametrize('family, sampling', [(family, {}) for family in PLAIN] + [
    ('llama', dict(temperature=.7, top_k=9)), ('llama', dict(temperature=1.4, top_p=.8)), ('llama', dict(temperature=0)),
    ('qwen3', dict(temperature=.9, top_k=20, top_p=.9))], ids=str)
def test_graphs_of_fixed_buffers_write_what_the_loop_writes(family, sampling):
    "Twice: while they are recorded, and replayed."
    model = tiny(family).to(DEVICE); sampler = FixedSampler(model)
    told = generate(model, PROMPTS, **KW | sampling)
    for _ in range(2): agree(sampler.generate(PROMPTS, **KW | sampling), told)
    assert graphs(sampler) == (0 if REHEARSAL else len(sampler.steps)) and sampler.steps

def test_graphs_of_fixed_buffers_serve_many_sizes():
    "Rows, widths and lengths that come and go, with room for four graphs."
    model = tiny('llama').to(DEVICE); sampler = FixedSampler(model, most=4)
    for m, new in ((4, 24), (1, 24), (3, 9), (4, 90), (2, 24), (7, 5)):
        kw = KW | dict(m=m, max_new_tokens=new, generator=list(range(3*m)))
        agree(sampler.generate(PROMPTS, **kw), generate(model, PROMPTS, **kw))
    assert len(sampler.steps) <= 4

def test_graphs_of_fixed_buffers_follow_the_weights():
    model = tiny('llama').to(DEVICE); sampler = FixedSampler(model)
    for _ in range(3):
        agree(sampler.generate(PROMPTS, **KW), generate(model, PROMPTS, **KW))
        with torch.no_grad():
            for p in model.parameters(): p.mul_(1.05)

def test_graphs_of_fixed_buffers_survive_nan():
    model = tiny('llama').to(DEVICE); sampler = FixedSampler(model)
    good, norm = sampler.generate(PROMPTS, **KW), model.model.norm.weight.data.clone()
    model.model.norm.weight.data.fill_(float('nan'))
    with pytest.raises(PolicyError, match='gives NaN'): sampler.generate(PROMPTS, **KW)
    model.model.norm.weight.data.copy_(norm)
    agree(sampler.generate(PROMPTS, **KW), good)

def test_graphs_of_fixed_buffers_in_autocast_keep_no_old_casts():
    "Weights that are cast within a graph are cast anew in each replay."
    model = tiny('llama', torch.float32).to(DEVICE); sampler, far = FixedSampler(model), []
    for _ in range(2):
        with torch.autocast(DEVICE, torch.bfloat16):
            for a, b in zip(sampler.generate(PROMPTS, **KW), generate(model, PROMPTS, **KW)):
                n = next((i for i, (x, y) in enumerate(zip(a.ids, b.ids)) if x != y), len(b.ids))
                far += [abs(x - y) for x, y in zip(a.logps[:n], b.logps[:n])]
        with torch.no_grad():
            for p in model.parameters(): p.mul_(1.2)
    assert len(far) > 50 and sum(far)/len(far) < .02

@pytest.mark.parametrize('name', ['toy', 'tied', 'untied', 'tied_lora'])
def test_engine_with_graphs_is_the_loop_after_every_sync(name):
    "In float32: the same responses, and log-probabilities of a fresh forward pass."
    model, tokenizer = MODELS[name](); model.to(DEVICE)
    fixed, loop = (HFEngine(model, tokenizer, 24, graph=g) for g in (True, False))
    for size in (0., .05):
        cpu = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for p in model.parameters():
                if p.requires_grad: p.add_(size*torch.randn(p.shape, generator=cpu).to(DEVICE))
        for engine in (fixed, loop): engine.sync(model)
        ours, theirs = (e.generate(questions(), m=4, seeds=[7, 8, 9, 10]) for e in (fixed, loop))
        assert [r.ids for r in ours] == [r.ids for r in theirs] and fixed.exact and not fixed.why
        assert max(abs(x - y) for a, b in zip(ours, theirs) for x, y in zip(a.logps, b.logps)) < 1e-3

def test_engine_chooses_graphs_and_a_copy_on_a_gpu():
    if REHEARSAL: pytest.skip('the choice on a CPU is another')
    model, tokenizer = toy(); model.to(DEVICE)
    engine = HFEngine(model, tokenizer, 24, autocast='bf16')
    engine.generate(questions(), m=4, seeds=0)
    assert graphs(engine.fixed) and engine.copy[1].dtype == torch.bfloat16 and model.dtype == torch.float32

def test_copy_in_16_bits_says_what_the_model_says_after_every_sync():
    model, tokenizer = toy(); model.to(DEVICE)
    engine = HFEngine(model, tokenizer, 24, graph=True, half=True)
    for size in (0., .03):
        model.cpu(); stir(model, size); model.to(DEVICE); engine.sync(model)
        drawn = engine.generate(questions(), m=4, seeds=[7, 8, 9, 10])
        on_cpu = toy()[0]; on_cpu.load_state_dict({k: v.cpu() for k, v in model.state_dict().items()})
        far = [(logp - torch.tensor(r.logps)).abs().mean().item() for r, (logp, _) in zip(drawn, trainers(on_cpu, drawn))]
        assert max(far) < .05 and gap(on_cpu, drawn) < 1
