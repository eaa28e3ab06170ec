"""MulDimIF: any sentence is read or refused, any text gets a bool, and verdicts equal the official ones.

The comparison with official verdicts needs records that are not part of this repository: see test_parity.py.
`HIR_PARITY=<folder> pytest tests/test_muldimif.py -s` prints the tables. A refused sentence counts as a disagreement.
"""
from collections import Counter
from functools import lru_cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, reject, settings, strategies as st

import hir.constraints.suites.muldimif as muldimif
from hir.constraints.constraint import KINDS, Constraint, ConstraintError
from hir.constraints.verifier import check, check_loose
from suites import answers_long_texts, takes_steps_in_proportion
from test_ifeval_props import texts
from test_parity import FOLDER, records

MULDIMIF = sorted(k for k, v in KINDS.items() if v.check.__module__ == muldimif.__name__)
QUICK = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))

# sentences of each kind; {n} is a number, {w} a word
SAID = {
    'Content/Keywords': ["Mention '{w}' and 'salt'", "Each line must include '{w}'", "every cell should mention the word '{w}'",
        "use '{w}' or 'sand' at least {n} times", "the word '{w}' must be avoided", "Include '{w}' in each line",
        "it includes the keyword '{w}' and avoids the keyword 'sand'", "If discussing oat/rye tea, it must include the keyword '{w}'",
        "at most {n} words, with '{w}', capitalized letters for each word, and it must end with a period", '關鍵詞「{w}」'],
    'Content/Punctuation': ['end with a period', 'Each sentence ends with a question mark', 'every paragraph ends with a semicolon',
        'table cells must not end with punctuation marks', 'bullet points end with a period', 'a period followed by a `{w}`'],
    'Content/Identifiers': ["start with the phrase '{w}'", "Each example must start with '{w}'", 'No bullet points', 'as bullet points',
        "It must start with the letter '{w}'", 'with in-text citations', 'no number points', 'in full sentences'],
    'Length/Words': ['at most {n} words', 'between {n} and 50 words', 'each cell in the table must contain at least {n} words',
        'Each entry must be exactly {n} words', "at least {n} words, no more than {n} sentences, and '{w}'", 'a short blurb', '最多{n}个字'],
    'Length/Sentences': ['at most {n} sentences', 'must be a single sentence', 'not exceeding a total of {n} sentences', '至少{n}个句子'],
    'Length/Paragraphs': ['exactly {n} paragraphs', 'not exceeding a total of {n} paragraphs', 'be a single paragraph'],
    'Format/Table': ['a table with at most {n} rows', 'If a table is used, it must have exactly {n} columns', 'a column limit of {n}',
        'a table with the columns: Name, Use', 'list at most {n} names', 'a table with "{w}," and a single column'],
    'Format/Markdown': ['Include a level {n} heading', "a level {n} heading titled '{w}'", 'use at least {n} heading levels',
        'headings must not exceed level {n}', 'must begin with a level {n} heading', 'include headings', 'organize it using heading levels',
        'use heading level {n} for each company', 'all in block quotes', 'bold text, bullet points, and use block quotes',
        'must include H1 and H{n}', 'use at least {n} block quotes'],
    'Format/Json': ['at most {n} levels', 'a nesting level of {n}'], 'Format/XML': ['at least {n} attributes'],
    'Language/English': ['all uppercase', 'each word capitalized', 'all JSON keys capitalized', 'JSON values in lowercase',
        'headings in lowercase', 'table headers in all uppercase', 'each word in table entries', 'entirely in uppercase'],
    'Language/Chinese': ['in Simplified Chinese', 'must use Traditional Chinese', 'use some Traditional Chinese characters',
        'translate the text into Simplified Chinese', 'Include the phrase "{w}"']}
