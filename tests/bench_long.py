"""How long does a check take at worst? Every kind of every suite, on texts of 100,000 characters that no answer looks like.

    python tests/bench_long.py            # all suites, some minutes
    python tests/bench_long.py ifbench    # one

Prints a line per kind: processor time in seconds on what a model gone wrong repeats most (letters, blanks, newlines, `*`,
brackets, CJK), on the worst text of all, and its name. What is loaded on first use is loaded before. The aim is 0.5 s.
"""
import sys
import time

from hir.constraints.constraint import KINDS, Constraint, kinds
from hir.constraints.verifier import check
from long_texts import PLAIN, long_texts
from test_muldimif import SAID


def constraints(kind):
    "The kind's example; of MulDimIF one constraint for each way to put it."
    if not kind.startswith('muldimif:'): return [Constraint(kind, KINDS[kind].example)]
    return [Constraint(kind, {'constraint': s.format(n='3', w='sea')}) for s in SAID[kind.split(':')[1]]]


def timed(c, text):
    start = time.process_time()
    check(c, text)
    return time.process_time() - start


def main(suite=''):
    found = []
    for kind, k in kinds().items():
        home = k.check.__module__.split('.')[-1]
        if home == 'judge' or suite not in ('', home): continue
        asked, texts = constraints(kind), long_texts(home)
        for c in asked: check(c, 'LOAD WHAT IS LOADED.'), check(c, 'and what else 😀.')
        took = {name: max(timed(c, text) for c in asked) for name, text in texts.items()}
        worst = max(took, key=took.get)
        found.append((took[worst], kind, worst))
        print(f'{kind:47}{max(took[name] for name in PLAIN):8.3f}{took[worst]:8.3f}  {worst}', flush=True)
    seconds, kind, worst = max(found)
    print(f'\n{len(found)} kinds; slowest: {kind}, {seconds:.3f} s on {worst!r}')


if __name__ == '__main__':
    if sys.argv[1:2] in (['-h'], ['--help']): print(__doc__)
    else: main(*sys.argv[1:])
