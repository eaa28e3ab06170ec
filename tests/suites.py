"What the tests of every verifier suite ask, written once; the suites bring their kinds, arguments and records."
import sys
from collections import Counter

import pytest

from hir.constraints.constraint import KINDS, Constraint, ConstraintError
from hir.constraints.verifier import check, check_loose
from long_texts import LONG, long_texts


def any_constraint(data, kind, args):
    "Any constraint of the kind; where the arguments contradict each other, its example."
    drawn = {p: data.draw(args[p]) for p in KINDS[kind].params}
    try: return Constraint(kind, drawn)
    except ConstraintError: return Constraint(kind, KINDS[kind].example)


def answers_stably(c, text):
    "In each reading a bool, twice the same, loose never below strict, and nothing for a blank text."
    for reading in ('meant',) if c.refused else ('official', 'meant'):
        strict, loose = check(c, text, reading), check_loose(c, text, reading)
        assert strict in (True, False) and loose >= strict
        assert (check(c, text, reading), check_loose(c, text, reading)) == (strict, loose)
        if not text.strip(): assert not loose


def refused_by_name_or_works(kind, args):
    try: c = Constraint(kind, args)
    except ConstraintError as e: assert kind in str(e)
    else: answers_stably(c, 'Any text. At all')


def refuses_what_is_missing(kind):
    "A record that leaves an argument out cannot be scored, and the error names the argument."
    args = KINDS[kind].example
    for name in KINDS[kind].needed:
        with pytest.raises(ConstraintError, match=f"'{name}' is missing"):
            Constraint(kind, {k: v for k, v in args.items() if k != name})
        with pytest.raises(ConstraintError, match=f"'{name}' must be"):
            Constraint(kind, args | {name: None})


def answers_long_texts(suite, constraints):
    "A bool for every long text. That it comes soon is shown by bench_long.py; a quadratic check would take minutes."
    for name, text in long_texts(suite).items():
        for c in constraints: assert check(c, text) in (True, False), name


def steps(c, text): return steps_of(lambda: check(c, text))

def steps_of(work):
    "How many lines of Python and calls of built-in functions some work takes; what goes on within a regular expression is not seen."
    n = 0
    def step(*_):
        nonlocal n
        n += 1
        return step
    before = sys.gettrace(), sys.getprofile()
    sys.settrace(step), sys.setprofile(lambda frame, event, arg: step() if event == 'c_call' else None)
    try: work()
    finally: sys.settrace(before[0]), sys.setprofile(before[1])
    return n


def takes_steps_in_proportion(c):
    "Twice the text, at most twice the steps and a little: the work never grows with the square of the text."
    for name, text in LONG.items():
        check(c, text[:1200])                                        # loads what is loaded on first use
        once, twice = steps(c, text[:600]), steps(c, text[:1200])
        assert twice <= 2.5*once + 300, (name, once, twice)


def agrees(name, mode, rows, floor, listed):
    "At least `floor` of the rows have the official verdict; the others are printed."
    differ = [r for r in rows if r[5] != r[6]]
    share = 1 - len(differ)/len(rows)
    print(f'\n{name} {mode}: {len(rows)} constraints, agreement {share:.4f}')
    if differ: print(listed(name, differ))
    assert share >= floor, listed(name, differ)


def accepts_all(name, rows, listed):
    "All recorded arguments are accepted, unless the official verdict is random or missing."
    refused = [r for r in rows if isinstance(r[6], ConstraintError) and r[5] is not None and r[7]]
    assert not refused, listed(name, refused)


def table_per_kind(rows, modes):
    "Print a line per kind; returns (kind, mode) → constraints asked."
    asked, equal, yes = Counter(), Counter(), Counter()
    for _, _, kind, _, mode, official, ours, _ in rows:
        asked[kind, mode] += 1
        equal[kind, mode] += official == ours
        yes[kind, mode] += official
    print('\n' + f'{"kind":45}{"asked":>6}{"met":>5}{"strict":>8}{"loose":>8}')
    for k in sorted({k for k, _ in asked}):
        shares = [equal[k, m]/asked[k, m] for m in modes]
        print(f'{k:45}{asked[k, "strict"]:>6}{yes[k, "strict"]:>5}{shares[0]:>8.4f}{shares[1]:>8.4f}')
    return asked
