"""`hir verify`: any record gets verdicts or an error that names it, whatever the number of processes.

The accuracies of recorded responses need records that are not part of this repository, see test_parity.py.
"""
import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

from hir.cli import main
from hir.constraints.constraint import Constraint, KINDS, kind, kinds
from hir.files import DataError, record_in
from hir.instructions.benchmarks import load, save, save_responses
from hir.instructions.instruction import Instruction, save_instructions
from hir.instructions.scoring import _in_given_order, score_file, _score_line, score_record
from hir.constraints.verifier import CheckError, verify as verify_text
from test_parity import FOLDER

QUICK = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def record(response='The sea is salt.', **more):
    return {'key': 7, 'prompt': 'Describe the sea.', 'response': response, 'instruction_id_list':
            ['punctuation:no_comma', 'length_constraints:number_words'], 'kwargs': [{'relation': None}, {'relation': 'at least', 'num_words': 3.0}]} | more


def without(field): return {k: v for k, v in record().items() if k != field}


def written(path, *records):
    path.write_text(''.join((r if isinstance(r, str) else json.dumps(r)) + '\n' for r in records), encoding='utf-8')
    return path


def read(path): return [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()]


def verify(*words):
    "The command's exit status."
    try: return main(['verify', *map(str, words)])
    except SystemExit as e: return e.code


# ---- any record

plain = st.recursive(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
                     lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)), max_leaves=6)
ids = st.one_of(st.sampled_from(['punctuation:no_comma', 'keywords:existence', 'Length_Words', 'Mood_Warm', 'muldimif:Length/Words', 'a', '']), plain)
args = st.one_of(st.dictionaries(st.sampled_from(['keywords', 'constraint', 'relation', 'num_words']), plain, max_size=2), plain)


@QUICK
@given(st.dictionaries(st.sampled_from(['response', 'prompt', 'key']), plain), st.one_of(st.lists(ids, max_size=2), plain),
       st.one_of(st.lists(args, max_size=2), plain), st.sampled_from(['instruction_id_list', 'constraints', 'kwargs']))
@example({'response': 'a'}, [[['Length']]], [], 'constraints')
@example({'response': 'a'}, ['Length_Words'], [{'constraint': ['at most 5 words']}], 'instruction_id_list')
def test_any_record_gets_bools_or_an_error_that_says_where(rest, first, second, field):
    item = json.dumps(rest | {field: first, 'kwargs': second}).encode()
    for line in _score_line('file:3', item):
        if line.error is not None: assert isinstance(line.error, DataError) and str(line.error).startswith('file:3: '); continue
        out = json.loads(line.text)
        assert out['strict'] and all(type(ok) is bool for ok in out['strict'] + out['loose'])
        assert len(out['strict']) == len(out['loose']) == len(line.kinds)


@QUICK
@given(st.one_of(st.binary(max_size=30), plain.map(lambda v: json.dumps(v).encode()), st.just(b'{"a": ' + b'[' * 100_000)))
def test_any_line_is_a_record_or_an_error_that_says_where(line):
    try: assert isinstance(record_in(line, 'file:3'), dict)
    except DataError as e: assert str(e).startswith('file:3: ')


@QUICK
@given(st.text(max_size=60), st.dictionaries(st.sampled_from(['model', 'key', 'strict', 'note']), plain))
@example('\ud83d half a pair', {'note': '\ud83d'})
def test_other_fields_pass_through_and_verdicts_are_stable(text, more):
    before = record(text, **more)
    after = score_record(before)
    verdict = ('strict', 'loose', 'reading')
    assert {k: v for k, v in after.items() if k not in verdict} == {k: v for k, v in before.items() if k not in verdict}
    assert all(a <= b for a, b in zip(after['strict'], after['loose'])) and score_record(after) == after
    again = json.loads(_score_line('x', json.dumps(before).encode())[0].text)
    assert again == json.loads(json.dumps(after)) or any(word in json.dumps(before) for word in ('NaN', 'Infinity'))


# ---- files

def many(tmp_path, n=150):
    texts = ['The sea is salt.', 'a, b', '', 'Sure:\nno comma, here\nbye', '海\ud83d', '*a*\nb c d']
    return written(tmp_path/'many.jsonl', *(record(texts[i % 6], key=i) for i in range(n)))


@pytest.mark.parametrize('workers', [2, 3])
@pytest.mark.parametrize('bad', [(), (3, 64, 65, 149)])
def test_workers_write_what_one_process_writes(tmp_path, workers, bad):
    path = many(tmp_path)
    lines = path.read_text().splitlines()
    written(path, *('{' if i in bad else line for i, line in enumerate(lines)))
    reports = [score_file(path, tmp_path/f'out{n}.jsonl', workers=n, skip_bad=True) for n in (1, workers)]
    assert reports[0] == reports[1] and reports[0]['rejected'] == len(bad) and reports[0]['records'] == 150 - len(bad)
    for name in ('out{}.jsonl', 'out{}.rejects.jsonl'):
        assert (tmp_path/name.format(1)).read_bytes() == (tmp_path/name.format(workers)).read_bytes()
    assert [r['key'] for r in read(tmp_path/'out1.jsonl')] == [i for i in range(150) if i not in bad]


