"""Whatever a model writes gets a verdict: random texts, random arguments, both readings, no exception, the same verdict twice.

A text is made of up to 60 pieces, each said up to 50 times: letters of any script, marks of all kinds, Markdown, controls,
halves of surrogate pairs, tags of traces, words that kinds look for. Of each text three constraints are asked, by turns so
that all kinds come equally often; a third of them with arguments that are such pieces. The second time the texts come in the
opposite order, so nothing that a check remembers may matter. HIR_SLOW=1 asks for 100,000 texts, else there are 1,000.
"""
import random
import unicodedata
from typing import get_args

import pytest

from hir.constraints.constraint import KINDS, Constraint, ConstraintError
from hir.constraints.verifier import check
from bench_long import constraints
from test_safe_verdicts import ALL, BEFORE, UNITS

RANGES = [(0, 0x20), (0x20, 0x7f), (0x7f, 0x250), (0x300, 0x370), (0x370, 0x530), (0x590, 0x700), (0x900, 0xe80), (0x1000, 0x1100), (0x1780, 0x1800), (0x1e00, 0x2000), (0x2000, 0x2070), (0x20a0, 0x2c00), (0x2e00, 0x3100),
          (0x3100, 0xa000), (0xac00, 0xd7b0), (0xd800, 0xe000), (0xe000, 0xe100), (0xfe00, 0x10000), (0x10000, 0x11000), (0x1d400, 0x1d800), (0x1f000, 0x1fb00), (0xe0000, 0xe01f0), (0x10fff0, 0x110000)]
SAID = ['the sea', 'The sea is salt. ', 'Why? ', 'yes', 'My answer is yes.', 'P.S. ', 'Section 1', 'Any other questions?', '<<title>>', '[name]', '* point\n', '- one\n  - two\n', '1. one\n', '## Head\n', '**bold**', '*mark*', '***\n', '******', '\n\n', '```json\n{"a": 1}\n```', '{"a": [1, null]}',
        '| a | b |\n|---|---|\n| 1 | 2 |\n', '> quoted\n', '"All of it."', '“All.”', '「海」', '今天很好。', 'मुझे हिन्दी ', 'สวัสดี', 'e.g. ', 'Dr. Otto ', 'U.S.A. ', '3.14', '1,000', 'http://x.y', 'C++ ', '$100 ', '.NET ', ':) ', "don't ", 'well-known ', '😀', '👩‍👩‍👧', '🇫🇷',
        '<think>', '</think>', '<p class="a">', '</p>', 'Ω', 'ß', 'İ', 'ﬁ', '\u202e', '\ufeff', '\u200d', '\r\n', '\x1c', '\x85', '\u2028']

def piece(rng):
    how = rng.random()
    if how < .45: return rng.choice(SAID)
    if how < .7: return rng.choice(UNITS + BEFORE)
    low, high = rng.choice(RANGES)
    return ''.join(chr(rng.randrange(low, high)) for _ in range(rng.randint(1, 6)))

def any_text(rng):
    "Between nothing and some thousand characters."
    pieces = [piece(rng)*rng.choice((1, 1, 1, 1, 1, 2, 3, 10, 50)) for _ in range(rng.choice((0, 1, 1, 2, 3, 5, 8, 20, 60)))]
    return rng.choice(('', '', ' ', ' ', '\n', '\n\n')).join(pieces)

def takes_text(hint): return hint is str or str in get_args(hint) or any(map(takes_text, get_args(hint)))

def any_arguments(rng, c):
    "The constraint with pieces for the texts among its arguments, where it takes them."
    params, args = KINDS[c.kind].params, dict(c.args)
    for name, value in args.items():
        if isinstance(value, str): args[name] = piece(rng)
        if isinstance(value, list) and takes_text(params[name]): args[name] = [piece(rng) for _ in range(rng.randint(1, 3))]
    try: return Constraint(c.kind, args)
    except ConstraintError: return c

def verdicts(c, text):
    "The verdicts of both readings; the official one is missing where it is refused."
    return [None if reading == 'official' and c.refused else check(c, text, reading) for reading in ('official', 'meant')]

@pytest.mark.parametrize('n', [1000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_any_text_gets_the_same_verdict_twice_in_both_readings(n):
    rng, turns, asked = random.Random(n), [c for kind in ALL for c in constraints(kind)], []
    for i in range(n):
        cs = [turns[(3*i + j) % len(turns)] for j in range(3)]
        asked.append((any_text(rng), [any_arguments(rng, c) if rng.random() < 1/3 else c for c in cs]))
    first = [[verdicts(c, text) for c in cs] for text, cs in asked]
    assert all(v in (True, False, None) for vs in first for v in sum(vs, []))
    again = [[verdicts(c, text) for c in cs] for text, cs in reversed(asked)][::-1]
    parted = [(c.kind, c.args, text, a, b) for (text, cs), va, vb in zip(asked, first, again) for c, a, b in zip(cs, va, vb) if a != b]
    assert not parted, parted[:3]
    share = sum(any(sum(vs, [])) for vs in first)/n
    assert {c.kind for _, cs in asked for c in cs} == set(ALL) and .1 < share < .99

def test_the_texts_are_of_all_kinds():
    rng = random.Random(0)
    texts = [any_text(rng) for _ in range(2000)]
    seen = {unicodedata.category(c) for text in texts for c in text}
    assert seen == {'Cc', 'Cf', 'Cn', 'Co', 'Cs', 'Ll', 'Lm', 'Lo', 'Lt', 'Lu', 'Mc', 'Me', 'Mn', 'Nd', 'Nl', 'No', 'Pc', 'Pd', 'Pe', 'Pf', 'Pi', 'Po', 'Ps', 'Sc', 'Sk', 'Sm', 'So', 'Zl', 'Zp', 'Zs'}
    assert '' in texts and max(map(len, texts)) > 1000
