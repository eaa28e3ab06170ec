"""How fast are our verdicts? Responses per second beside `lm_eval`'s IFEval scoring, one process, both warm, one run.

    python -m venv /elsewhere/lm && /elsewhere/lm/bin/pip install "lm_eval[ifeval]"     # not into the environment of hir
    NLTK_DATA=<folder with punkt> HIR_PARITY=<folder of records> python tests/bench_verify.py /elsewhere/lm/bin/python

Each scorer is a process of its own with its own packages, and both read the same records, `ifeval_llama_3b.jsonl.gz` or the
file named third. They take turns, so that a busy machine slows both; the fastest of several rounds counts, in processor time.
Loading the file is not timed, making the constraints of a record is. Without a second Python, only hir is measured.

At last come our two readings: on every file of records, the time of `meant` relative to that of `official`, turn by turn in one
process, least of the rounds: of scoring, with the making of constraints as above, and of the checks alone; and the share of
verdicts on which the readings part. The aim is 1.3 at most.

    HIR_PARITY=<folder of records> python tests/bench_verify.py --file 50000

measures the command instead: so many records made of the recorded ones, in one file and joined from two, by one process and by
two; seconds, processor seconds and the most memory of each process, with the load of the machine.
"""
import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil

ROUNDS = 7


def records(path):
    with gzip.open(path, 'rt', encoding='utf-8') as f:
        return [json.loads(line) for line in f]


def ours():
    "mode → function of a record, for hir."
    from hir.constraints.constraint import Constraint
    from hir.constraints.verifier import check_loose, verify, verify_both

    def built(r): return [Constraint(k, {a: v for a, v in kwargs.items() if v is not None})
                          for k, kwargs in zip(r['instruction_id_list'], r['kwargs'])]
    return {'strict': lambda r: list(verify(built(r), r['response'])), 'loose': lambda r: list(verify(built(r), r['response'], check_loose)),
            'strict and loose': lambda r: list(map(list, verify_both(built(r), r['response'])))}


def theirs():
    "mode → function of a record, for lm_eval."
    import langdetect
    from lm_eval.tasks.ifeval import utils
    langdetect.DetectorFactory.seed = 0       # without it verdicts, and times, change from round to round

    def asked(r): return utils.InputExample(r['key'], r['instruction_id_list'], r['prompt'], r['kwargs'])
    def strict(r): return utils.test_instruction_following_strict(asked(r), r['response']).follow_instruction_list
    def loose(r): return utils.test_instruction_following_loose(asked(r), r['response']).follow_instruction_list
    return {'strict': strict, 'loose': loose, 'strict and loose': lambda r: [strict(r), loose(r)]}


def serve(scorers, path):
    "A scorer's process: for every mode asked on standard input, one round over all records; its time and its verdicts."
    rs = records(path)
    for mode in sys.stdin:
        score, start = scorers[mode.strip()], time.process_time()
        verdicts = [score(r) for r in rs]
        print(json.dumps([time.process_time() - start, verdicts]), flush=True)


def readings(path):
    "(seconds of scoring by `official`, by `meant`, of checks alone, of those; verdicts that part, verdicts)."
    from hir.constraints.constraint import Constraint, ConstraintError
    from hir.constraints.suites.muldimif import muldimif
    from hir.constraints.verifier import check, verify

    def built(r):
        for k, kwargs in zip(r['instruction_id_list'], r['kwargs']):
            try:
                if r['suite'] == 'muldimif': c = muldimif(*k.split('_', 1), kwargs['constraint'])
                else: c = Constraint(k, {a: v for a, v in (kwargs or {}).items() if v is not None})
            except ConstraintError: continue
            if not c.refused: yield c
    rs = [r for r in records(path) if list(built(r))]
    asked = [(c, r['response']) for r in rs for c in built(r)]
    ways = {(how, reading): partial(work, reading) for how, work in {
        'scoring': lambda reading: [ok for r in rs for ok in verify(list(built(r)), r['response'], reading=reading)],
        'checks': lambda reading: [check(c, text, reading) for c, text in asked]}.items() for reading in ('official', 'meant')}
    took, said = {way: [] for way in ways}, {}
    for _ in range(ROUNDS + 1):
        for way, work in ways.items():
            start = time.process_time()
            said[way] = work()
            took[way].append(time.process_time() - start)
    part = sum(a != b for a, b in zip(said['checks', 'official'], said['checks', 'meant']))
    return *(min(times[1:]) for times in took.values()), part, len(asked)


