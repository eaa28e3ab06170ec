"""What is the worst text for each kind? `python tests/bench_worst.py [KIND …]`, processor seconds for 100,000 characters.

Some 2,200 hostile texts of 8,000 characters are tried with each kind's example arguments; the four that take longest are asked
again at full length. All kinds take some twelve minutes."""
import ast
import sys

from test_safe_verdicts import ALL, hostile, least, loaded, repeated, seconds
from hir.constraints.verifier import check

def worst(kind, n=100_000):
    "(seconds, the text as before, unit, after) of the slowest."
    found = []
    for c in loaded(kind):
        took = {name: seconds(check, c, text) for name, text in hostile(8000).items()}
        for name in sorted(took, key=took.get)[-4:]:
            before, unit, after = ast.literal_eval(f'({name})')
            found.append((least(check, c, before + repeated(unit, n) + after), name))
    return max(found)


if __name__ == '__main__':
    for kind in sys.argv[1:] or ALL:
        time, name = worst(kind)
        print(f'{time:6.3f} s  {kind:45} {name}', flush=True)
