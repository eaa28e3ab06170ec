"Whatever form a file has, every command takes it; whatever is wrong with it, every command says the same."
import gzip
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import hir.files
from hir.cli import main
from hir.files import DataError, append, log_lines, records, repaired, rows, write_atomic, write_json, write_jsonl

TOY = Path(hir.__file__).parent/'configs'/'toy.yaml'
OURS = {'task': 'Write about the sea.', 'template': 'inline', 'constraints': [{'kind': 'punctuation:no_comma'}, {'kind': 'toy:title'}]}
GOOD = json.dumps(OURS | {'response': 'The sea is salt.'})


def as_parquet(path):
    datasets = pytest.importorskip('datasets')
    flat = {'prompt': 'Write.', 'instruction_id_list': ['punctuation:no_comma'], 'kwargs': [{'n': None}], 'response': 'Salt.', 'key': 1}
    datasets.Dataset.from_list([flat, flat | {'key': 2, 'prompt': 'Go.'}]).to_parquet(str(path))


FORMS = {'lines.jsonl': (GOOD + '\n\n' + GOOD + '\n').encode(), 'marked.jsonl': b'\xef\xbb\xbf' + GOOD.encode() + b'\n',
         'packed.jsonl.gz': gzip.compress(GOOD.encode() + b'\n'), 'marked.jsonl.gz': gzip.compress(b'\xef\xbb\xbf' + GOOD.encode()),
         'windows.jsonl': GOOD.encode() + b'\r\n', 'list.json': f'[{GOOD}]'.encode(), 'list.json.gz': gzip.compress(f'[{GOOD}]'.encode()),
         'marked.json': b'\xef\xbb\xbf' + f'[{GOOD}]'.encode(), 'lines.json': f'{GOOD}\n{GOOD}'.encode(), 'list.jsonl': f'\n[{GOOD},\n{GOOD}]'.encode(),
         'table.parquet': as_parquet}

def cut(line): return gzip.compress((line + '\n').encode()*50)[:-9]      # torn in the middle of the packed bytes

ASKED = json.dumps(OURS)

BAD = {'latin.jsonl': (GOOD.encode() + b'\n' + GOOD.replace('salt', 'salé').encode('latin-1'), 'latin.jsonl:2: is not UTF-8 text (byte'),
       'sixteen.jsonl': (GOOD.encode('utf-16'), 'sixteen.jsonl: is UTF-16 text, by its mark; save it as UTF-8'),
       'thirtytwo.jsonl': (GOOD.encode('utf-32'), 'thirtytwo.jsonl: is UTF-32 text, by its mark'),
       'sixteen.json': (f'[{GOOD}]'.encode('utf-16'), 'sixteen.json: is UTF-16 text'),
       'endless.jsonl': (GOOD.encode() + b'\n' + b'{"a": "' + b'x'*5000, 'endless.jsonl:2: has no end within 4,000 bytes'),
       'endless.jsonl.gz': (gzip.compress(GOOD.encode() + b'\n' + b' '*5000), 'endless.jsonl.gz:2: has no end within 4,000 bytes'),
       'torn.jsonl': (GOOD.encode() + b'\n' + GOOD.encode()[:40], 'torn.jsonl:2: not valid JSON'),
       'nan.jsonl': (GOOD[:-1].encode() + b', "id": NaN}', 'nan.jsonl:1: not valid JSON (NaN is no JSON; write null'),
       'twice.jsonl': (GOOD[:-1].encode() + b', "task": "Go."}', "twice.jsonl:1: not valid JSON (field 'task' is there twice)"),
       'list.jsonl': (b'[1]', 'list.jsonl: record 0: a line must hold a JSON object, not 1'),
       'cut.jsonl.gz': (cut(GOOD), 'cut.jsonl.gz: damaged after line'),
       'false.jsonl.gz': (GOOD.encode(), 'false.jsonl.gz: damaged after line 0'),
       'deep.jsonl': (b'{"a": ' + b'['*3000, 'deep.jsonl:1: not valid JSON'),
       'object.json': (b'{\n\"data\": []}', 'the file must hold a list of records, or a record in each line')}


def put(folder, name, content):
    path = folder/name
    content(path) if callable(content) else path.write_bytes(content)
    return str(path)


def without_response(path, folder):
    "The same file for `hir train`, whose records have no response: only the bytes differ."
    if path.endswith('.parquet'): return path
    raw = Path(path).read_bytes()
    packed = path.endswith('.gz')
    try: text = gzip.decompress(raw) if packed else raw
    except EOFError: text = None
    except OSError: return path
    if text is None: Path(path).write_bytes(cut(ASKED)); return path
    text = text.replace(b', "response": "The sea is salt."', b'')
    Path(path).write_bytes(gzip.compress(text) if packed else text)
    return path