def test_packed_files_are_read_and_written(tmp_path):
    path = many(tmp_path, 20)
    (tmp_path/'many.jsonl.gz').write_bytes(gzip.compress(path.read_bytes()))
    score_file(path, tmp_path/'a.jsonl')
    score_file(tmp_path/'many.jsonl.gz', tmp_path/'b.jsonl.gz')
    assert gzip.decompress((tmp_path/'b.jsonl.gz').read_bytes()) == (tmp_path/'a.jsonl').read_bytes()


@pytest.mark.parametrize('key', ['prompt', 'key'])
def test_two_files_are_joined(tmp_path, key):
    whole = [record(f'sea {i}', key=i, prompt=f'Describe {i}.') for i in range(9)]
    asks = written(tmp_path/'ask.jsonl', *({k: v for k, v in r.items() if k != 'response'} for r in whole))
    says = written(tmp_path/'say.jsonl', *({key: r[key], 'response': r['response']} for r in reversed(whole)))
    words = ['--key', 'key'] if key == 'key' else []
    assert verify(asks, '-o', tmp_path/'out.jsonl', '--responses', says, *words) == 0
    assert sorted(read(tmp_path/'out.jsonl'), key=lambda r: r['key']) == [score_record(r) for r in whole]


def test_memory_does_not_grow_with_the_file(tmp_path):
    def peak(n):
        path = written(tmp_path/f'{n}.jsonl', *(record('word ' * 200, key=i) for i in range(n)))
        tracemalloc.start()
        score_file(path, tmp_path/'out.jsonl')
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top
    peak(50)
    assert peak(2000) < peak(200) + 300_000            # the longer file has 2 MB


def test_memory_does_not_grow_with_the_prompts(tmp_path):
    def peak(n):
        asks = written(tmp_path/'ask.jsonl', *(without('response') | {'prompt': f'{i} ' + 'word '*4000} for i in range(n)))
        says = written(tmp_path/'say.jsonl', *({'prompt': f'{i} ' + 'word '*4000, 'response': 'Salt.'} for i in range(n)))
        tracemalloc.start()
        score_file(asks, tmp_path/'out.jsonl', says)
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top
    peak(50)
    assert peak(1000) < peak(100) + 1_000_000          # the longer file has 20 MB


def test_no_model_is_loaded():
    code = "import sys, hir.instructions.scoring, hir.constraints.catalogue; print({'torch', 'transformers', 'nltk', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stdout == 'set()\n'


# ---- faults

BAD = {
    'broken line': ('{"a": ', ':2: not valid JSON'), 'not an object': ('[1]', ':2: a line must hold a JSON object'),
    'NaN': ('{"response": "a", "score": NaN, "kwargs": [{}], "instruction_id_list": ["punctuation:no_comma"]}', ":2: not valid JSON (NaN is no JSON; write null"),
    'a field twice': ('{"response": "a, b", "kwargs": [{}], "response": "a", "instruction_id_list": ["punctuation:no_comma"]}', ":2: not valid JSON (field 'response' is there twice)"),
    'no constraints named': ({'response': 'a'}, ":2: names no constraints; it needs the fields 'instruction_id_list'"),
    'no response': (without('response'), ":2: field 'response' is missing"), 'null response': (record(None), "field 'response' is null or empty; with --missing fail it counts as failed"), 'no text': (record(3), "'response' must be a text, not 3"),
    'no kwargs': (without('kwargs'), "field 'kwargs' is missing"), 'empty list': (record(instruction_id_list=[], kwargs=[]), 'a list of at least one'),
    'unknown kind': (record(instruction_id_list=['punctuation:no_coma'], kwargs=[{}]), "'instruction_id_list[0]': unknown kind 'punctuation:no_coma'; did you"),
    'missing argument': (record(kwargs=[{}, {'num_words': 3}]), "'kwargs[1]': length_constraints:number_words: argument 'relation' is missing"),
    'mistyped argument': (record(kwargs=[{}, {'num_words': '3', 'relation': 'at least'}]), "'kwargs[1]': length_constraints:number_words: argument 'num_words' must be int"),
    'lengths differ': (record(kwargs=[{}]), "field 'kwargs' must be a list of 2, one per id"),
    'unread sentence': (record(instruction_id_list=['Length_Words'], kwargs=[{'constraint': 'Be brief'}]), "'kwargs[0]': muldimif:Length/Words"),
    'soft criterion': (record(instruction_id_list=['judge:criterion'], kwargs=[{'criterion': 'Be kind'}]), 'which no rule decides; ask a judge'),
}


