"Rewriting makes a success of every partial failure: a property of any response, verdict and template."
import random
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from hir.constraints.constraint import Constraint
from hir.instructions.instruction import TEMPLATES, Instruction
from hir.replays.rewrite import exact, hindsight, subset
from hir.toy.toy import TOY_DRAW, _draw_instruction, toy_witness
from hir.constraints.verifier import check, check_loose, ila, verify

WRITABLE = sorted(set(TEMPLATES) - {'verbatim'})
POOL = [  # the ways in which IFEval kinds look at a response, the quoting one among them
    Constraint('punctuation:no_comma'),
    Constraint('startend:quotation'),
    Constraint('detectable_format:title'),
    Constraint('detectable_format:json_format'),
    Constraint('keywords:existence', {'keywords': ['sea']}),
    Constraint('keywords:forbidden_words', {'forbidden_words': ['salt']}),
    Constraint('length_constraints:number_words', {'num_words': 4, 'relation': 'at least'}),
    Constraint('length_constraints:number_sentences', {'num_sentences': 2, 'relation': 'less than'}),
    Constraint('detectable_format:number_bullet_lists', {'num_bullets': 1}),
]
TEXT = st.text(alphabet='sea salt,.*-"<>[]{}\nAB!é', max_size=60) | st.sampled_from(
    ['the sea is salt', '"the sea, again."', '* one\n* two', '<<title>> sea', '{"sea": 1}'])


def promise(q, response, relabel, rng, how):
    "hindsight's promise: satisfied, in order, and nothing given away without need."
    verdict = verify(q.constraints, response, how)
    new = hindsight(q, response, relabel(verdict, rng), how)
    if not any(verdict):
        assert new is None
        return
    if new is None:   # only a quotation that no longer holds can use up everything
        assert any(c.kind == 'combination:repeat_prompt' for c in q.constraints)
        return
    assert ila(verify(new.constraints, response, how)) == 1
    kinds = [c.kind for c in q.constraints]
    assert [c.kind for c in new.constraints] == [k for k in kinds if k in {c.kind for c in new.constraints}]
    assert (new.task, new.template) == (q.task, q.template)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(picked=st.lists(st.sampled_from(POOL), min_size=1, max_size=6, unique_by=lambda c: c.kind), response=TEXT,
       template=st.sampled_from(WRITABLE), how=st.sampled_from([check, check_loose]),
       relabel=st.sampled_from([exact, subset]), seed=st.integers(0, 99), echo=st.booleans())
def test_any_ifeval_response_becomes_a_success(picked, response, template, how, relabel, seed, echo):
    q = Instruction('Write about the sea.', picked, template)
    if echo:
        again = Constraint('combination:repeat_prompt', {'prompt_to_repeat': q.prompt})
        q, response = replace(q, constraints=[*picked, again]), q.prompt + response
    promise(q, response, relabel, random.Random(seed), how)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), template=st.sampled_from(WRITABLE), relabel=st.sampled_from([exact, subset]))
def test_any_toy_response_becomes_a_success(seed, template, relabel):
    rng = random.Random(seed)
    q = replace(_draw_instruction(rng, 1, 8, tuple(TOY_DRAW)), template=template)
    honoured = [c for c in q.constraints if rng.random() < .5]
    promise(q, toy_witness(rng, honoured) or 'cats', relabel, rng, check)


@pytest.mark.parametrize('template', WRITABLE)
def test_a_dropped_sentence_leaves_no_trace(template):
    q = Instruction('Write about the sea.', POOL[:4], template)
    for keep in range(1, 16):
        ok = [bool(keep >> i & 1) for i in range(4)]
        new = replace(q, constraints=[c for c, o in zip(q.constraints, ok) if o])
        assert new.prompt == Instruction(q.task, new.constraints, template).prompt
        for c, o in zip(q.constraints, ok):
            assert (str(c).rstrip('.') in new.prompt) == o