def verify(path, tmp_path): return main(['verify', path, '-o', str(tmp_path/'out.jsonl')])

def train(path, tmp_path):
    return main(['train', '--config', str(TOY), '--heldout', '', '--train', without_response(path, tmp_path), '--out', str(tmp_path/'run'),
                 '--dry-run', *(['--method.k', '0'] if path.endswith('.parquet') else [])])

def evaluate(path, tmp_path):
    suite = ['--suite', 'ifeval', '--responses', str(tmp_path/'said')] if path.endswith('.parquet') else []
    return main(['eval', '--model', 'shipped:toy/start', '--data', without_response(path, tmp_path), '--samples', '1', '--max-new-tokens', '8', '--cpu', *suite])

COMMANDS = {'verify': verify, 'train': train, 'eval': evaluate}


@pytest.mark.parametrize('command', COMMANDS)
@pytest.mark.parametrize('name', FORMS)
def test_every_command_takes_every_form(tmp_path, capsys, command, name):
    path = put(tmp_path, name, FORMS[name])
    assert COMMANDS[command](path, tmp_path) == 0, capsys.readouterr().err


@pytest.mark.parametrize('command', COMMANDS)
@pytest.mark.parametrize('name', BAD)
def test_every_command_says_the_same_of_a_bad_file(tmp_path, capsys, monkeypatch, command, name):
    monkeypatch.setattr(hir.files, 'LONGEST', 4000)
    content, says = BAD[name]
    path = put(tmp_path, name, content)
    assert COMMANDS[command](path, tmp_path) == 2
    said = capsys.readouterr().err
    assert says in said and said.count('\n') == 1, said


def test_forms_hold_the_same_records(tmp_path):
    found = {name: [r for _, r in records(put(tmp_path, name, c))] for name, c in FORMS.items() if not callable(c)}
    assert all(r == json.loads(GOOD) for rs in found.values() for r in rs) and len(found['lines.jsonl']) == 2
    assert [where.rpartition(':')[2] for where, _ in rows(tmp_path/'lines.jsonl')] == ['1', '3']


def test_an_endless_line_does_not_fill_the_memory(tmp_path):
    "/dev/zero never ends a line; the command gives up at the limit."
    code = f'''
import resource; resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
from hir.files import records, DataError
try: list(records('/dev/zero'))
except DataError as e: print(e)
'''
    said = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=120)
    assert '/dev/zero:1: has no end within 67,108,864 bytes' in said.stdout, said.stderr[-500:]


# ---- writing

def test_a_full_disk_names_the_file(tmp_path):
    "Of a log, of a file that is replaced, and in whole commands."
    if not Path('/dev/full').exists(): pytest.skip('no /dev/full here')
    with pytest.raises(OSError, match='could not write to it.*') as e: append('/dev/full', {'a': 1})
    assert e.value.filename == '/dev/full'


FULL = '''
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (@, @))
from hir.cli import main
sys.exit(main(sys.argv[1:]))
'''

def with_a_full_disk(limit, *words):
    return subprocess.run([sys.executable, '-c', FULL.replace('@', str(limit)), *map(str, words)], capture_output=True, text=True,
                          env=dict(os.environ, OMP_NUM_THREADS='1', PYTHONDONTWRITEBYTECODE='1'))


def test_a_full_disk_in_train_names_the_log(tmp_path):
    done = with_a_full_disk(3000, 'train', '--config', TOY, '--heldout', '', '--steps', 3, '--batch', 4, '--out', tmp_path/'run', '--cards_every', 0)
    assert done.returncode == 2 and 'could not write to it: File too large' in done.stderr, done.stderr[-800:]
    assert str(tmp_path/'run'/'rollouts.jsonl') in done.stderr and 'Traceback' not in done.stderr


def test_a_full_disk_in_export_names_the_folder(tmp_path):
    assert main(['train', '--config', str(TOY), '--heldout', '', '--steps', '1', '--batch', '2', '--out', str(tmp_path/'run')]) == 0
    done = with_a_full_disk(100_000, 'export', tmp_path/'run', '-o', tmp_path/'model')
    assert done.returncode == 2 and f'{tmp_path}/model: could not be written' in done.stderr and 'File too large' in done.stderr, done.stderr[-800:]
    assert not (tmp_path/'model').exists()


def test_a_full_disk_in_verify_names_the_output(tmp_path):
    (tmp_path/'many.jsonl').write_text((GOOD + '\n')*200)
    done = with_a_full_disk(5000, 'verify', tmp_path/'many.jsonl', '-o', tmp_path/'ok.jsonl')
    assert done.returncode == 2 and f"{tmp_path}/ok.jsonl" in done.stderr and 'any earlier file is untouched' in done.stderr, done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ['many.jsonl']