@pytest.mark.parametrize('workers', [1, 2])
@pytest.mark.parametrize('name', BAD)
def test_a_bad_record_stops_in_one_line_or_is_put_aside(tmp_path, capsys, name, workers):
    bad, says = BAD[name]
    path, out = written(tmp_path/'in.jsonl', record(), bad, record()), tmp_path/'out.jsonl'
    if workers == 1:
        assert verify(path, '-o', out) == 2
        err = capsys.readouterr().err
        assert says in err and 'in.jsonl:2' in err and '--skip-bad' in err and err.count('\n') == 1
        assert not out.exists()
    assert verify(path, '-o', out, '--skip-bad', '--workers', workers) == 0
    assert '1 bad records left out' in capsys.readouterr().out
    assert read(out) == [score_record(record())]*2
    [reject] = read(tmp_path/'out.rejects.jsonl')
    assert reject['where'] == f'{path}:2' and says in f':2: {reject["reason"]}' and reject['record'] == (bad if isinstance(bad, str) else json.dumps(bad))


ASK, SAY = without('response'), {'prompt': 'Describe the sea.', 'response': 'Salt.'}
UNFIT = {
    'response without a prompt': ([ASK], [SAY, SAY | {'prompt': 'Who?'}], "say.jsonl:2: field 'prompt' is of no record in"),
    'prompt without a response': ([ASK, ASK | {'prompt': 'Who?'}], [SAY], 'ask.jsonl:2: no response in'),
    'no list of texts': ([ASK], [SAY | {'response': ['a', 3]}], "say.jsonl:1: field 'response[1]' must be a text"),
    'one prompt twice': ([ASK, ASK | {'prompt': ASK['prompt'] + ' \n'}], [SAY], "ask.jsonl:2: field 'prompt' is that of"),
    'no field to join on': ([ASK], [{'response': 'a'}], "say.jsonl:1: field 'prompt' is missing"),
    'not even JSON': ([ASK], ['{'], 'say.jsonl:1: not valid JSON'), 'no answer': ([ASK], [{'prompt': ASK['prompt']}], "say.jsonl:1: field 'response' is missing"),
    'a response in both': ([record()], [SAY], "ask.jsonl:1: has a 'response' of its own"),
}


@pytest.mark.parametrize('name', UNFIT)
def test_files_that_do_not_fit_together(tmp_path, capsys, name):
    asks, says, error = UNFIT[name]
    paths, out = (written(tmp_path/'ask.jsonl', *asks), written(tmp_path/'say.jsonl', *says)), tmp_path/'out.jsonl'
    assert verify(paths[0], '-o', out, '--responses', paths[1]) == 2
    err = capsys.readouterr().err
    assert error in err and err.count('\n') == 1 and not out.exists()
    assert verify(paths[0], '-o', out, '--responses', paths[1], '--skip-bad') == (0 if SAY in says and record() not in asks else 2)
    assert error in (tmp_path/'out.rejects.jsonl').read_text()


@pytest.mark.parametrize('make,says', [
    (lambda p: None, 'No such file'), (lambda p: p.write_text('\n\n'), 'holds no records'), (lambda p: p.mkdir(), 'Is a directory')])
def test_a_file_that_holds_nothing(tmp_path, capsys, make, says):
    make(tmp_path/'in.jsonl')
    for words in ([], ['--skip-bad']):
        assert verify(tmp_path/'in.jsonl', '-o', tmp_path/'out.jsonl', *words) == 2
        err = capsys.readouterr().err
        assert says in err and 'in.jsonl' in err and err.count('\n') == 1
    assert not (tmp_path/'out.jsonl').exists()


@pytest.mark.parametrize('damage', ['cut', 'flip', 'plain'])
def test_a_damaged_package_is_told_and_earlier_output_stays(tmp_path, capsys, damage):
    data = gzip.compress(many(tmp_path).read_bytes(), mtime=0)
    middle = len(data)//2
    data = {'cut': data[:middle], 'flip': data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1:], 'plain': b'{"a": 1}\n'}[damage]
    (tmp_path/'in.jsonl.gz').write_bytes(data)
    (tmp_path/'out.jsonl').write_text('earlier')
    assert verify(tmp_path/'in.jsonl.gz', '-o', tmp_path/'out.jsonl') == 2
    err = capsys.readouterr().err
    assert 'in.jsonl.gz' in err and err.count('\n') == 1
    assert (tmp_path/'out.jsonl').read_text() == 'earlier' and {p.name for p in tmp_path.iterdir()} == {'in.jsonl.gz', 'out.jsonl', 'many.jsonl'}


