"The engine that samples in process meets the contract of engines.py, and so does one with a copy of the weights."
from copy import deepcopy

import pytest
import torch
from accelerate.state import AcceleratorState

from engines import CHECKS, MODELS, contract, questions, toy, wide
from hir.policies.engines.replica import _base_weights, _weights_of
from hir.policies.engines.vllm import VLLMEngine
from hir.training.config import engine_of, make_config
from hir.policies.generate import generate
from hir.instructions.instruction import load_instructions
from hir.policies.policy import Policy
from hir.policies.processes import start
from hir.policies.engines.hf import HFEngine
from hir.training.method import _where_inexact
from hir.training.context import _with_own_scores
from hir.files import shipped


class Copy:
    "What `VLLMEngine` drives, with our own loop in place of vLLM."
    def __init__(self, model):
        base = model.get_base_model() if hasattr(model, 'get_base_model') else model
        self.model = type(base)(base.config).eval()
    def load(self, weights): self.model.load_state_dict(dict(weights))
    def draw(self, prompts, seeds, stop, **kw): return generate(self.model, prompts, stop=stop, generator=list(seeds), **kw)
    def close(self): pass

class CopyingEngine(VLLMEngine):
    def start(self, folder, **options): return Copy(self.model)


@pytest.fixture(scope='module', params=[(HFEngine, m) for m in MODELS] + [(CopyingEngine, m) for m in ('toy', 'tied_lora')],
                ids=lambda p: f'{p[0].__name__}-{p[1]}')
def made(request):
    yield (found := contract(request.param[1], request.param[0]))
    found[0].close()


@pytest.mark.parametrize('check', CHECKS, ids=lambda f: f.__name__)
def test_contract(made, check): check(*made)


def test_the_company_changes_no_response():
    "Each alone, in small batches and all at once: the same responses."
    model, tokenizer = toy()
    whole, few = (HFEngine(model, tokenizer, 24, rows=n).generate(questions(), m=3, seeds=[7, 8, 9, 10]) for n in (99, 3))
    alone = [r for q, s in zip(questions(), [7, 8, 9, 10]) for r in HFEngine(model, tokenizer, 24).generate([q], 3, [s])]
    assert [r.ids for r in whole] == [r.ids for r in few] == [r.ids for r in alone]


def test_exact_means_float32_and_up():
    model, tokenizer = toy()
    engine, said = HFEngine(model, tokenizer), []
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        model.to(dtype); said.append(engine.exact)
    assert said == [True, True, False, False]


@pytest.fixture
def mixed():
    "An accelerator in mixed precision, which accelerate knows once per process."
    AcceleratorState._reset_state(reset_partial_state=True)
    yield start(cpu=True, mixed_precision='bf16')
    AcceleratorState._reset_state(reset_partial_state=True)

@pytest.mark.parametrize('name', ['toy', 'tied'])
def test_in_mixed_precision_it_computes_as_the_trainer_does(name, mixed, record_property):
    "Near enough for sampling, not for the ratio: so old log-probabilities are scored again."
    model, tokenizer = MODELS[name]()
    policy = mixed.prepare(Policy(model))
    model, asked, far = mixed.unwrap_model(policy).model, load_instructions(shipped('toy/heldout.jsonl'))[:16], {}
    for precision in ('no', 'bf16'):
        engine = engine_of(make_config(dict(mixed_precision=precision, max_new_tokens=24)), model, tokenizer)
        away = [abs(x - y) for r in _with_own_scores(engine.generate(asked, 4, 0), policy, mixed, 0, micro=16)
                for x, y in zip(r.logps, r.engine_logps)]
        far[precision] = sum(away)/len(away)
        assert engine.exact == (precision == 'no') and _where_inexact(engine, mixed)
    record_property('nats', far)
    assert 0 < far['bf16'] < far['no']/2


def test_the_toy_with_wide_heads_is_the_toy():
    "So that what vLLM's CPU build samples from it is worth something."
    a, b = toy()[0], wide()[0]
    ids = torch.arange(200)[None] % 203
    assert b.config.head_dim == 2*a.config.head_dim
    with torch.no_grad(): assert torch.allclose(a(ids).logits, b(ids).logits, atol=1e-4)

def test_adapters_are_merged_on_the_way_or_left_out():
    pytest.importorskip('peft')
    model, _ = MODELS['tied_lora']()
    ids, before = torch.arange(9)[None], deepcopy(model.state_dict())
    plain = type(model.get_base_model())(model.config).eval()
    with torch.no_grad():
        for weights, expect in ((_weights_of(model), model(ids).logits), (_base_weights(model), None)):
            plain.load_state_dict(dict(weights))
            if expect is None:
                with model.disable_adapter(): expect = model(ids).logits
            assert torch.allclose(plain(ids).logits, expect, atol=1e-5)
    assert all(torch.equal(w, before[k]) for k, w in model.state_dict().items())