words = st.sampled_from(['sea', 'Salt', 'C++', '(x', '海', 'p', '*', '.', 'a b', 'É'])
numbers = st.sampled_from(['0', '1', '2', '3', 'two', 'ten', '1,000'])
layouts = st.sampled_from(['| Name | Use |\n|---|---|\n| a | sea. |\n|b|', '|', '||\n||\n||', '- a\n- sea.', '1. A: b. c\n2. sea', '{"entry": "sea", "k": [1]}',
    '[[1], {}]', '[', '# Sea\n## sea\n#x', '> q\n> r', '```json\n{"a": 1}\n```', '```json', '```xml\n<a b="1">\n```', '```xml', '<a b="1" c=\'\'/>', '**a** __b__',
    '---', '***\nsea\n---\n', 'A B. C! 。', '这個', '“x”', '[1] (Sea, 1999)'])
responses = st.one_of(texts, st.lists(st.one_of(layouts, texts), max_size=4).map('\n'.join))


def test_all_kinds_are_here():
    assert MULDIMIF == sorted(f'muldimif:{t}' for t in muldimif._TYPES) == sorted(f'muldimif:{t}' for t in SAID)


@pytest.mark.parametrize('type', SAID)
@QUICK
@given(data=st.data(), text=responses)
def test_any_text_gets_a_stable_bool(type, data, text):
    sentence = data.draw(st.sampled_from(SAID[type])).format(n=data.draw(numbers), w=data.draw(words))
    try: c = Constraint(f'muldimif:{type}', {'constraint': sentence})
    except ConstraintError: reject()                                 # 'at least 0 block quotes'
    strict, loose = check(c, text), check_loose(c, text)
    assert strict in (True, False) and loose == strict               # MulDimIF knows no loose reading
    assert (check(c, text), check_loose(c, text)) == (strict, loose)
    assert str(c) == sentence


@pytest.mark.parametrize('type', SAID)
def test_every_reading_answers_both_yes_and_no(type):
    "The sentences above are read for what they say: none but the documented ones is always or never met."
    always, never = ('in full sentences', 'not exceeding a total of 3 sentences'), ('entirely in uppercase', "Include 'sea' in each line",
        'not exceeding a total of 3 paragraphs')
    samples = [t for t in LAYOUTS if t.strip()]
    for said in SAID[type]:
        sentence = said.format(n='3', w='sea')
        oks = {check(Constraint(f'muldimif:{type}', {'constraint': sentence}), t) for t in samples}
        assert oks == {sentence not in never} if sentence in always + never else oks == {True, False}, sentence


GRID = '| Name | Use | sea |\n|---|---|---|\n' + '| a b | sea. | c |\n'*3
LAYOUTS = ['The sea is salt.', 'sea', 'sea?', 'Sea; salt and sand, sea sea sea.', 'sea\n\nb\n\nc', 'A. B! C? D.', 'word '*60, 'SEA SALT.', 'The Sea, Salt.',
    'oat tea', GRID, GRID + '| a | b | c |', '| Name |\n|---|\n| a |', '|a|b|c|\n|-|-|-|\n|a b c|d e f|g|', '|NAME|\n|---|\n|Use|', '|sea|\n|---|\n|Sea|', '# Sea\n## Salt\n### Sand', '## sea',
    '### sea', '### Sea\n# a', '> a\n> b\n> c', '> **a**\n> - b\n- b', '> a\nb', '**a**\n- b\n> c', '- a.\n- b', '- sea a b', '1. a', '[1] done', 'Sea;\nsalt;', '|a|b|c|d|\n|-|-|-|-|', '{"sea": "salt"}', '{"Sea": "Salt"}', '{"entry": "a b c"}', '[[[1]]]',
    '[[[[1]]]]', '[1]', '{"a": "b c d e"}', '<a b="1"/>', '<a b="1" c="2" d="3">', 'a~', 'a.sea', '盐海', '這是鹽', '海海海海海', '句。子.', '关键sea', 'x'*300, 'Sea Is. Blue.', 'sea salt. b. c. d.', 'a b c']