def test_a_full_disk_leaves_the_earlier_output(tmp_path):
    many(tmp_path)
    (tmp_path/'out.jsonl').write_text('earlier')
    code = f'''
import resource, signal, sys
from hir.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, 9_000))
sys.exit(main(['verify', {str(tmp_path/'many.jsonl')!r}, '-o', {str(tmp_path/'out.jsonl')!r}]))
'''
    done = subprocess.run([sys.executable, '-B', '-c', code], capture_output=True, text=True)
    assert done.returncode == 2 and 'any earlier file is untouched' in done.stderr and done.stderr.count('\n') == 1, done.stderr
    assert (tmp_path/'out.jsonl').read_text() == 'earlier' and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize('words', [(), ('--skip-bad', '--workers', '2')])
def test_an_interrupt_leaves_nothing_half_written(tmp_path, words):
    "The input is a pipe that never ends, so the work is under way whenever the interrupt comes."
    pipe, line = tmp_path/'in.jsonl', json.dumps(record()).encode() + b'\n'
    os.mkfifo(pipe)
    process = subprocess.Popen([sys.executable, '-m', 'hir', 'verify', pipe, '-o', tmp_path/'out.jsonl', *words], stderr=subprocess.PIPE, text=True,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))     # tests in the background of a shell ignore it
    with open(pipe, 'wb', buffering=0) as f:
        f.write(line*100)
        while process.poll() is None and not list(tmp_path.glob('.out.jsonl.*')): time.sleep(.05)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and 'interrupted' in said and 'Traceback' not in said, said
    assert [p.name for p in tmp_path.iterdir()] == ['in.jsonl']


@pytest.mark.parametrize('inputs,out', [(['in.jsonl'], 'in.jsonl'), (['in.jsonl'], 'link.jsonl'), (['in.rejects.jsonl'], 'in.jsonl'),
                                        (['ask.jsonl', '--responses', 'in.jsonl'], 'in.jsonl')])
def test_no_input_is_overwritten(tmp_path, capsys, monkeypatch, inputs, out):
    monkeypatch.chdir(tmp_path)
    for name in ('in.jsonl', 'ask.jsonl', 'in.rejects.jsonl'): written(tmp_path/name, record(), {'a': 1})
    (tmp_path/'link.jsonl').symlink_to('in.jsonl')
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    assert verify(*inputs, '-o', out, '--skip-bad') == 2
    err = capsys.readouterr().err
    assert 'would overwrite' in err and err.count('\n') == 1
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize('report,said', [('in.jsonl', 'would overwrite'), ('out.jsonl', 'is an output already')])
def test_a_report_overwrites_nothing(tmp_path, capsys, monkeypatch, report, said):
    monkeypatch.chdir(tmp_path)
    written(tmp_path/'in.jsonl', record())
    before = (tmp_path/'in.jsonl').read_bytes()
    assert verify('in.jsonl', '-o', 'out.jsonl', '--report', report) == 2
    assert said in capsys.readouterr().err
    assert (tmp_path/'in.jsonl').read_bytes() == before and not (tmp_path/'out.jsonl').exists()


@pytest.mark.parametrize('words,reader,lines', [('kinds', 'head -n 1', 1), ('kinds punctuation:no_comma', 'true', 0)])
def test_a_reader_that_leaves_early_is_no_error(words, reader, lines):
    "Also where the output is buffered and the pipe is closed before the command ends."
    env = {k: v for k, v in os.environ.items() if k != 'PYTHONUNBUFFERED'}
    done = subprocess.run(f'{sys.executable} -m hir {words} | {reader}', shell=True, capture_output=True, text=True, env=env)
    assert done.stdout.count('\n') == lines and done.stderr == ''


def die(chunk): os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_an_error_not_a_hang():
    with pytest.raises(DataError, match='a worker process died'):
        list(_in_given_order(die, iter([[('file:1', b'{}')]]*9), 2))


def test_a_crashing_checker_is_never_a_verdict(tmp_path):
    try:
        @kind('scoring:crash', 'Crash.')
        def crash(response): return 1/0
        path = written(tmp_path/'in.jsonl', record(), record(instruction_id_list=['scoring:crash'], kwargs=[{}]))
        with pytest.raises(CheckError, match='in.jsonl:2: scoring:crash.*ZeroDivisionError'): score_file(path, tmp_path/'out.jsonl')
        assert not (tmp_path/'out.jsonl').exists()
        assert score_file(path, tmp_path/'out.jsonl', skip_bad=True)['rejected'] == 1
        assert 'ZeroDivisionError' in read(tmp_path/'out.rejects.jsonl')[0]['reason']
    finally: KINDS.pop('scoring:crash', None)


# ---- kinds

def test_every_kind_has_its_page(capsys):
    for id, k in kinds().items():
        assert main(['kinds', id]) == 0
        page = capsys.readouterr().out
        assert page.startswith(f'{id}\n') and all(f'    {name} ' in page for name in k.params) and k.check.__module__ in page
    assert main(['kinds']) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(kinds())


# ---- recorded responses

