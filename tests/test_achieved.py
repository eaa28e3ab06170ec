"""`achieved` asks for what was reached: whatever it names holds for the response, and only arguments change."""
import pytest

from hir.constraints.constraint import KINDS, Constraint, kind, kinds
from hir.schema import Count, Positive
from hir.replays.rewrite import achieved, _nearest_number
from hir.constraints.verifier import check

ANSWERS = ['one', 'A dog barks. A cat, of course, sleeps!', '* one\n* two\n\n[name] *bold* **fat**\n***\nP.S. THE END',
           'word ' * 150, 'Section 1\nfirst\n\nSection 2\nsecond? "Yes" (no).\n\n***\n\nx y z']
NUMBERED = [i for i, k in kinds().items() if sum(h in (Count, Positive) for h in k.params.values()) == 1]


def test_many_kinds_have_one_number(): assert len(NUMBERED) >= 20


@pytest.mark.parametrize('id', [i for i in kinds() if not i.startswith('judge:')])
def test_what_it_names_was_reached(id):
    c = Constraint(id, kinds()[id].example)
    for answer in ANSWERS:
        if check(c, answer): continue
        new = achieved(c, answer)
        if new is None: continue
        assert check(new, answer) and new.kind == id and new.args != c.args and new.text == ''


def test_numbers_that_contradict_other_arguments_are_passed_over(monkeypatch):
    monkeypatch.setattr('hir.constraints.constraint.KINDS', dict(KINDS))
    def agree(n, low): return '' if n >= low else 'n is below low'
    @kind('demo:chars', 'Use at least {n} letters.', agree=agree)
    def chars(response, n:Positive, low:int): return len(response) >= n
    c = Constraint('demo:chars', {'n': 5, 'low': 4})
    assert _nearest_number(c, 'abcd', check).args == {'n': 4, 'low': 4} and _nearest_number(c, 'abc', check) is None


@pytest.mark.parametrize('id', NUMBERED)
def test_it_is_the_nearest_number(id):
    "No number nearer to the wanted one is satisfied."
    name = next(n for n, h in kinds()[id].params.items() if h in (Count, Positive))
    args = kinds()[id].example | {name: 5}
    try: c = Constraint(id, args)
    except ValueError: pytest.skip('5 does not go with the other arguments of the example')
    holds = lambda n, answer: n > 0 and check(Constraint(id, args | {name: n}), answer)
    for answer in ANSWERS:
        if check(c, answer): continue
        new = _nearest_number(c, answer, check)
        far = 100 if new is None else abs(new.args[name] - 5)
        assert not any(holds(5 + s*d, answer) for d in range(1, far) for s in (1, -1))
