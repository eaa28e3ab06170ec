"""What is the worst text for each kind? `python tests/bench_worst.py [KIND …]`, processor seconds for 100,000 characters.

Some 2,200 hostile texts of 8,000 characters are tried with each kind's example arguments; the four that take longest are asked
again at full length. Each reading is tried where it has a check of its own. All kinds take some twenty minutes.
"""
import ast
import sys

from test_safe_verdicts import ALL, hostile, least, loaded, readings, repeated, seconds
from hir.constraints.verifier import check

def worst(kind, reading, n=100_000):
    "(seconds, the text as before, unit, after) of the slowest."
    found = []
    for c in loaded(kind):
        took = {name: seconds(check, c, text, reading) for name, text in hostile(8000).items()}
        for name in sorted(took, key=took.get)[-4:]:
            before, unit, after = ast.literal_eval(f'({name})')
            found.append((least(check, c, before + repeated(unit, n) + after, reading), name))
    return max(found)


if __name__ == '__main__':
    found = []
    for kind in sys.argv[1:] or ALL:
        for reading in readings(kind):
            time, name = worst(kind, reading)
            found.append((time, kind, reading))
            print(f'{time:6.3f} s  {reading:8} {kind:45} {name}', flush=True)
    print('{} checks; slowest: {:.3f} s, {}, {}'.format(len(found), *max(found)))