@pytest.mark.skipif(not Path(FOLDER or '/nowhere').is_dir(), reason='the environment variable HIR_PARITY names no folder of official verdicts')
@pytest.mark.parametrize('name,strict,loose', [('ifeval_llama_3b', (.7024, .7866), (.7579, .8285)), ('ifbench_llama_3b', (.2347, .2507), (.2687, .3015))])
def test_accuracies_of_recorded_responses_are_the_official_ones(tmp_path, name, strict, loose):
    assert verify(Path(FOLDER)/f'{name}.jsonl.gz', '-o', tmp_path/'out.jsonl', '--report', tmp_path/'report.json', '--workers', 2) == 0
    report = json.loads((tmp_path/'report.json').read_text())
    for mode, wanted in (('strict', strict), ('loose', loose)):
        assert (report[mode]['ila'], report[mode]['cla']) == pytest.approx(wanted, abs=5e-4)


@pytest.mark.skipif(not Path(FOLDER or '/nowhere').is_dir(), reason='the environment variable HIR_PARITY names no folder of official verdicts')
def test_muldimif_records_are_scored_in_both_forms():
    "By ids with a sentence, as recorded, and by triples, as the benchmark has them."
    with gzip.open(Path(FOLDER)/'muldimif_shapes.jsonl.gz', 'rt', encoding='utf-8') as f: rows = [json.loads(line) for line in f][:100]
    equal = []
    for r in rows:
        triples = [[*id.split('_', 1), k['constraint']] for id, k in zip(r['instruction_id_list'], r['kwargs'])]
        after = score_record(r)
        assert after['strict'] == after['loose'] == score_record({'constraints': triples, 'response': r['response']})['strict']
        equal += map(bool.__eq__, after['strict'], r['strict'])
    assert sum(equal) > .98*len(equal)


# ---- as others call it

def test_a_data_set_is_mapped():
    "What the guide says of `datasets`: its map runs the same function."
    rows = [record(), record() | {'response': 'no, comma'}]
    scored = pytest.importorskip('datasets', reason='the extra `data` is not installed').Dataset.from_list(rows).map(score_record)
    assert [r['strict'] for r in scored] == [score_record(r)['strict'] for r in rows] and len({tuple(r['strict']) for r in scored}) == 2


def test_our_own_records_are_joined_by_the_prompt_that_they_render(tmp_path, capsys):
    "A file of instructions has no field `prompt`; responses name it."
    own = Instruction('Name a fish.', [Constraint('punctuation:no_comma')])
    save_instructions(tmp_path/'own.jsonl', [own])
    said = written(tmp_path/'said.jsonl', {'prompt': own.prompt, 'response': 'Cod, or carp'})
    assert verify(tmp_path/'own.jsonl', '--responses', said, '-o', tmp_path/'out.jsonl') == 0
    (line,) = map(json.loads, (tmp_path/'out.jsonl').read_text().splitlines())
    assert (line['strict'], line['prompt'], line['response']) == ([False], own.prompt, 'Cod, or carp')


def test_a_target_that_cannot_be_written_is_named(tmp_path, capsys):
    "Not the temporary file beside it."
    (tmp_path/'file').write_text(''); source = written(tmp_path/'in.jsonl', record())
    assert verify(source, '-o', tmp_path/'file'/'out.jsonl') == 2
    err = capsys.readouterr().err; assert f"{tmp_path/'file'/'out.jsonl'}" in err and '.out.jsonl.' not in err


# ---- what the official scripts join, and how they count

CHAT = [{'role': 'user', 'content': 'Describe the sea.'}]
SYSTEM = [{'role': 'system', 'content': 'Be kind.'}, *CHAT]


@pytest.mark.parametrize('asked,said', [('Describe the sea.', 'Describe the sea. \n'), ('\tDescribe the sea.', 'Describe the sea.'), ('Describe the sea.', CHAT),
                                        (CHAT, 'Describe the sea. '), (SYSTEM, 'Describe the sea.'), ('Describe the sea.', SYSTEM), (SYSTEM, SYSTEM), (CHAT, SYSTEM)])
def test_white_space_and_a_system_prompt_do_not_part_a_response_from_its_prompt(tmp_path, capsys, asked, said):
    asks, says = written(tmp_path/'ask.jsonl', ASK | {'prompt': asked}), written(tmp_path/'say.jsonl', SAY | {'prompt': said})
    assert verify(asks, '-o', tmp_path/'out.jsonl', '--responses', says) == 0
    assert read(tmp_path/'out.jsonl') == [score_record(ASK | {'prompt': asked, 'response': 'Salt.'})]


