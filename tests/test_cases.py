"""Do we judge small inputs as people mean them?

The cases are not part of this repository. Point the environment variable HIR_CASES at a folder of `*.jsonl` and run
`HIR_CASES=... pytest tests/test_cases.py`; without it the tests are skipped.

A line holds `about`, the kind of fault; `kind`, the id of a constraint with its `arguments`, or one of `READS`; a `text`, or
a `record` with constraints and a response; what is `wanted`; and what the `official` code says, where it was run.
"""
import ast
import json
import os
import time
from pathlib import Path

import pytest

from hir.constraints.constraint import Constraint, ConstraintError
from hir.constraints.judge import yes_or_no
from hir.constraints.text import sentences, words
from hir.constraints.verifier import verify, verify_both
from hir.files import DataError
from hir.instructions.benchmarks import load
from hir.instructions.scoring import constraints_in, score_file, score_record

FOLDER = os.environ.get('HIR_CASES', '')
SHAPES, JOINS = 'record shape not read', 'responses not joined'
ELSEWHERE = SHAPES, JOINS      # no verdicts of a constraint on a text

def cases(folder):
    "(where, case) for every line."
    lines = [(f'{path.stem}:{n}', json.loads(line)) for path in sorted(Path(folder).glob('*.jsonl'))
             for n, line in enumerate(path.read_text(encoding='utf-8').splitlines(), 1)]
    return [(f'{where} {case["kind"]}', case) for where, case in lines]

ALL = cases(FOLDER) if Path(FOLDER or '/nowhere').is_dir() else []
CASES = [(where, case) for where, case in ALL if not case['about'].startswith(ELSEWHERE)]

pytestmark = pytest.mark.skipif(not CASES, reason='the environment variable HIR_CASES names no folder of cases')

def of_cases(found): return pytest.mark.parametrize('case', [c for _, c in found] or [None], ids=[w for w, _ in found] or ['none'])


def of_record(case):
    "[strict, loose] of the response in a record."
    record = case['record']
    return [list(v) for v in verify_both(constraints_in(record, 'the case'), record['response'], 'meant')]

READS = {'hir.text.sentences': lambda case: len(sentences(case['text'])), 'hir.text.words': lambda case: len(words(case['text'])),
         'judge.yes_or_no': lambda case: yes_or_no(case['text']), 'verify': of_record}

OF_KINDS = [(where, case) for where, case in CASES if case['kind'] not in READS]

def verdict(case, reading, **thinking):
    return verify([Constraint(case['kind'], case['arguments'])], case['text'], reading=reading, **thinking).ok[0]


@of_cases(CASES)
def test_the_reading_meant_says_what_is_wanted(case):
    begun, said = time.process_time(), READS.get(case['kind'], lambda case: verdict(case, 'meant'))(case)
    if isinstance(case['wanted'], str): assert case['wanted'].startswith('refused') and said in (True, False)
    else: assert said == case['wanted'] and type(said) is type(case['wanted'])
    assert time.process_time() - begun < 5

@of_cases([(where, case) for where, case in OF_KINDS if 'official' in case])
def test_the_reading_official_says_what_the_official_code_says(case):
    "Of the whole text, as that code knows no traces; or it refuses what takes that code too long."
    try: said = verdict(case, 'official', thinking='keep')
    except ConstraintError: assert Constraint(case['kind'], case['arguments']).refused
    else: assert said == case['official']

@of_cases(OF_KINDS)
def test_the_reading_official_answers_or_refuses(case):
    begun, c = time.process_time(), Constraint(case['kind'], case['arguments'])
    if c.refused:
        with pytest.raises(ConstraintError, match=case['kind']): verdict(case, 'official')
    else: assert verdict(case, 'official') in (True, False)
    assert time.process_time() - begun < 5


# ---- records of the field

def from_a_file(case, tmp_path):
    "What is read from a file of the record: constraints, verdicts, or that it was read at all."
    record, path = case['record'], tmp_path/'case.jsonl'
    path.write_text(ast.literal_eval(record) if isinstance(record, str) else json.dumps(record), encoding='utf-8')
    if case['kind'] == 'verify': return [score_record(record)[mode] for mode in ('strict', 'loose')]
    if case['kind'] == 'hir verify': return 'scored' if score_file(path, tmp_path/'out.jsonl')['records'] == 1 else 'left out'
    q, = load(case['kind'].removeprefix('loader:'), path).instructions
    return 'read' if case['wanted'] == 'read' else [[c.kind, c.args] for c in q.constraints]

@of_cases([(where, case) for where, case in ALL if case['about'].startswith(SHAPES)])
def test_a_record_is_read_as_people_mean_it_or_refused(case, tmp_path):
    if case['wanted'] is not None: assert from_a_file(case, tmp_path) == case['wanted']
    else:
        with pytest.raises(DataError, match=r"case.jsonl:1: field '.+; correct the record"): from_a_file(case, tmp_path)


# ---- responses in a file of their own

def of_file(): return [(f'{path.stem}:{n}', case) for path in sorted(Path(FOLDER or '/nowhere').glob('*.jsonl'))
                       for n, case in enumerate(map(json.loads, path.read_text(encoding='utf-8').splitlines()), 1) if case['about'].startswith(ELSEWHERE[1])]

@of_cases(of_file())
def test_a_response_is_joined_to_its_prompt_and_a_missing_one_is_counted(case, tmp_path):
    ask = {'key': 1, 'prompt': 'Say hi without commas.', 'instruction_id_list': ['punctuation:no_comma'], 'kwargs': [{}]}
    for name, record in (('ask', ask), ('say', case['record'])): (tmp_path/f'{name}.jsonl').write_text(json.dumps(record) + '\n')
    found = score_file(tmp_path/'ask.jsonl', tmp_path/'out.jsonl', tmp_path/'say.jsonl', missing='fail')
    failed = case['wanted'].startswith('counted as failed')
    assert failed or case['wanted'] == 'joined'
    assert (found['records'], found['rejected'], found['missing'], found['strict']['ila']) == (1, 0, failed, not failed)