def test_what_a_killed_command_left_is_swept_by_the_next(tmp_path):
    "SIGKILL while a file is written; another file's leftover, and that of a living process, stay."
    code = f'''
import os, signal
from hir.files import write_atomic
def half(f): f.write('half'); f.flush(); os.kill(os.getpid(), signal.SIGKILL)
write_atomic({str(tmp_path/'ok.jsonl')!r}, half)
'''
    assert subprocess.run([sys.executable, '-c', code]).returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith('.ok.jsonl.')
    alive = tmp_path/left.name.replace(left.name.split('-')[-1].split('.')[0], str(os.getppid()))
    for other in (alive, tmp_path/left.name.replace('ok.jsonl', 'other.jsonl'), tmp_path/'.ok.jsonl.mine'): other.write_text('half')
    write_jsonl(tmp_path/'ok.jsonl', [{'a': 1}])
    assert not left.exists() and {p.name for p in tmp_path.iterdir()} == {'ok.jsonl', alive.name, left.name.replace('ok.jsonl', 'other.jsonl'), '.ok.jsonl.mine'}


@pytest.mark.parametrize('out', ['folder', 'file/in a file.json'])
@pytest.mark.parametrize('words', [['--model', 'shipped:toy/start', '--data', 'shipped:toy/heldout.jsonl'], ['--scored', 'scored.jsonl']])
def test_an_output_is_tried_before_the_work(tmp_path, capsys, monkeypatch, words, out):
    (tmp_path/'folder').mkdir(); (tmp_path/'file').write_text('')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('hir.cli._engine_asked', lambda *a: pytest.fail('the work was begun'))
    assert main(['eval', *words, '--out', str(tmp_path/out)]) == 2
    assert '--out' in capsys.readouterr().err


def test_packed_outputs_and_reports(tmp_path):
    write_jsonl(tmp_path/'a.jsonl.gz', [{'é': '😀'}, {'half': '\ud83d'}]); write_json(tmp_path/'b.json', {'x': [1]})
    assert [r for _, r in records(tmp_path/'a.jsonl.gz')] == [{'é': '😀'}, {'half': '\ud83d'}]
    assert json.loads((tmp_path/'b.json').read_text()) == {'x': [1]} and (tmp_path/'b.json').stat().st_mode & 0o777 == 0o644


# ---- logs

def test_a_torn_log_is_read_to_its_tear_and_repaired(tmp_path):
    log = tmp_path/'log.jsonl'
    append(log, {'step': 1}); log.write_bytes(log.read_bytes() + b'{"step": 2, "\xff')
    assert [r for *_, r in log_lines(log)] == [{'step': 1}]
    assert repaired(log) == [{'step': 1}] and log.read_text() == '{"step": 1}\n'
    log.write_text('{"a"\n{"step": 2}\n')
    with pytest.raises(DataError, match='log.jsonl:1: not valid JSON'): repaired(log)


# ---- lists, tables, several outputs

def test_a_list_names_line_and_byte(tmp_path):
    "A .json list may be written over many lines; an error says on which."
    for name, text, says in (('latin.json', f'[{GOOD},\n {GOOD}]'.replace('salt', 'salé').encode('latin-1'), 'latin.json:1: is not UTF-8 text (byte'),
                             ('later.json', f'[{GOOD},\n '.encode() + GOOD.replace('salt', 'salé').encode('latin-1'), 'later.json:2: is not UTF-8 text (byte'),
                             ('torn.json', f'[{GOOD},\n {GOOD[:40]}'.encode(), 'torn.json:2: not valid JSON at column')):
        with pytest.raises(DataError) as e: list(records(put(tmp_path, name, text)))
        assert says in str(e.value), e.value
    line = f' {GOOD}'.replace('salt', 'salé').encode('latin-1')
    with pytest.raises(DataError, match=rf'byte {line.index(0xe9) + 1} of the line is 0xe9'):
        list(records(put(tmp_path, 'byte.json', f'[{GOOD},\n'.encode() + line)))


@pytest.mark.parametrize('pack', [bytes, gzip.compress])
def test_a_list_without_end_is_refused(tmp_path, monkeypatch, pack):
    monkeypatch.setattr(hir.files, 'LARGEST', 4000)
    name = 'endless.json' + ('' if pack is bytes else '.gz')
    with pytest.raises(DataError, match='is larger than 4,000 bytes.*JSON Lines'): list(records(put(tmp_path, name, pack(b'[' + b' '*5000))))


def test_an_endless_log_is_refused(tmp_path, monkeypatch):
    "A judge's cache passes over torn lines; without a limit it would pass over an endless one for ever."
    monkeypatch.setattr(hir.files, 'LONGEST', 100)
    log = tmp_path/'log.jsonl'; log.write_text('{"a": 1}\n' + 'x'*500)
    for torn in ('end', 'skip'):
        with pytest.raises(DataError, match='log.jsonl:2: has no end within 100 bytes'): list(log_lines(log, torn))