@pytest.mark.parametrize('missing,status,strict', [('error', 2, None), ('fail', 0, [[True, True], [False, False]]), ('skip', 0, [[True, True]])])
@pytest.mark.parametrize('how', ['no line', 'null', 'empty list'])
def test_a_missing_response_is_an_error_failed_or_skipped_and_counted(tmp_path, capsys, missing, status, strict, how):
    asks = written(tmp_path/'ask.jsonl', ASK, ASK | {'prompt': 'Who?'})
    none = [] if how == 'no line' else [{'prompt': 'Who?', 'response': None if how == 'null' else []}]
    says = written(tmp_path/'say.jsonl', SAY | {'response': 'The sea is salt.'}, *none)
    words = asks, '-o', tmp_path/'out.jsonl', '--responses', says, '--missing', missing, '--report', tmp_path/'report.json'
    assert verify(*words) == status
    said = capsys.readouterr()
    if status: assert '--missing fail' in said.err and not (tmp_path/'out.jsonl').exists(); return
    report = json.loads((tmp_path/'report.json').read_text())
    assert [r['strict'] for r in read(tmp_path/'out.jsonl')] == strict and report['records'] == len(strict) and report['strict']['ila'] == 1/len(strict)
    assert (report['missing'], report['rejected'], report['skipped']) == (1, 0, int(missing == 'skip'))
    assert f"1 missing, 0 refused, {report['skipped']} skipped" in said.out


def test_a_prompt_without_a_response_is_told_before_the_work(tmp_path, capsys, monkeypatch):
    done = []
    monkeypatch.setattr('hir.instructions.scoring._verdict_on', lambda constraints, *a: done.append(1) or ([True]*2, [True]*2))
    asks = written(tmp_path/'ask.jsonl', *(ASK | {'prompt': f'Describe {i}.'} for i in range(200)))
    says = written(tmp_path/'say.jsonl', *(SAY | {'prompt': f'Describe {i}.'} for i in range(199)))
    assert verify(asks, '-o', tmp_path/'out.jsonl', '--responses', says) == 2
    assert 'ask.jsonl:200: no response in' in capsys.readouterr().err and len(done) < 32           # what one chunk holds


@pytest.mark.parametrize('shape', ['lists', 'lines', 'joined lists', 'joined lines'])
def test_all_responses_to_a_prompt_are_scored(tmp_path, capsys, shape):
    "Of prompt 0 three of four responses are right, of prompt 1 one of four; the order of lines does not matter."
    texts = {'a': ['The sea is salt.', 'a b c', 'no, comma', 'd e f'], 'b': ['a', 'b', 'c', 'The sea is salt.']}
    each = [(p, texts[p][i]) for i in range(4) for p in texts]
    lines = list(texts.items()) if 'lists' in shape else each
    says = written(tmp_path/'say.jsonl', *({'prompt': p, 'response': said} if 'joined' in shape else record(said, prompt=p) for p, said in lines))
    asks = written(tmp_path/'ask.jsonl', *(ASK | {'prompt': p} for p in texts))
    words = [asks, '--responses', says] if 'joined' in shape else [says]
    assert verify(*words, '-o', tmp_path/'out.jsonl', '--report', tmp_path/'report.json') == 0
    report, out = json.loads((tmp_path/'report.json').read_text()), read(tmp_path/'out.jsonl')
    assert sorted((r['prompt'], r['response'], all(r['strict'])) for r in out) == sorted((p, t, t in ('The sea is salt.', 'a b c', 'd e f')) for p, t in each)
    found = report['samples']
    assert (found['prompts'], found['responses'], report['records'], report['strict']['ila']) == (2, [4, 4], 8, .5)
    assert found['strict'] == {'mean': .5, 'pass@k': pytest.approx([.5, .75, .875, 1]), 'all@k': pytest.approx([.5, .25, .125, 0])}
    assert 'pass@4' in capsys.readouterr().out
    assert verify(tmp_path/'out.jsonl', '-o', tmp_path/'again.jsonl', '--report', tmp_path/'again.json') == 0       # what we wrote, we read
    assert read(tmp_path/'again.jsonl') == out and json.loads((tmp_path/'again.json').read_text()) == report


def test_a_prompt_without_any_response_counts_at_every_k(tmp_path):
    asks = written(tmp_path/'ask.jsonl', ASK, ASK | {'prompt': 'Who?'})
    says = written(tmp_path/'say.jsonl', SAY | {'response': ['The sea is salt.', 'Salt.', None]})
    found = score_file(asks, tmp_path/'out.jsonl', says, missing='fail')
    assert found['missing'] == 2 and found['records'] == 4 and found['samples']['responses'] == [3, 3]
    assert found['samples']['strict']['pass@k'] == pytest.approx([1/6, 1/3, 1/2])
    skipped = score_file(asks, tmp_path/'out.jsonl', says, missing='skip')
    assert skipped['skipped'] == 2 and skipped['records'] == 2 and skipped['samples']['strict']['pass@k'] == pytest.approx([1/2, 1])


