"""IFTrain's 29 kinds: properties on random texts, very long texts, and agreement with official verdicts.

Agreement needs recorded verdicts, which are not part of this repository: see tests/test_parity.py.
Run `HIR_PARITY=<folder> pytest tests/test_iftrain.py -s` for the tables, `HIR_SLOW=1` for the long texts.
"""
from pathlib import Path

import pytest
from hypothesis import example, given, strategies as st

import hir.constraints.suites.iftrain as iftrain
from hir.constraints.constraint import KINDS, Constraint, ConstraintError, describe, kinds
from suites import (accepts_all, agrees, answers_long_texts, answers_stably, any_constraint, refused_by_name_or_works,
                    refuses_what_is_missing, table_per_kind, takes_steps_in_proportion)
from test_ifeval_props import QUICK, count, relation, texts, word
from test_parity import FOLDER, MODES, counted, listed, scored

IFTRAIN = sorted(k for k, v in KINDS.items() if v.check.__module__ == iftrain.__name__)

positive, prompt = st.integers(1, 3), st.sampled_from(['Why?', 'a\n\nb', 'The SEA is salt.'])
ARGS = dict(keyword=word, keyword1=word, keyword2=word, instruction=word, frequency=count, relation=relation,
    let_relation=relation, letter=st.sampled_from('aZs'), let_frequency=count, N=positive, n=positive, m=positive,
    n_sent=positive, n_words=positive, small_n=positive, n_start=st.integers(0, 2), n_end=st.integers(1, 4),
    first_word=word, last_word=word, prompt_to_repeat=prompt,
    phrase=st.sampled_from(['the sea is salt', 'sea salt', 'a', "don't s.a c#", '[sea] to sea']))


def test_all_kinds_are_here():
    assert len(IFTRAIN) == 29


@pytest.mark.parametrize('kind', IFTRAIN)
@QUICK
@given(data=st.data(), text=texts)
def test_any_text_gets_a_stable_bool(kind, data, text):
    answers_stably(any_constraint(data, kind, ARGS), text)


@QUICK
@given(kind=st.sampled_from(IFTRAIN), args=st.dictionaries(st.sampled_from(sorted(ARGS)),
       st.one_of(st.none(), st.integers(-2, 2), st.floats(), st.text(max_size=5), st.lists(st.text(max_size=3), max_size=2))))
@example(kind='keywords:word_once', args={'keyword': '(x'})
@example(kind='copy:repeat_phrase', args={'phrase': '* x *', 'small_n': 1})
@example(kind='copy:repeat_phrase', args={'phrase': '(a)(b) x c', 'small_n': 1})
@example(kind='last_word:last_word_sent', args={'last_word': [['a']]})
@example(kind='letters:letter_counting2', args={'letter': 'İ', 'let_frequency': 1, 'let_relation': 'at least'})
def test_arguments_are_refused_by_name_or_work(kind, args):
    refused_by_name_or_works(kind, args)


@pytest.mark.parametrize('kind', IFTRAIN)
def test_what_the_official_code_would_draw_at_random_is_refused(kind):
    refuses_what_is_missing(kind)


@pytest.mark.parametrize('kind,args', [
    ('count:count_increment_word', {'keyword1': 'Sea', 'keyword2': 'sea '}),
    ('new:copy_span_idx', {'prompt_to_repeat': 'Why?', 'n_start': 3, 'n_end': 2}),
    ('new:copy_span_idx', {'prompt_to_repeat': 'Why?', 'n_start': 4, 'n_end': 9}),
    ('length_constraints:nth_paragraph_first_word', {'num_paragraphs': 1, 'nth_paragraph': 2, 'first_word': 'sea'})])
def test_contradictory_arguments_are_refused_by_name(kind, args):
    with pytest.raises(ConstraintError) as e: Constraint(kind, args)
    named = [name for name in args if repr(name) in str(e.value)]
    assert kind in str(e.value) and len(named) >= 2, e.value


@pytest.mark.parametrize('kind', sorted(kinds()))
def test_examples_can_be_shown(kind):
    "Every kind of every suite has an example of valid arguments, and a sentence for them."
    c = Constraint(kind, KINDS[kind].example)
    assert describe(c) and set(KINDS[kind].needed) <= set(c.args)


# ---- long texts

@pytest.mark.parametrize('kind', IFTRAIN)
def test_work_grows_with_the_text(kind):
    takes_steps_in_proportion(Constraint(kind, KINDS[kind].example))


@pytest.mark.slow
def test_long_texts():
    answers_long_texts('iftrain', [Constraint(kind, KINDS[kind].example) for kind in IFTRAIN])


# ---- agreement

FILE, FLOOR = 'iftrain_cross', 0.995  # least share of equal verdicts, per mode
recorded = pytest.mark.skipif(not (Path(FOLDER or '/nowhere')/f'{FILE}.jsonl.gz').is_file(),
    reason='the environment variable HIR_PARITY names no folder of official verdicts on IFTrain')


@recorded
@pytest.mark.parametrize('mode', MODES)
def test_agreement(mode): agrees(FILE, mode, counted(FILE, mode), FLOOR, listed)


@recorded
def test_nothing_refused(): accepts_all(FILE, scored(FILE), listed)


@recorded
def test_per_kind():
    "A table per kind, and every kind is represented."
    asked = table_per_kind([r for mode in MODES for r in counted(FILE, mode)], MODES)
    assert sorted({k for k, _ in asked}) == IFTRAIN