def compare_readings(folder):
    "Print the table of the two readings."
    print(f'\n{"":37}{"scoring: official, meant, ratio":>33}{"checks alone":>28}{"part":>9}')
    rows = {p.name: readings(p) for p in sorted(Path(folder).glob('*.jsonl.gz'))}
    rows['all'] = [sum(column) for column in zip(*rows.values())]
    for name, (a, b, c, d, part, n) in rows.items():
        print(f'{name:37}' + ''.join(f'{x:11.3f} s{y:8.3f} s{y/x:7.2f}' for x, y in ((a, b), (c, d))) + f'{part/n:9.2%}', flush=True)


def made(folder, n):
    "n records in one file, and the same as prompts and responses, each prompt its own."
    recorded = records(Path(os.environ['HIR_PARITY'])/'ifeval_llama_3b.jsonl.gz')
    with open(folder/'whole.jsonl', 'w') as whole, open(folder/'ask.jsonl', 'w') as ask, open(folder/'say.jsonl', 'w') as say:
        for i in range(n):
            r = {k: v for k, v in recorded[i % len(recorded)].items() if k not in ('strict', 'loose')} | {'key': i}
            r['prompt'] += f' ({i})'
            whole.write(json.dumps(r) + '\n')
            say.write(json.dumps({'prompt': r['prompt'] + ' ', 'response': r.pop('response')}) + '\n')
            ask.write(json.dumps(r) + '\n')


def command(folder, *words):
    "(seconds, processor seconds, most MB of the command and of each of its children)."
    begun, spent, peaks = time.perf_counter(), os.times(), {}
    process = psutil.Popen([sys.executable, '-m', 'hir', 'verify', *words, '-o', 'out.scored'], cwd=folder, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        with suppress(psutil.Error):
            for p in (process, *process.children(recursive=True)): peaks[p.pid] = max(peaks.get(p.pid, 0), p.memory_info().rss/1e6)
        time.sleep(.2)
    now = os.times()
    return time.perf_counter() - begun, now[2] + now[3] - spent[2] - spent[3], [round(m) for m in peaks.values()]


def of_command(n):
    "Print what the command takes for n records."
    with tempfile.TemporaryDirectory() as folder:
        made(Path(folder), n)
        for words in ('whole.jsonl', 'whole.jsonl --workers 2', 'ask.jsonl --responses say.jsonl', 'ask.jsonl --responses say.jsonl --workers 2',
                      'whole.jsonl --workers 2 --resume auto'):
            took, cpu, most = command(folder, *words.split())
            print(f'{words:42}{took:8.1f} s{cpu:8.1f} s of processors, most MB {most}, load {os.getloadavg()[0]:.1f}', flush=True)


def started(python, name, path):
    return subprocess.Popen([python, __file__, '--serve', name, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def round_of(process, mode):
    process.stdin.write(mode + '\n')
    process.stdin.flush()
    while line := process.stdout.readline():
        if line[:1] == '[' and line[1:2].isdigit(): return json.loads(line)   # not what a library prints
    raise SystemExit('a scorer ended early; its message is above')


def main(pythons, path):
    n, scorers = len(records(path)), {name: started(python, name, path) for name, python in pythons.items()}
    print(f'{n} responses of {Path(path).name}, responses per second of one process, best of {ROUNDS} rounds after one to warm up\n')
    print(f'{"":18}' + ''.join(f'{name:>10}' for name in scorers) + f'{"ratio":>8}{"equal verdicts":>18}')
    for mode in ('strict', 'loose', 'strict and loose'):
        rounds = [{name: round_of(p, mode) for name, p in scorers.items()} for _ in range(ROUNDS + 1)]
        rate = {name: n/min(r[name][0] for r in rounds[1:]) for name in scorers}
        row = f'{mode:18}' + ''.join(f'{rate[name]:10,.0f}' for name in scorers)
        if len(scorers) == 2:
            a, b = (rounds[-1][name][1] for name in scorers)
            row += f'{rate["hir"]/rate["lm_eval"]:8.1f}{sum(x == y for x, y in zip(a, b)):12,} of {n}'
        print(row, flush=True)
    for p in scorers.values():
        p.stdin.close()
        p.wait()


if __name__ == '__main__':
    if sys.argv[1:2] == ['--serve']: serve(*({'hir': ours, 'lm_eval': theirs}[sys.argv[2]](), sys.argv[3]))
    elif sys.argv[1:2] == ['--file']: of_command(int(sys.argv[2]))
    elif sys.argv[1:2] in (['-h'], ['--help']): print(__doc__)
    else:
        pythons = {'hir': sys.executable} | ({'lm_eval': sys.argv[1]} if sys.argv[1:] else {})
        folder = os.environ.get('HIR_PARITY') or sys.exit('set HIR_PARITY to the folder of records; see --help')
        main(pythons, sys.argv[2] if sys.argv[2:] else str(Path(folder)/'ifeval_llama_3b.jsonl.gz'))
        compare_readings(folder)
