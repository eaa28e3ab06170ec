"""`hir eval --suite`: responses that official scripts can read, the verdicts of `hir verify`, and files that go on after any stop."""
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from hir.cli import main
from hir.files import DataError, write_jsonl
from hir.instructions.scoring import score_file
from hir.evaluation.suite import differences, folder_of, _response_line, questions, read_scored, run_suite
from hir.files import repaired
from hir.files import shipped
from test_parity import FOLDER

HERE = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))

IFEVAL = [{'key': 1, 'prompt': 'Describe the sea without commas.', 'instruction_id_list': ['punctuation:no_comma'], 'kwargs': [{}]},
          {'key': 2, 'prompt': 'Use 3 words or more.', 'instruction_id_list': ['length_constraints:number_words', 'punctuation:no_comma'],
           'kwargs': [{'relation': 'at least', 'num_words': 3}, {}]}]
IFBENCH = [{'key': '0', 'prompt': 'Give 3 numbers.', 'instruction_id_list': ['count:numbers'], 'kwargs': [{'N': 3.0, 'keyword1': None}]}]
MULDIMIF = [{'id': '7', 'conversations': [{'role': 'user', 'content': 'Why? Use at most 9 words.'}],
             'constraints': [['Length', 'Words', 'Use at most 9 words']], 'constraint_pattern': 'Listing', 'difficulty': 'Level 1'}]
FILES = {'ifeval': IFEVAL, 'ifbench': IFBENCH, 'muldimif': MULDIMIF}


class Said:
    "An engine that says what it is told to; it counts the prompts it is asked."
    def __init__(self, say): self.say, self.asked, self.closed = say, 0, False

    def generate(self, instructions, m, seeds, **sampling):
        assert len(seeds) == len(instructions)
        self.asked += len(instructions)
        return [SimpleNamespace(response=self.say(q, f'{seed} {j}')) for q, seed in zip(instructions, seeds) for j in range(m)]
    def close(self): self.closed = True


def never(): raise AssertionError('an engine was made, though all is answered')


def data_file(tmp_path, suite, records=None):
    path = tmp_path/f'{suite}.{"json" if suite == "muldimif" else "jsonl"}'
    if suite == 'muldimif': path.write_text(json.dumps(records or FILES[suite]))
    else: write_jsonl(path, records or FILES[suite])
    return path


def hir(*words):
    "The command's exit status."
    try: return main(list(map(str, words)))
    except SystemExit as e: return e.code


def verified(tmp_path, suite, data, file):
    "The report of `hir verify` on the responses of a suite."
    out, report = tmp_path/'scored.jsonl', tmp_path/'verify.json'
    words = [data, '--responses', file] if suite in ('ifeval', 'ifbench') else [file]
    reading = 'meant' if suite in ('toy', 'own') else 'official'
    assert hir('verify', *words, '-o', out, '--report', report, '--reading', reading) == 0
    return json.loads(report.read_text())


# ---- every suite, with a real model

@pytest.mark.parametrize('suite', [*FILES, 'toy'])
def test_the_command_answers_and_scores_as_hir_verify_does(tmp_path, suite, capsys):
    data = tmp_path/'toy.jsonl' if suite == 'toy' else data_file(tmp_path, suite)
    if suite == 'toy': data.write_text(''.join(open(shipped('toy/heldout.jsonl')).readlines()[:8]))
    words = ['eval', '--model', 'shipped:toy/start', '--suite', suite, '--data', data, '--responses', tmp_path/'said',
             '--max-new-tokens', 16, '--out', tmp_path/'out.json', '--cpu']
    assert hir(*words) == 0
    home = folder_of(tmp_path/'said', 'shipped:toy/start')
    file = home/f'{suite}-1.jsonl'
    found = json.loads((tmp_path/'out.json').read_text())['reports']['shipped:toy/start']
    assert found == verified(tmp_path, suite, data, file)
    if suite in ('ifeval', 'ifbench'): assert [sorted(line) for line in repaired(file)] == [['prompt', 'response']]*len(FILES[suite])
    if suite == 'muldimif':
        listed = json.loads((home/'muldimif-1.json').read_text())
        assert [m['role'] for m in listed[0]['conversations']] == ['user', 'assistant'] and listed[0]['difficulty'] == 'Level 1'
        assert listed[0]['conversations'][1]['content'] == repaired(file)[0]['response']


def test_prompts_reach_the_model_as_they_stand(tmp_path):
    seen = []
    for suite in FILES:
        run_suite(lambda: Said(lambda q, tag: seen.append(q.prompt) or 'x'), questions(suite, data_file(tmp_path, suite)), tmp_path/suite, {})
    assert seen == [r['prompt'] for r in IFEVAL + IFBENCH] + [MULDIMIF[0]['conversations'][0]['content']]


