"What a GPU is told to do for a token: a count, which no clock and no machine changes."
import pytest
import torch

from hir.files import shipped
from hir.policies.generate import generate
from hir.policies.graph import FixedSampler
from hir.policies.policy import load_policy
from launches import counted, per_token

PROMPTS, KW = [[3, 5, 6, 7], [3, 9]], dict(m=2, stop=[], pad=0, generator=[1, 2, 3, 4])


def of(work):
    ran, trips = counted(work)
    return dict(ran), dict(trips)

def test_launches_are_counted_as_they_are_meant():
    x, w, some = torch.rand(4, 5), torch.rand(3, 5), torch.tensor([True, False, True, True])
    assert of(lambda: torch.nn.functional.linear(x, w)) == ({'mm': 1}, {})
    assert of(lambda: x.t()[1:].unsqueeze(0).expand(2, 4, 4)) == ({}, {})
    assert of(lambda: x.sum(-1).softmax(0).to(torch.bfloat16)) == ({'sum': 1, '_softmax': 1, 'copy_': 1}, {})
    assert of(lambda: x.max().item()) == ({'max': 1, '_local_scalar_dense': 1}, {'_local_scalar_dense': 1})
    assert of(lambda: x[some])[1] == {'nonzero': 1} and of(lambda: bool(some.any()))[1] == {'_local_scalar_dense': 1}


@pytest.fixture(scope='module')
def toy(): return load_policy(shipped('toy/start'))[0].eval()

@pytest.mark.parametrize('sampling, most', [({}, 116), (dict(temperature=.7, top_k=5), 124), (dict(temperature=.7, top_p=.9), 134),
                                            (dict(temperature=0), 108)], ids=str)
def test_launches_of_a_token_in_fixed_buffers(toy, sampling, most):
    "So many for two layers, the draw and its notes; not a single round trip but the looks, one in 8 tokens for rows and for NaN."
    fixed = FixedSampler(toy)
    with torch.no_grad(): ran, trips = per_token(lambda n: fixed.generate(PROMPTS, max_new_tokens=n, **KW | sampling))
    assert sum(ran.values()) <= most and trips == {'_local_scalar_dense': 1/8}

def test_launches_of_a_step_wait_for_nothing(toy):
    "What is recorded holds no round trip at all, and makes no tensor on another device."
    from hir.policies import graph
    steps, own = [], graph._step
    def step(*args): steps.append(counted(lambda: own(*args)))
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph, '_step', step)
        FixedSampler(toy).generate(PROMPTS, max_new_tokens=6, **KW | dict(temperature=.8, top_k=9, top_p=.9))
    assert len(steps) == 5
    for ran, trips in steps: assert not trips and not {'scalar_tensor', 'lift_fresh', 'arange'} & set(ran)

def test_launches_of_a_token_in_growing_buffers(toy):
    "The loop for a CPU looks four times."
    with torch.no_grad(): ran, trips = per_token(lambda n: generate(toy, PROMPTS, max_new_tokens=n, **KW))
    assert sum(ran.values()) <= 140 and sum(trips.values()) == 4
