"""`hir verify`: any record gets verdicts or an error that names it, whatever the number of processes.

The accuracies of recorded responses need records that are not part of this repository, see test_parity.py.
"""
import gzip
import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

from hir.cli import main
from hir.constraints.constraint import Constraint, KINDS, kind, kinds
from hir.files import DataError, record_in
from hir.instructions.instruction import Instruction, save_instructions
from hir.instructions.scoring import _in_given_order, score_file, _score_line, score_record, score_responses
from hir.constraints.verifier import CheckError
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