@pytest.mark.parametrize('suite,c', [('ifeval', Constraint('punctuation:no_comma')), ('ifbench', Constraint('words:vowel'))])
def test_what_save_responses_writes_is_read(tmp_path, suite, c):
    qs = [Instruction(f'Name {i} fish. ', [c], 'verbatim', str(i)) for i in range(3)]
    save(suite, tmp_path/'data.jsonl', qs)
    data = load(suite, tmp_path/'data.jsonl')
    said = ['Cod', 'Education, they said', 'a']
    save_responses(tmp_path/'said.jsonl', data, said)
    score_file(tmp_path/'data.jsonl', tmp_path/'out.jsonl', tmp_path/'said.jsonl')
    assert [r['response'] for r in read(tmp_path/'out.jsonl')] == said
    assert [r['strict'] for r in read(tmp_path/'out.jsonl')] == [list(verify_text(q.constraints, t)) for q, t in zip(qs, said)]
    assert len({tuple(r['strict']) for r in read(tmp_path/'out.jsonl')}) == 2


def test_what_save_responses_writes_of_muldimif_is_read(tmp_path):
    qs = [Instruction('Say hi.', [Constraint('muldimif:Length/Words', {'constraint': 'At most 5 words'})], 'verbatim', str(i)) for i in range(2)]
    save('muldimif', tmp_path/'data.json', qs)
    save_responses(tmp_path/'said.json', load('muldimif', tmp_path/'data.json'), ['Hi there.', 'Hi there, all of you out there.'])
    found = score_file(tmp_path/'said.json', tmp_path/'out.jsonl')
    assert [r['strict'] for r in read(tmp_path/'out.jsonl')] == [[True], [False]] and found['records'] == 2


# ---- going on after a kill