def test_a_prompt_that_stands_twice_is_answered_once(tmp_path):
    twice = [IFEVAL[0], {**IFEVAL[0], 'key': 3, 'instruction_id_list': ['startend:quotation']}, IFEVAL[1]]
    data, engine = questions('ifeval', data_file(tmp_path, 'ifeval', twice)), Said(lambda q, tag: f'"{tag}"')
    scores = run_suite(lambda: engine, data, tmp_path/'said', {})
    assert engine.asked == len(repaired(tmp_path/'said'/'ifeval-1.jsonl')) == 2 and engine.closed
    assert [[list(v) for v in strict] for _, strict, _ in scores.rows.values()] == [[[True]], [[True]], [[False, True]]]


# ---- stopping and going on

@HERE
@given(data=st.data())
def test_any_cut_of_the_files_goes_on_to_the_same_files(tmp_path_factory, data):
    tmp = tmp_path_factory.mktemp('cut')
    records = [{**IFEVAL[0], 'key': i, 'prompt': f'Describe\u2028 “sea” {i}.'} for i in range(6)]
    asked, samples = questions('ifeval', data_file(tmp, 'ifeval', records)), data.draw(st.integers(1, 3))
    say = lambda q, tag: f'{q.prompt}\n{tag} \x0b ß\r\n'
    run = lambda make: run_suite(make, asked, tmp/'said', {}, samples, .5, rows=data.draw(st.integers(1, 9)))
    whole_scores = run(lambda: Said(say))
    files = [tmp/'said'/f'ifeval-{j}.jsonl' for j in range(1, samples + 1)]
    whole = [f.read_bytes() for f in files]
    for f, text in zip(files, whole): f.write_bytes(text[:data.draw(st.integers(0, len(text)))])
    left = min(f.read_bytes().count(b'\n') for f in files)
    engine = Said(say)
    assert run(lambda: engine) == whole_scores and engine.asked == len(records) - left
    assert [f.read_bytes() for f in files] == whole
    run(never)