def test_a_number_that_is_none_is_refused_in_a_table_too(tmp_path, capsys):
    datasets = pytest.importorskip('datasets')
    flat = {'prompt': 'Write.', 'instruction_id_list': ['punctuation:no_comma'], 'kwargs': [{'n': None}], 'response': 'Salt.', 'score': float('nan')}
    datasets.Dataset.from_list([flat]).to_parquet(str(tmp_path/'nan.parquet'))
    assert verify(str(tmp_path/'nan.parquet'), tmp_path) == 2
    assert 'nan.parquet: row 0: ' in (said := capsys.readouterr().err) and 'NaN' in said, said


def test_a_damaged_table_says_what_to_do(tmp_path, capsys):
    pytest.importorskip('datasets')
    (tmp_path/'bad.parquet').write_bytes(b'PAR1 is no more')
    assert verify(str(tmp_path/'bad.parquet'), tmp_path) == 2
    assert 'bad.parquet: could not be read' in (said := capsys.readouterr().err) and 'network' not in said, said


def test_scored_files_may_have_any_form(tmp_path, capsys):
    (tmp_path/'in.jsonl').write_text(json.dumps({'prompt': 'Write.', 'instruction_id_list': ['punctuation:no_comma'], 'kwargs': [{}], 'response': 'Salt.'}) + '\n')
    assert main(['verify', str(tmp_path/'in.jsonl'), '-o', str(tmp_path/'out.jsonl')]) == 0
    (tmp_path/'list.json').write_text(json.dumps([r for _, r in records(tmp_path/'out.jsonl')], indent=1))
    assert main(['eval', '--scored', str(tmp_path/'out.jsonl'), str(tmp_path/'list.json')]) == 0, capsys.readouterr().err


@pytest.mark.parametrize('out', ['folder', 'file/in a file.jsonl', 'bad.jsonl'])
def test_verify_tries_its_outputs_before_the_work(tmp_path, capsys, monkeypatch, out):
    "Also the file of rejects."
    (tmp_path/'folder').mkdir(); (tmp_path/'file').write_text(''); (tmp_path/'bad.rejects.jsonl').mkdir()
    path = put(tmp_path, 'in.jsonl', FORMS['lines.jsonl'])
    monkeypatch.setattr('hir.instructions.scoring._scored_record', lambda *a: pytest.fail('the work was begun'))
    assert main(['verify', path, '-o', str(tmp_path/out), '--skip-bad']) == 2
    said = capsys.readouterr().err
    assert str(tmp_path/out).removesuffix('.jsonl') in said and said.count('\n') == 1, said


@pytest.mark.parametrize('option', ['-o', '--report'])
def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path, option):
    from threading import Thread
    os.mkfifo(tmp_path/'pipe'); path, got = put(tmp_path, 'in.jsonl', FORMS['lines.jsonl']), []
    reader = Thread(target=lambda: got.append((tmp_path/'pipe').read_text())); reader.start()
    outs = ['-o', str(tmp_path/'pipe')] if option == '-o' else ['-o', str(tmp_path/'out.jsonl'), '--report', str(tmp_path/'pipe')]
    assert main(['verify', path, *outs]) == 0
    reader.join(20)
    assert (tmp_path/'pipe').is_fifo() and 'strict' in got[0]


def test_a_full_disk_names_the_rejects(tmp_path):
    "Two files are open; the one that could not be written is named, once."
    (tmp_path/'many.jsonl').write_text(GOOD + '\n' + '{"a": 1}\n'*200)
    done = with_a_full_disk(5000, 'verify', tmp_path/'many.jsonl', '-o', tmp_path/'ok.jsonl', '--skip-bad')
    assert done.returncode == 2 and f"{tmp_path}/ok.rejects.jsonl" in done.stderr, done.stderr
    assert done.stderr.count('could not write') == 1 and [p.name for p in tmp_path.iterdir()] == ['many.jsonl']


def test_a_leftover_that_cannot_be_swept_stops_nobody(tmp_path):
    "In /tmp somebody else's file cannot be deleted; here it is a folder."
    dead = subprocess.Popen([sys.executable, '-c', '']); dead.wait()
    (tmp_path/(hir.files._prefix(tmp_path/'ok.jsonl', dead.pid) + 'x')).mkdir()
    write_jsonl(tmp_path/'ok.jsonl', [{'a': 1}])
    assert [r for _, r in records(tmp_path/'ok.jsonl')] == [{'a': 1}]


def test_torn_settings_of_a_suite_are_named(tmp_path):
    from hir.evaluation.suite import _same_settings
    (tmp_path/'toy.json').write_text('{"model": "a')
    with pytest.raises(DataError, match='toy.json:1: not valid JSON'): _same_settings(tmp_path/'toy.json', {'model': 'a'})
