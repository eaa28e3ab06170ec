"""IFBench's 58 kinds: properties on random texts, very long texts, and agreement with official verdicts.

Agreement needs recorded verdicts, which are not part of this repository: see tests/test_parity.py.
Run `HIR_PARITY=<folder> pytest tests/test_ifbench.py -s` for the tables, `HIR_SLOW=1` for the long texts.
"""
from pathlib import Path

import pytest
from hypothesis import example, given, strategies as st

import hir.constraints.suites.ifbench as ifbench
from hir.constraints.constraint import KINDS, Constraint, describe
from suites import (accepts_all, agrees, answers_long_texts, answers_stably, any_constraint, refused_by_name_or_works,
                    refuses_what_is_missing, table_per_kind, takes_steps_in_proportion)
from test_ifeval_props import QUICK, count, pieces, word
from test_parity import FOLDER, MODES, accuracies, counted, listed, records, scored

IFBENCH = sorted(k for k, v in KINDS.items() if v.check.__module__ == ifbench.__name__)

positive, percent = st.integers(1, 4), st.integers(0, 100)
prompt = st.sampled_from(['Why?', 'a\n\nb', 'The SEA is salt. Is it?', ' - x'])
ARGS = dict(N=positive, n=positive, m=positive, small_n=count, percentage=percent, min_words=count, max_words=count,
    keyword=word, keyword1=word, keyword2=word, keyword3=word, keyword4=word, keyword5=word, word=word,
    reference_text=prompt, prompt_to_repeat=prompt, n_start=st.integers(0, 9), n_end=st.integers(0, 30),
    options=st.sampled_from(['yes/no', 'a), b), c)', 'this or that', 'sea, salt', '/', '"']),
    sep=st.sampled_from(['-', '...', 'SEPARATOR', '*', '\\']))

more = st.sampled_from(['?', '?!', '‽', ';', ':', '(', ')', '{[', '“', "'", '<i>', '</i>', '<em>', 'level', 'Zimbabwe\n', 'bald eagle',
    'Question 1:', '\nA) x', '14', '1800-01-01,', 'ID,Country,City,Year,Count\n', 'StudentID\tSubject\tGrade\tSemester\tScore\n',
    'ProductID,Category,Brand,Price,Stock\n', '"a"\t', '"!",', '  ', '\t', ' \n', 'ß', 'İ', '²', 'x-ray', '٣', 'ﬁ', '👩‍👩‍👧', '1️⃣', 'and', 'She/her'])
texts = st.one_of(st.text(max_size=60), st.lists(st.one_of(pieces, more), max_size=30).map(''.join),
    st.lists(st.one_of(pieces, more), max_size=30).map(' '.join))


def test_all_kinds_are_here():
    assert len(IFBENCH) == 58
    assert all(describe(Constraint(k, KINDS[k].example)) for k in IFBENCH)


@pytest.mark.parametrize('kind', IFBENCH)
@QUICK
@given(data=st.data(), text=texts)
def test_any_text_gets_a_stable_bool(kind, data, text):
    answers_stably(any_constraint(data, kind, ARGS), text)


@QUICK
@given(kind=st.sampled_from(IFBENCH), args=st.dictionaries(st.sampled_from(sorted(ARGS)),
       st.one_of(st.none(), st.integers(-2, 2), st.floats(), st.text(max_size=5), st.lists(st.text(max_size=3), max_size=2))))
@example(kind='sentence:keyword', args={'word': '(x', 'N': 1.0})
@example(kind='format:list', args={'sep': '(*'})
@example(kind='format:options', args={'options': '///'})
@example(kind='count:words_japanese', args={'N': 0})
def test_arguments_are_refused_by_name_or_work(kind, args):
    refused_by_name_or_works(kind, args)


@pytest.mark.parametrize('kind', IFBENCH)
def test_what_the_official_code_would_draw_at_random_is_refused(kind):
    refuses_what_is_missing(kind)


@given(st.lists(st.sampled_from(['', ' ', '  ', 'a', ' b', '  c']), max_size=12))
def test_blank_lines_are_left_as_by_the_official_loop(lines):
    response, slow = '\n'.join(lines), '\n'.join(lines).split('\n')
    for line in slow:
        if not line.strip(): slow.remove(line)
    assert ifbench._left_lines(response) == slow


# ---- long texts

@pytest.mark.parametrize('kind', IFBENCH)
def test_work_grows_with_the_text(kind):
    takes_steps_in_proportion(Constraint(kind, KINDS[kind].example))


@pytest.mark.slow
def test_long_texts():
    answers_long_texts('ifbench', [Constraint(kind, KINDS[kind].example) for kind in IFBENCH])


# ---- agreement

FILES = ['ifbench_llama_3b', 'cross_ifbench', 'synthetic_ifbench']
FLOOR = 0.995  # least share of equal verdicts, per file and mode
MERGED = '268' # key of a record in which seven run together
recorded = pytest.mark.skipif(not all((Path(FOLDER or '/nowhere')/f'{f}.jsonl.gz').is_file() for f in FILES),
    reason='the environment variable HIR_PARITY names no folder of official verdicts on IFBench')


def comparable(name, mode):
    "Rows that can be compared, without the merged record."
    merged = {n for n, r in enumerate(records(name)) if str(r.get('key')) == MERGED}
    return [r for r in counted(name, mode) if r[0] not in merged]


@recorded
@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('name', FILES)
def test_agreement(name, mode): agrees(name, mode, comparable(name, mode), FLOOR, listed)


@recorded
@pytest.mark.parametrize('name', FILES)
def test_nothing_refused(name): accepts_all(name, scored(name), listed)


@recorded
def test_per_kind():
    "A table per kind over all files, and every kind is represented."
    asked = table_per_kind([r for name in FILES for mode in MODES for r in comparable(name, mode)], MODES)
    assert sorted({k for k, _ in asked}) == IFBENCH
    assert all(asked[k, m] >= 15 for k in IFBENCH for m in MODES)


@recorded
@pytest.mark.parametrize('mode,ila,cla', [('strict', .2347, .2507), ('loose', .2687, .3015)])
def test_headline_accuracies(mode, ila, cla):
    "ILA and CLA over all recorded prompts of the benchmark are the official ones."
    rows = [r for r in scored('ifbench_llama_3b') if r[4] == mode]
    print(f'\n{mode}: official {accuracies(rows, 5)}, ours {accuracies(rows, 6)}')
    assert accuracies(rows, 5) == pytest.approx((ila, cla), abs=5e-5)   # the records are those
    assert accuracies(rows, 6) == pytest.approx((ila, cla), abs=5e-4)