def test_a_killed_command_goes_on(tmp_path):
    (tmp_path/'toy.jsonl').write_text(''.join(open(shipped('toy/heldout.jsonl')).readlines()[:40]))
    def words(folder): return [sys.executable, '-m', 'hir', 'eval', '--model', 'shipped:toy/start', '--suite', 'toy', '--data', tmp_path/'toy.jsonl',
                               '--responses', tmp_path/folder, '--max-new-tokens', '32', '--rows', '1', '--temperature', '1', '--cpu']
    file = folder_of(tmp_path/'killed', 'shipped:toy/start')/'toy-1.jsonl'
    process = subprocess.Popen(words('killed'), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (file.exists() and file.read_bytes().count(b'\n') >= 5): time.sleep(.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 5 <= file.read_bytes().count(b'\n') < 40, 'the command was not killed in the middle'
    for folder in ('killed', 'whole'): subprocess.run(words(folder), check=True, capture_output=True)
    assert file.read_bytes() == (folder_of(tmp_path/'whole', 'shipped:toy/start')/'toy-1.jsonl').read_bytes()


def test_other_settings_weights_or_data_are_refused(tmp_path, capsys):
    data = data_file(tmp_path, 'ifeval')
    def run(*more, model=tmp_path/'model', suite='ifeval', file=data):
        return hir('eval', '--model', model, '--suite', suite, '--data', file, '--responses', tmp_path/'said', '--max-new-tokens', 4, '--cpu', *more)
    def says(text): return text in capsys.readouterr().err
    subprocess.run(['cp', '-r', shipped('toy/start'), tmp_path/'model'], check=True)
    assert run() == 0
    assert run('--temperature', .5) == 2 and says('made with temperature 0.0, not 0.5; delete the folder, or write to another')
    assert run('--chat', '{"enable_thinking": false}') == 2 and says('made with chat')
    assert run('--temperature', 1, '--samples', 2) == 2 and says('made with')
    os.utime(tmp_path/'model'/'model.safetensors', (1, 1))
    assert run() == 2 and says('made with weights')
    assert run(model='shipped:toy/start') == 0
    other = data_file(tmp_path, 'ifeval', IFEVAL[::-1])
    assert run(model='shipped:toy/start', file=other) == 2 and says('ifeval-1.jsonl:1: is no response to record 0 of the data')


@pytest.mark.parametrize('suite, record, says', [
    ('ifeval', {'prompt': 'x'}, "data.jsonl:2: field 'instruction_id_list' is missing; the line has ['prompt']; correct the record"),
    ('ifeval', IFBENCH[0], "data.jsonl:2: field 'instruction_id_list[0]' must be a kind of ifeval, not 'count:numbers'; it fits suite ifbench"),
    ('ifbench', IFEVAL[0], 'it fits suite ifeval'), ('muldimif', IFEVAL[0], 'it fits suite ifeval'), ('toy', MULDIMIF[0], 'it fits suite muldimif'),
    ('ifeval', IFEVAL[1] | {'kwargs': [{}]}, "data.jsonl:2: field 'kwargs' must be"),
    ('ifeval', IFEVAL[1] | {'kwargs': [{'relation': 'at least'}, {}]}, "data.jsonl:2: field 'kwargs[0]': length_constraints:number_words: argument 'num_words' is missing; correct the record"),
    ('toy', {'task': 'x', 'constraints': [{'kind': 'judge:criterion', 'args': {'criterion': 'Be kind.'}}]}, 'which no rule decides; correct the record'),
    ('ifeval', [1], 'data.jsonl:2: a line must hold a JSON object')])
def test_a_file_that_does_not_fit_names_line_field_and_remedy(tmp_path, suite, record, says):
    good = {'toy': {'task': 'x', 'constraints': [{'kind': 'toy:no_comma'}]}, **{s: r[0] for s, r in FILES.items()}}[suite]
    (tmp_path/'data.jsonl').write_text(f'{json.dumps(good)}\n{json.dumps(record)}\n')
    with pytest.raises(DataError) as e: questions(suite, tmp_path/'data.jsonl')
    assert says in str(e.value), e.value


# ---- two models

def test_two_models_are_compared_in_pairs(tmp_path, capsys):
    "The second breaks a rule in every third prompt; both ways of comparing give the same numbers."
    records = [{**IFEVAL[1], 'key': i, 'prompt': f'Three words or more, {i}.'} for i in range(60)]
    data = questions('ifeval', data_file(tmp_path, 'ifeval', records))
    good = run_suite(lambda: Said(lambda q, tag: 'one two three'), data, tmp_path/'good', {})
    worse = run_suite(lambda: Said(lambda q, tag: 'one, two three' if int(q.id) % 3 == 0 else 'one two three'), data, tmp_path/'worse', {})
    found = differences(good, worse)
    assert found['ila'][0] == pytest.approx(-1/3) and found['cla'][0] == pytest.approx(-1/6)
    assert all(low < mean < high < 0 for mean, low, high in found.values())
    assert found['ila'][1:] == pytest.approx([-1/3 - .12, -1/3 + .12], abs=.03)     # 1.96·√(1/3·2/3/60)
    files = []
    for name in ('good', 'worse'):
        verified(tmp_path, 'ifeval', tmp_path/'ifeval.jsonl', tmp_path/name/'ifeval-1.jsonl')
        files.append((tmp_path/'scored.jsonl').rename(tmp_path/f'{name}.scored.jsonl'))
    assert differences(*map(read_scored, files)) == found
    assert hir('eval', '--scored', *files, '--out', tmp_path/'out.json') == 0
    assert json.loads((tmp_path/'out.json').read_text())['minus the first'][str(files[1])] == {k: list(v) for k, v in found.items()}
    assert '-0.333' in capsys.readouterr().out


# ---- recorded responses, not part of this repository

@pytest.mark.skipif(not Path(FOLDER or '/nowhere').is_dir(), reason='set HIR_PARITY to the folder of records')
@pytest.mark.parametrize('suite, name', [('ifeval', 'ifeval_llama_3b'), ('ifbench', 'ifbench_llama_3b'), ('muldimif', 'muldimif_borrowed_llama_3b')])
def test_recorded_responses_keep_their_verdicts(tmp_path, suite, name):
    with gzip.open(Path(FOLDER)/f'{name}.jsonl.gz', 'rt', encoding='utf-8') as f: rows = [json.loads(line) for line in f][:200]
    def triples(r): return [[*k.split('_', 1), a['constraint']] for k, a in zip(r['instruction_id_list'], r['kwargs'])]
    if suite == 'muldimif':
        records = [{'id': str(n), 'conversations': [{'role': 'user', 'content': r['prompt']}], 'constraints': triples(r)} for n, r in enumerate(rows)]
        keep = [n for n, record in enumerate(records) if reads(tmp_path, suite, record)]
        records, rows = [records[n] for n in keep], [rows[n] for n in keep]
    else: records = [{k: r[k] for k in ('key', 'prompt', 'instruction_id_list', 'kwargs')} for r in rows]
    data = questions(suite, data_file(tmp_path, suite, records))
    said = iter([rows[i]['response'] for i in range(len(rows))])
    scores = run_suite(lambda: Said(lambda q, tag: next(said)), data, tmp_path/'said', {})
    file = tmp_path/'said'/f'{suite}-1.jsonl'
    assert scores.report() == verified(tmp_path, suite, tmp_path/f'{suite}.jsonl', file)
    assert scores.report() == score_file(written(tmp_path, rows), tmp_path/'direct.jsonl')    # as if never taken apart


def reads(tmp_path, suite, record):
    try: return bool(questions(suite, data_file(tmp_path, suite, [record])))
    except DataError: return False


def written(tmp_path, rows):
    write_jsonl(tmp_path/'direct.in.jsonl', rows)
    return tmp_path/'direct.in.jsonl'
