"The tutorials are what they promise: one question, figures with a text, a prediction, exercises whose tests can fail."
import ast, json, re
from contextlib import contextmanager
from dataclasses import replace

import pytest

from checkout import ROOT

BOOKS = sorted((ROOT/'nbs'/'tutorials').glob('*.ipynb'))
TESTS = re.compile(r'\b(?:test_eq|test_close|test_fail)\(|^\s*assert ', re.M)
NAMED = [pytest.param(b, id=b.stem) for b in BOOKS]
SOLVED = [pytest.param(ROOT/'nbs'/'tutorials'/'solutions'/b.name, id=b.stem) for b in BOOKS]

def cells(book): return [(c['cell_type'], ''.join(c['source']), c) for c in json.loads(book.read_text(encoding='utf-8'))['cells']]
def prose(book): return [(i, s) for i, (kind, s, _) in enumerate(cells(book)) if kind == 'markdown']

def pictures(cell): return sum(bool({'image/png', 'image/svg+xml'} & set(o.get('data', {}))) for o in cell.get('outputs', []))

def printed(cell): return ''.join(t for o in cell['outputs'] for t in o.get('text', []))

def exercises(book):
    "(statement, stub, check) of each exercise; in a notebook of solutions the second is the solution."
    cs = cells(book)
    return [cs[i:i + 3] for i, s in prose(book) if s.startswith('**Exercise ')]

def names_in(source):
    "Names that a solution gives a value to."
    found = [n for node in ast.parse(source).body for n in (
        [node.name] if isinstance(node, ast.FunctionDef) else
        [x.id for t in getattr(node, 'targets', []) for x in ast.walk(t) if isinstance(x, ast.Name)])]
    return [n for n in found if n != '_']


def test_they_are_eight_in_order():
    assert [b.name[:2] for b in BOOKS] == [f'{i}_' for i in range(1, 9)]

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
def test_exercises_have_hint_stub_and_check(book):
    "Run untouched, an exercise says that it is not done, and nothing after it overwrites what a reader puts there."
    found = exercises(book)
    assert 2 <= len(found) <= 4
    for n, (asked, stub, check) in enumerate(found, 1):
        assert asked[1].startswith(f'**Exercise {n}. ') and '<details><summary>Hint</summary>' in asked[1]
        assert asked[1].endswith(f'</details>\n\nTried it? [One solution](solutions/{book.name}#Exercise-{n}).')
        assert stub[0] == check[0] == 'code' and stub[1].endswith('# your answer') and 'None' in stub[1]
        assert printed(check[2]) == 'not yet\n' and check[1].endswith("\n    print('right')") and TESTS.search(check[1]), check[1]
        assert not set(names_in(stub[1])) & {name for kind, s, _ in cells(book) if kind == 'code' and s != stub[1] for name in names_in(s)}

@pytest.mark.parametrize('solved', SOLVED)
def test_solutions_are_of_the_exercises_as_they_stand(solved):
    "Statement and check are the tutorial's; the solution gives a value to the names of the stub and is right."
    cs, book = cells(solved), solved.parent.parent/solved.name
    assert re.fullmatch(r'# \S.*: solutions\n\n> \S[^\n]*', cs[0][1]) and f'(../{book.name})' in cs[1][1]
    assert [s for _, s in prose(solved) if s.startswith('## ')] == [f'## Exercise {n}' for n in range(1, len(exercises(book)) + 1)]
    for (asked, stub, check), (said, solution, same) in zip(exercises(book), exercises(solved), strict=True):
        assert said[1] == asked[1].split('\n\n<details>')[0] and same[1] == check[1]
        assert set(names_in(stub[1])) <= set(names_in(solution[1])) and printed(same[2]).endswith('right\n')

@pytest.mark.parametrize('book', NAMED)
def test_they_end_with_what_to_remember(book):
    last = prose(book)[-1][1]
    assert '## What to remember' in last and last.count('\n- ') == 3
    assert '\n\nNext: [' in last or book is BOOKS[-1]

@pytest.mark.parametrize('book', [*NAMED, *SOLVED, pytest.param(ROOT/'nbs'/'glossary.ipynb', id='glossary')])
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

def other(value):
    "Something of the same sort that is no answer."
    import torch
    if callable(value): return lambda *a, **k: other(value(*a, **k))
    if isinstance(value, bool): return not value
    if isinstance(value, (int, float, torch.Tensor)): return 2*value + 1
    if isinstance(value, (list, tuple)) and value: return type(value)([*map(other, value[:-1]), object()])
    return type(value)() if isinstance(value, (str, dict)) and value else object()

@contextmanager
def spoilt(space, names):
    "The notebook's names with the answers spoilt, and so the checkers of constraints among them."
    from hir.constraints.constraint import KINDS
    mine = {i: k for i, k in KINDS.items() if k.check in [space[n] for n in names]}
    KINDS.update({i: replace(k, check=other(k.check)) for i, k in mine.items()})
    yield space | {n: other(space[n]) for n in names}
    KINDS.update(mine)

@pytest.mark.slow
@pytest.mark.parametrize('solved', SOLVED)
def test_a_wrong_answer_fails_its_check(solved, monkeypatch):
    "The solutions, run once; before each check the answers are spoilt, and the check must notice."
    from matplotlib import pyplot
    monkeypatch.chdir(solved.parent)
    space, book = {'__name__': '__main__'}, solved.parent.parent/solved.name
    answers = {check[1]: names_in(stub[1]) for _, stub, check in exercises(book)}
    for kind, source, _ in cells(solved):
        if kind != 'code': continue
        if source in answers:
            with spoilt(space, answers[source]) as wrong, pytest.raises(Exception): exec(source, wrong)
        exec(source, space)
        pyplot.close('all')
