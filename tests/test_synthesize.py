"""Drawn instructions: reproducible, free of contradictions, each with a response that meets it; and the set that is shipped.

The shipped set is drawn by a cell of nbs/api/17_synthesize.ipynb. If the redraw differs, a checker, a sentence or a range
has changed on purpose or by accident: find out which, and run that cell again.
"""
import random
from collections import Counter
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given, settings, strategies as st

import hir.constraints.suites.ifbench, hir.constraints.suites.ifeval, hir.constraints.suites.iftrain  # noqa: F401  register their kinds
from hir.constraints.constraint import KINDS, Constraint, ConstraintError, describe
from hir.files import DataError
from hir.instructions.instruction import load_instructions, save_instructions
from hir.instructions.synthesize import (CONFLICTS, _DRAW_ARGUMENTS, _PLANS, _REWRITABLE, _WORD_POOL, draw, draw_constraints,
                                         _go_together, load_tasks, pair_report, witness)
from hir.files import shipped
from hir.constraints.verifier import check, check_loose, verify

QUICK = settings(max_examples=25, deadline=None)
TASKS = load_tasks(shipped('tasks/tasks.jsonl'))
SHIPPED = shipped('train2000.jsonl')


@pytest.fixture(scope='module')
def train(): return load_instructions(SHIPPED)


# ---- tasks

def test_tasks_are_many_short_and_different():
    assert len(TASKS) >= 250 and len({t.lower() for t in TASKS}) == len(TASKS)
    assert all(t == t.strip() and t.endswith(('.', '?')) and t.isascii() and 3 < len(t.split()) < 50 for t in TASKS)
    openings = Counter(t.split()[0] for t in TASKS)
    assert len(openings) >= 10 and max(openings.values()) < len(TASKS)/2


def test_a_file_without_tasks_is_refused(tmp_path):
    (tmp_path/'x.jsonl').write_text('')
    with pytest.raises(DataError, match='holds no tasks'): load_tasks(tmp_path/'x.jsonl')
    (tmp_path/'x.jsonl').write_text('{"prompt": "Go."}')
    with pytest.raises(DataError, match="x.jsonl:1: field 'task' is missing"): load_tasks(tmp_path/'x.jsonl')


# ---- kinds

def test_enough_kinds_of_three_suites_that_can_be_dropped_alone():
    suites = Counter(KINDS[k].check.__module__ for k in _DRAW_ARGUMENTS)
    assert len(_DRAW_ARGUMENTS) >= 40 and set(suites) == {f'hir.constraints.suites.{s}' for s in ('ifeval', 'iftrain', 'ifbench')} and min(suites.values()) >= 10
    assert {KINDS[k].drop for k in _DRAW_ARGUMENTS} == {'yes'} and not any(KINDS[k].quotes for k in _DRAW_ARGUMENTS)
    assert set(_PLANS) <= set(_DRAW_ARGUMENTS) and set().union(*CONFLICTS) <= set(_DRAW_ARGUMENTS) and {len(pair) for pair in CONFLICTS} == {2}


@pytest.mark.parametrize('kind', sorted(_DRAW_ARGUMENTS))
def test_every_kind_has_valid_arguments_and_a_witness(kind):
    seen = set()
    for seed in range(12):
        rng = random.Random(seed)
        c = Constraint(kind, _DRAW_ARGUMENTS[kind](rng, iter(rng.sample(_WORD_POOL, len(_WORD_POOL)))))
        text = witness([c])
        assert text and check(c, text) and not check(c, ' ')
        seen.add(c)
    assert len(seen) > 1 or not KINDS[kind].params            # arguments do vary


@pytest.mark.parametrize('a,b', [('change_case:english_capital', 'change_case:english_lowercase'), ('punctuation:no_comma', 'count:punctuation'),
                                 ('startend:quotation', 'first_word:first_word_answer'), ('startend:quotation', 'format:quote_unquote'),
                                 ('punctuation:punctuation_dot', 'detectable_content:postscript'), ('format:title_case', 'change_case:english_lowercase'),
                                 ('paragraphs:paragraphs', 'format:sub-bullets'), ('keywords:start_end', 'startend:quotation')])
def test_what_the_table_excludes_has_no_witness(a, b):
    assert not _go_together([a, b]) and not _go_together([b, a])
    rng = random.Random(0)
    assert not any(witness([Constraint(k, _DRAW_ARGUMENTS[k](rng, iter(_WORD_POOL))) for k in (a, b)], tries=10) for _ in range(3))


@pytest.mark.slow
def test_every_pair_that_is_not_excluded_is_proved():
    report = pair_report()
    print(f'\n{report}')
    assert report['pairs'] == len(_DRAW_ARGUMENTS)*(len(_DRAW_ARGUMENTS) - 1)//2 == report['in conflict'] + report['proved'] + len(report['unproved'])
    assert report['unproved'] == []


def test_contradictory_arguments_have_no_witness():
    def long(n, relation='at least'): return Constraint('length_constraints:number_words', {'num_words': n, 'relation': relation})
    few = Constraint('count:lowercase_counting', {'N': 20})
    assert witness([long(30), long(60, 'less than')]) and not witness([long(60), long(30, 'less than')]) and not witness([long(100), few])
    sea = Constraint('keywords:existence', {'keywords': ['harbor']})
    assert not witness([sea, Constraint('keywords:forbidden_words', {'forbidden_words': ['harbor']})])


# ---- drawing