def inputs(tmp_path, n, joined):
    "(words of the command, bytes of both outputs of a run that nobody killed), with bad records, several responses and missing ones."
    texts = ['The sea is salt.', 'a, b', ['x', 'The sea is wide and salt.', None], None, '海\ud83d', '*a*\nb c d']
    rows = [record(texts[i % 6], key=i, prompt=f'Describe {i}.') for i in range(n)]
    bad = {7: '{', n//2: json.dumps({'prompt': 'Who?', 'response': 'a'})}
    if joined:
        asks = written(tmp_path/'ask.jsonl', *({k: v for k, v in r.items() if k != 'response'} for r in rows))
        words = [asks, '--responses', written(tmp_path/'say.jsonl', *(bad.get(i, {'prompt': r['prompt'] + ' ', 'response': r['response']}) for i, r in enumerate(rows) if i % 5))]
    else: words = [written(tmp_path/'in.jsonl', *(bad.get(i, r) for i, r in enumerate(rows)))]
    words += ['--skip-bad', '--missing', 'fail', '--report', tmp_path/'report.json']
    assert verify(*words, '-o', tmp_path/'whole.jsonl') == 0
    wanted = [(tmp_path/f'whole{end}').read_bytes() for end in ('.jsonl', '.rejects.jsonl')], (tmp_path/'report.json').read_text()
    for name in ('whole.jsonl', 'whole.rejects.jsonl', 'report.json'): (tmp_path/name).unlink()
    return words, wanted


def left(tmp_path): return sorted(p.name for p in tmp_path.iterdir() if p.name not in ('in.jsonl', 'ask.jsonl', 'say.jsonl'))
def outcome(tmp_path): return [(tmp_path/f'out{end}').read_bytes() for end in ('.jsonl', '.rejects.jsonl')], (tmp_path/'report.json').read_text()


@pytest.mark.parametrize('joined', [False, True])
def test_a_part_cut_anywhere_is_gone_on_with(tmp_path, joined):
    "The part is what a run writes as it goes; cut at any byte, the outputs are those of a run that nobody killed."
    words, wanted = inputs(tmp_path, 24, joined)
    parts = []
    with pytest.MonkeyPatch.context() as m:
        unlink = os.unlink
        m.setattr('os.unlink', lambda path: parts.append(Path(path).read_bytes()) if str(path).endswith('.part') else unlink(path))
        assert verify(*words, '-o', tmp_path/'out.jsonl', '--resume', 'auto') == 0
    (tmp_path/'out.jsonl.part').unlink()
    assert outcome(tmp_path) == wanted
    ends = {0, 1, len(parts[0]), *range(5, len(parts[0]), 97), *(i + d for i, b in enumerate(parts[0]) if b == 10 for d in (0, 1, 2))}
    for end in sorted(e for e in ends if e <= len(parts[0])):
        (tmp_path/'out.jsonl.part').write_bytes(parts[0][:end])
        assert verify(*words, '-o', tmp_path/'out.jsonl', '--resume', 'auto') == 0
        assert outcome(tmp_path) == wanted and left(tmp_path) == ['out.jsonl', 'out.rejects.jsonl', 'report.json'], end


def started(*words, **more): return subprocess.Popen([sys.executable, '-m', 'hir', 'verify', *map(str, words)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **more)


def lives(pid):
    try: return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess: return False


def semaphores(pids):
    "The named semaphores that these processes hold, where the system says so."
    maps = [Path(f'/proc/{p}/maps') for p in pids]
    return {Path('/'+line.split(' /', 1)[1]) for m in maps if m.exists() for line in m.read_text().splitlines() if '/dev/shm/sem.' in line}


def killed(process):
    "Kill a process; do its children end, and go its semaphores with them?"
    children = [c.pid for c in psutil.Process(process.pid).children(recursive=True)] if process.poll() is None else []
    held = semaphores([process.pid, *children])
    process.kill(); process.wait()
    end = time.monotonic() + 20
    while (left := [p for p in children if lives(p)] + [p for p in held if p.exists()]) and time.monotonic() < end: time.sleep(.05)
    for p in filter(lives, children): os.kill(p, signal.SIGKILL)
    return not left


@pytest.mark.slow
@pytest.mark.parametrize('joined', [False, True])
@pytest.mark.parametrize('workers', [1, 2])
def test_a_killed_run_goes_on(tmp_path, workers, joined):
    "SIGKILL when a random number of bytes is written, again and again; then the outputs are those of one run, and nothing else is there."
    words, wanted = inputs(tmp_path, 3000, joined)
    rng, part = random.Random(workers + 2*joined), tmp_path/'out.jsonl.part'
    words += ['-o', tmp_path/'out.jsonl', '--resume', 'auto', '--workers', workers]
    def size(): return part.stat().st_size if part.exists() else 0
    for _ in range(4):
        process, more = started(*words), size() + rng.randrange(1, 400_000)
        while process.poll() is None and size() < more: time.sleep(.002)
        assert killed(process)
        if process.returncode == 0: break
    assert started(*words).wait() == 0
    assert outcome(tmp_path) == wanted and left(tmp_path) == ['out.jsonl', 'out.rejects.jsonl', 'report.json']


@pytest.mark.skipif(sys.platform != 'linux', reason='elsewhere a worker ends only between two steps of Python')
@pytest.mark.parametrize('work', ['import time; time.sleep(600)', "import re; re.search('(a|a)*b', 'a'*200)"])
def test_workers_end_when_their_parent_is_killed(tmp_path, work):
    "Also where a regular expression works, which lets no thread run."
    (tmp_path/'slow_kinds.py').write_text(f"from hir.constraints.constraint import kind\nimport os, pathlib\n@kind('slow:one', 'Wait.')\ndef one(response):\n"
                                          f"    pathlib.Path(f'begun-{{os.getpid()}}').touch()\n    {work}\n    return True\n")
    written(tmp_path/'in.jsonl', *[{'response': 'Sea.', 'instruction_id_list': ['slow:one'], 'kwargs': [{}]}]*200)
    process = started('in.jsonl', '-o', 'out.jsonl', '--workers', 2, '--kinds', 'slow_kinds', cwd=tmp_path,
                      env=os.environ | {'PYTHONPATH': os.pathsep.join([str(Path(__file__).parents[1]), str(tmp_path)])})
    while len(list(tmp_path.glob('begun-*'))) < 2 and process.poll() is None: time.sleep(.05)
    assert process.poll() is None and len(psutil.Process(process.pid).children()) >= 2 and semaphores([process.pid])
    assert killed(process)


def test_a_part_is_not_shared_nor_taken_from_a_user(tmp_path, capsys):
    path, out, part = many(tmp_path, 20), tmp_path/'out.jsonl', tmp_path/'out.jsonl.part'
    for text in ('mine', '{"mine": 1}\n', 'mine\n'):
        part.write_text(text)
        assert verify(path, '-o', out, '--resume', 'auto') == 2 and part.read_text() == text and not out.exists()
    part.unlink()
    fcntl = pytest.importorskip('fcntl')
    with open(part, 'w') as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        assert verify(path, '-o', out, '--resume', 'auto') == 2 and 'another process' in capsys.readouterr().err
    assert verify(path, '-o', out, '--resume', 'auto') == 0 and not part.exists()


@pytest.mark.parametrize('change', ['touch', 'append', 'reading', 'missing'])
def test_a_part_of_other_inputs_or_options_is_refused(tmp_path, capsys, change):
    path = written(tmp_path/'in.jsonl', record(), record(), {'a': 1})
    words = [path, '-o', tmp_path/'out.jsonl', '--resume', 'auto']
    assert verify(*words) == 2 and len((tmp_path/'out.jsonl.part').read_text().splitlines()) == 4
    if change == 'touch': os.utime(path, ns=(1, 1))
    if change == 'append': path.write_text(path.read_text() + json.dumps(record()) + '\n')
    more = {'reading': ['--reading', 'meant'], 'missing': ['--missing', 'skip']}.get(change, [])
    capsys.readouterr()
    assert verify(*words, '--skip-bad', *more) == 2
    err = capsys.readouterr().err; assert 'was begun with' in err and 'delete it to begin anew' in err and err.count('\n') == 1
