"""Properties of every IFEval kind, on random texts and on very long ones.

Any kind, with any arguments it accepts, answers any text with a bool, twice the same; the loose verdict is
never below the strict one; and the work does not grow faster than the text.
"""
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, example, given, reject, settings, strategies as st

import hir.constraints.suites.ifeval as ifeval
from hir.constraints.constraint import KINDS, Constraint, ConstraintError
from hir.constraints.verifier import check
from suites import answers_long_texts, answers_stably, refused_by_name_or_works, takes_steps_in_proportion

IFEVAL = sorted(k for k, v in KINDS.items() if v.check.__module__ == ifeval.__name__)
QUICK = settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))

word = st.sampled_from(['sea', 'Salt', 'a', 'C#', 'c.t', "don't", '海', 'p.s.', '#1', '"no"', 'a|b'])
count, relation = st.integers(0, 4), st.sampled_from(['at least', 'less than'])
ARGS = dict(keywords=st.lists(word, min_size=1, max_size=3), forbidden_words=st.lists(word, min_size=1, max_size=3),
    keyword=word, frequency=count, relation=relation, letter=st.sampled_from('aZ#é海'), let_frequency=count,
    let_relation=relation, language=st.sampled_from(['en', 'de', 'zh-cn']), num_sentences=count, num_paragraphs=st.integers(1, 3),
    num_words=count, nth_paragraph=st.integers(1, 3), first_word=word, num_placeholders=count,
    postscript_marker=st.sampled_from(['P.S.', 'P.P.S', 'PS:', 'P.P.S.']), num_bullets=count, num_highlights=count,
    section_spliter=st.sampled_from(['Section', 'SECTION', 'Day ', '(Part)']), num_sections=count,
    prompt_to_repeat=st.sampled_from(['Why?', 'a\n\nb']), end_phrase=word, capital_frequency=count, capital_relation=relation)

pieces = st.sampled_from(['*', '**', '***', '******', '\n', '\n\n', ' ', '-', '[', ']', '<<', '>>', '"', "'", '.', '...', ',',
    '{', '}', '```', 'P.S.', 'Section 1', 'sea', 'SALT', 'Dr.', 'A.', '1.', '!', '\r', '\u2028', '\x00', '海', 'é', '🙂', 'word'*500])
texts = st.one_of(st.text(max_size=60), st.lists(pieces, max_size=25).map(''.join))


def constraint(data, kind):
    "Any constraint of the kind; arguments that contradict each other are drawn anew."
    try: return Constraint(kind, {p: data.draw(ARGS[p]) for p in KINDS[kind].params})
    except ConstraintError: reject()


def test_all_kinds_are_here():
    assert len(IFEVAL) == 25


@pytest.mark.parametrize('kind', IFEVAL)
@QUICK
@given(data=st.data(), text=texts)
def test_any_text_gets_a_stable_bool(kind, data, text):
    answers_stably(constraint(data, kind), text)


@QUICK
@given(kind=st.sampled_from(IFEVAL), args=st.dictionaries(st.sampled_from(sorted(ARGS)),
       st.one_of(st.none(), st.integers(-2, 2), st.floats(), st.text(max_size=5), st.lists(st.text(max_size=3), max_size=2))))
@example(kind='keywords:existence', args={'keywords': ['(x']})
@example(kind='keywords:existence', args={'keywords': ['(?i)x', 'a{99999999999}']})
@example(kind='detectable_content:postscript', args={'postscript_marker': r'a\Z'})
@example(kind='detectable_format:multiple_sections', args={'section_spliter': '*', 'num_sections': 1})
def test_arguments_are_refused_by_name_or_work(kind, args):
    refused_by_name_or_works(kind, args)


FIXED = dict(keywords=['sea', 'c.t'], keyword='sea', frequency=2, forbidden_words=['sand'], letter='s', language='en', relation='at least',
    let_relation='at least', capital_relation='less than', first_word='sea', section_spliter='Section', postscript_marker='P.S.',
    end_phrase='the end', prompt_to_repeat='Why?')


@pytest.mark.parametrize('kind', IFEVAL)
def test_work_grows_with_the_text(kind):
    takes_steps_in_proportion(Constraint(kind, {p: FIXED.get(p, 2) for p in KINDS[kind].params}))


def test_a_check_that_takes_the_square_is_found(monkeypatch):
    kind = 'punctuation:no_comma'
    monkeypatch.setitem(KINDS, kind, replace(KINDS[kind], check=lambda response: any(a == ',' == b for a in response for b in response)))
    with pytest.raises(AssertionError, match='letters'): takes_steps_in_proportion(Constraint(kind))


@pytest.mark.slow
def test_long_texts():
    answers_long_texts('ifeval', [Constraint(kind, {p: FIXED.get(p, 2) for p in KINDS[kind].params}) for kind in IFEVAL])
