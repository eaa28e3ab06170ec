"The tutorials are what they promise: one question, figures with a text, a prediction, exercises whose tests can fail."
import ast, json, re
from dataclasses import replace

import pytest

from checkout import ROOT

BOOKS = sorted((ROOT/'nbs'/'tutorials').glob('*.ipynb'))
TESTS = re.compile(r'\b(?:test_eq|test_close|test_fail)\(|^\s*assert ', re.M)
NAMED = [pytest.param(b, id=b.stem) for b in BOOKS]

def cells(book): return [(c['cell_type'], ''.join(c['source']), c) for c in json.loads(book.read_text(encoding='utf-8'))['cells']]
def prose(book): return [(i, s) for i, (kind, s, _) in enumerate(cells(book)) if kind == 'markdown']

def pictures(cell): return sum('image/png' in o.get('data', {}) for o in cell.get('outputs', []))

def exercises(book):
    "(statement, empty cell, announcement, solution, tests) of each exercise."
    cs = cells(book)
    return [cs[i:i + 5] for i, s in prose(book) if s.startswith('**Exercise ')]

def names_in(source):
    "Names that a solution gives a value to."
    found = [n for node in ast.parse(source).body for n in (
        [node.name] if isinstance(node, ast.FunctionDef) else
        [x.id for t in getattr(node, 'targets', []) for x in ast.walk(t) if isinstance(x, ast.Name)])]
    return [n for n in found if n != '_']


def test_they_are_seven_in_order():
    assert [b.name[:2] for b in BOOKS] == [f'{i}_' for i in range(1, 8)]

@pytest.mark.parametrize('book', NAMED)
def test_one_question(book):
    title, question = cells(book)[0][1].split('\n\n')
    assert re.fullmatch(r'# \S.*', title) and re.fullmatch(r'> \S[^\n]*\?', question), question

@pytest.mark.parametrize('book', NAMED)
def test_predict_then_run(book):
    "Each prediction is asked for just before the cell that answers it, and explained within a few cells."
    cs, asked = cells(book), [i for i, s in prose(book) if s.startswith('**Predict, then run.**')]
    assert asked
    for i in asked:
        assert cs[i + 1][0] == 'code', cs[i][1][:60]
        assert any(re.search(r'\bWhy\b', s) for kind, s, _ in cs[i + 2:i + 10] if kind == 'markdown'), cs[i][1][:60]

@pytest.mark.parametrize('book', NAMED)
def test_figures_say_in_words_what_they_show(book):
    "Three to six figures, each followed by its numbered text: the alternative for whoever cannot see it."
    cs = cells(book)
    shown = [i for i, (_, _, c) in enumerate(cs) if pictures(c)]
    assert 3 <= sum(pictures(cs[i][2]) for i in shown) == len(shown) <= 6
    for n, i in enumerate(shown, 1):
        text = cs[i + 1][1]
        assert text.startswith(f'*Figure {book.name[0]}.{n}. ') and text.endswith('*') and len(text) > 90, text[:60]

@pytest.mark.parametrize('book', NAMED)
def test_exercises_have_hint_solution_and_test(book):
    found = exercises(book)
    assert 2 <= len(found) <= 4
    for n, (asked, empty, said, solution, tests) in enumerate(found, 1):
        assert asked[1].startswith(f'**Exercise {n}. ') and '<details><summary>Hint</summary>' in asked[1] and asked[1].endswith('</details>')
        assert empty[1] == '# your answer' and said[1].startswith(f'**Solution {n}.**')
        assert solution[0] == tests[0] == 'code' and TESTS.search(tests[1]), tests[1]
        assert any(name in tests[1] for name in names_in(solution[1])), f'exercise {n}: its test does not use the answer'

@pytest.mark.parametrize('book', NAMED)
def test_they_end_with_what_to_remember(book):
    last = prose(book)[-1][1]
    assert '## What to remember' in last and last.count('\n- ') == 3
    assert '\n\nNext: [' in last or book is BOOKS[-1]

@pytest.mark.parametrize('book', [*NAMED, pytest.param(ROOT/'nbs'/'glossary.ipynb', id='glossary')])
def test_links_lead_somewhere(book):
    for _, text in prose(book):
        for target in re.findall(r'\]\(([^)\s#]+)', re.sub(r'```.*?```|`[^`\n]+`', '', text, flags=re.S)):
            if not re.match(r'[a-z]+:', target): assert (book.parent/target).resolve().exists(), f'{book.name} links to {target}'


# ---- the glossary

def terms():
    "Term → (sentence, link) of the glossary."
    rows = [re.fullmatch(r'\| \*\*(.+?)\*\*(.*?) \| (.+?) \| (.+?) \|', l) for _, s in prose(ROOT/'nbs'/'glossary.ipynb') for l in s.splitlines()]
    return {m[1].lower(): (m[3], m[4]) for m in rows if m}

def test_every_term_has_a_sentence_and_a_notebook():
    found = terms()
    assert len(found) > 50
    for term, (sentence, link) in found.items():
        assert sentence.endswith('.') and re.fullmatch(r'\[[^]]+\]\((?:[a-z]+/)+\w+\.ipynb\)', link), term

def test_terms_stand_in_the_notebook_they_name():
    for term, (_, link) in terms().items():
        book = ROOT/'nbs'/re.search(r'\((.+)\)', link)[1]
        text = ' '.join(s for _, s, _ in cells(book)).lower().replace('*', '')
        stem = re.split(r'[ ,(]', term)[0].rstrip('s')
        assert stem in text or stem.replace('-', '_') in text, f'{term!r} is not in {book.name}'


# ---- wrong answers fail

def wrong(value):
    "Something of the same sort that is no answer."
    if callable(value): return lambda *a, **k: None
    return type(value)() if isinstance(value, (str, dict)) else None

def spoilt(space, names, kinds):
    "The notebook's names with the answers spoilt; checkers that an answer registered say nothing any more."
    from hir.constraints.constraint import KINDS
    KINDS.update({i: replace(k, check=lambda response: None) for i, k in kinds.items()})
    return space | {n: wrong(space[n]) for n in names}

@pytest.mark.slow
@pytest.mark.parametrize('book', NAMED)
def test_a_wrong_answer_fails_its_test(book, monkeypatch):
    "The notebook, run once; before each test of an exercise the answers are spoilt, and the test must notice."
    from hir.constraints.constraint import KINDS
    from matplotlib import pyplot
    monkeypatch.chdir(book.parent)
    space = {'__name__': '__main__'}
    answers = {tests[1]: solution[1] for *_, solution, tests in exercises(book)}
    for kind, source, _ in cells(book):
        if kind != 'code': continue
        if source in answers.values(): known = set(KINDS)
        if source in answers:
            kinds = {i: KINDS[i] for i in set(KINDS) - known}
            with pytest.raises(Exception): exec(source, spoilt(space, names_in(answers[source]), kinds))
            KINDS.update(kinds)
        exec(source, space)
        pyplot.close('all')