@QUICK
@given(type=st.sampled_from(sorted(SAID)), sentence=st.one_of(st.text(max_size=30), st.sampled_from(['{', '{0}', "'", '""', '1'*5000 + ' words at most',
       'at most ' + '9'*5000 + ' words', 'Please be kind', 'at most', 'words', "''", '\ud800', '²'])), text=responses)
@example(type='Length/Words', sentence='at most ' + '9'*5000 + ' words', text='a')
def test_a_sentence_is_read_or_refused_by_name(type, sentence, text):
    try: c = muldimif.muldimif(*type.split('/'), sentence)
    except ConstraintError as e: assert f'muldimif:{type}' in str(e)
    else: assert check(c, text) in (True, False)


@pytest.mark.parametrize('type', SAID)
def test_what_no_rule_covers_is_an_error(type):
    for sentence in ('Please be kind', 'Write like a sailor', 'The tone must be warm.'):
        with pytest.raises(ConstraintError, match=sentence): muldimif.muldimif(*type.split('/'), sentence)


def asked(type):
    "A constraint of each of its sentences."
    return [Constraint(f'muldimif:{type}', {'constraint': s.format(n='3', w='sea')}) for s in SAID[type]]


@pytest.mark.parametrize('type', SAID)
def test_work_grows_with_the_text(type):
    for c in asked(type): takes_steps_in_proportion(c)


@pytest.mark.slow
@pytest.mark.parametrize('type', SAID)
def test_long_texts(type): answers_long_texts('muldimif', asked(type))


# ---- the official verdicts

FILES = ['muldimif_borrowed_llama_3b', 'muldimif_shapes']
FLOOR = .995  # least share of equal verdicts per file; a refused sentence is a disagreement
parity = pytest.mark.skipif(not (Path(FOLDER or '/nowhere')/f'{FILES[0]}.jsonl.gz').is_file(),
    reason='the environment variable HIR_PARITY names no folder of official verdicts')


def built(pair, sentence):
    "The constraint of a raw pair such as 'Table_Row limit', or the error that refuses it."
    category, subcategory = pair.split('_', 1)
    try: return muldimif.muldimif(category, subcategory, sentence)
    except ConstraintError as e: return e


@lru_cache(maxsize=None)
def scored(name):
    "One row per constraint: (kind, sentence, official, ours, key); ours is None where the sentence is refused."
    rows = []
    for r in records(name):
        assert r['strict'] == r['loose']                         # MulDimIF knows no loose mode
        for i, (pair, args) in enumerate(zip(r['instruction_id_list'], r['kwargs'], strict=True)):
            official, response = r['strict'][i], r['response']
            if official is None or str(i) in r.get('unstable', {}): continue
            c = built(pair, args['constraint'])
            refused = isinstance(c, ConstraintError)
            kind = str(c).split(': ')[0] if refused else c.kind
            rows.append((kind, args['constraint'], official, None if refused else check(c, response), r['key']))
    return rows


@parity
@pytest.mark.parametrize('name', FILES)
def test_agreement(name):
    rows = scored(name)
    differ = [r for r in rows if r[2] != r[3]]
    share, refused = 1 - len(differ)/len(rows), sum(r[3] is None for r in rows)
    print(f'\n{name}: {len(rows)} constraints, agreement {share:.4f}, {refused} of the {len(differ)} disagreements refused')
    for r in differ: print('  ', 'refused' if r[3] is None else f'ours {r[3]}', f'official {r[2]}', r[-1], r[0], r[1])
    assert share >= FLOOR


@parity
def test_per_kind():
    asked, equal, refused = Counter(), Counter(), Counter()
    for name in FILES:
        for kind, _, official, ours, _ in scored(name):
            asked[kind] += 1; equal[kind] += official == ours; refused[kind] += ours is None
    print('\n' + f'{"kind":32}{"constraints":>12}{"refused":>9}{"agreement":>11}')
    for k in sorted(asked): print(f'{k:32}{asked[k]:>12}{refused[k]:>9}{equal[k]/asked[k]:>11.4f}')
    assert sorted(asked) == MULDIMIF
    assert all(equal[k]/asked[k] >= .98 for k in asked)