@QUICK
@given(seed=st.integers(0, 10**6), low=st.integers(1, 6), more=st.integers(0, 2), template=st.sampled_from([None, *_REWRITABLE]))
def test_a_drawn_instruction_can_be_met_and_reads_as_one(seed, low, more, template):
    q, = draw(TASKS, 1, seed, low=low, high=low + more, template=template)
    assert low <= len(q) <= low + more and q.task in TASKS and q.template in _REWRITABLE and template in (None, q.template)
    assert _go_together([c.kind for c in q.constraints]) and len({c.kind for c in q.constraints}) == len(q)
    text = witness(q.constraints)
    assert all(verify(q.constraints, text)) and all(verify(q.constraints, text, check_loose))
    assert q.task in q.prompt and all(describe(c).rstrip('.') in q.prompt for c in q.constraints)
    asked = [w for c in q.constraints for v in c.args.values() for w in (v if isinstance(v, list) else [v]) if w in _WORD_POOL]
    assert len(set(asked)) == len(asked) and not any(w in q.task.lower() for w in asked)


@QUICK
@given(seed=st.integers(0, 10**6), other=st.integers(0, 10**6), data=st.data())
def test_dropping_a_constraint_never_changes_the_verdict_of_another(seed, other, data):
    (q,), (p,) = (draw(TASKS, 1, s, low=4, high=6) for s in (seed, other))
    gone = data.draw(st.integers(0, len(q) - 1))
    rest = replace(q, constraints=q.constraints[:gone] + q.constraints[gone+1:])
    sentence = describe(q.constraints[gone])
    assert sentence.rstrip('.') not in rest.prompt or any(sentence.rstrip('.') in describe(c) for c in rest.constraints)
    for text in (witness(q.constraints), witness(p.constraints), q.prompt):
        for how in (check, check_loose):
            before, after = verify(q.constraints, text, how).ok, verify(rest.constraints, text, how).ok
            assert after == before[:gone] + before[gone+1:]


def test_draws_are_seeded_and_different():
    few = draw(TASKS, 15, seed=3)
    assert few == draw(TASKS, 15, seed=3) and few[:6] == draw(TASKS, 6, seed=3) and few != draw(TASKS, 15, seed=4)
    assert len({(q.task, q.constraints) for q in few}) == len({q.id for q in few}) == 15
    only = ['punctuation:no_comma', 'detectable_format:title']
    first = draw(['Go.', 'Stop.'], 2, seed=0, kinds=only, low=1, high=1)
    rest = draw(['Go.', 'Stop.'], 2, seed=0, kinds=only, low=1, high=1, exclude=first)
    assert not {(q.task, q.constraints) for q in first} & {(q.task, q.constraints) for q in rest}


def test_a_choice_of_templates_and_kinds_is_kept():
    kinds = [k for k in _DRAW_ARGUMENTS if k.startswith('count:')]
    drawn = draw(TASKS, 8, seed=1, kinds=kinds, low=2, high=3, template=('line', 'before'))
    assert {c.kind for q in drawn for c in q.constraints} <= set(kinds) and {q.template for q in drawn} <= {'line', 'before'}


@pytest.mark.parametrize('change,says', [({'kinds': ['no:such']}, "cannot draw kind 'no:such'"), ({'tasks': []}, 'no tasks'), ({'template': 'haiku'}, "no template 'haiku'"),
                                         ({'kinds': ['punctuation:no_comma', 'count:punctuation'], 'low': 2, 'high': 2}, 'had no witness; ask for fewer'),
                                         ({'tasks': ['Go.'], 'n': 3, 'kinds': ['punctuation:no_comma'], 'low': 1, 'high': 1}, 'only 1 different')])
def test_what_cannot_be_drawn_is_an_error(change, says):
    with pytest.raises(ConstraintError, match=says): draw(**({'tasks': TASKS, 'n': 1, 'seed': 0} | change))


def test_no_word_of_a_task_is_asked_for_or_forbidden():
    cs = [c for seed in range(30) for c in draw_constraints(random.Random(seed), ' '.join(_WORD_POOL[:-12]), sorted(_DRAW_ARGUMENTS), 6)]
    used = {w for c in cs for v in c.args.values() for w in (v if isinstance(v, list) else [v]) if w in _WORD_POOL}
    assert used and used <= set(_WORD_POOL[-12:])


# ---- what is shipped

def test_the_first_fifty_are_drawn_again_alike(train):
    assert train[:50] == draw(TASKS, 50, seed=17), 'a checker, a sentence or a range has changed: draw data/train2000.jsonl again'


def test_the_shipped_set_is_whole(train, tmp_path):
    assert len(train) == len({(q.task, q.constraints) for q in train}) == len({q.id for q in train}) == 2000
    assert {len(q) for q in train} == {5, 6, 7, 8} and {q.template for q in train} == set(_REWRITABLE) and {q.task for q in train} <= set(TASKS)
    assert SHIPPED.stat().st_size < 2_000_000
    save_instructions(tmp_path/'again.jsonl', train)
    assert (tmp_path/'again.jsonl').read_bytes() == SHIPPED.read_bytes()


def test_the_shipped_set_is_free_of_conflicts(train):
    assert all(frozenset((a.kind, b.kind)) not in CONFLICTS and a.kind != b.kind for q in train for a, b in combinations(q.constraints, 2))
    used = Counter(c.kind for q in train for c in q.constraints)
    assert set(used) == set(_DRAW_ARGUMENTS) and min(used.values()) >= 50


@pytest.mark.slow
def test_every_shipped_instruction_has_a_witness(train):
    for q in train: assert witness(q.constraints), q.prompt
