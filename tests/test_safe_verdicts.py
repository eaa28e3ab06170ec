"""Data from strangers: no pattern, sentence, text or template keeps a run for ever, and no file is taken for answers of a judge.

Every kind of every suite answers texts of 100,000 characters within half a second: HIR_SLOW=1 asks for that; else
the texts are fewer and shorter.
"""
import gzip
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

from itertools import product
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from hir.constraints.constraint import KINDS, Constraint, ConstraintError, kind, kinds
from hir.constraints.suites import muldimif
from hir.constraints.suites.ifeval import is_pattern
from hir.constraints.verifier import check, check_at_work
from hir.files import shipped
from hir.instructions.instruction import Instruction, load_instructions
from hir.pattern import MOST_WORK, pattern_work
from hir.policies.policy import Clock, PolicyError, encode_chat, load_policy
from hir.training.checkpoint import checkpoints

from bench_long import constraints
from checkout import ROOT
from long_texts import repeated
from test_muldimif import SAID
from test_parity import FOLDER, records
from test_safe_runs import small, trained

QUICK = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def seconds(f, *args):
    start = time.process_time()
    f(*args)
    return time.process_time() - start

def least(f, *args): return min(seconds(f, *args) for _ in range(3))       # others may use the machine, too


# ---- patterns

HOSTILE = ['.?'*30, 'a?'*30, 'a*a*a*a*a*c', '(a+)+', '(a+)+b', '(a|a)*b', '(a|aa)+$', '(?:a?){50}', '(?:a{0,9}){9}', 'a{0,99}a{0,99}b', 'a{,999}b', 'a+b', '.*b', '.+?b',
    r'\w+x', '[a-z]+1', '(?=a*)b', '(?!a*b)', r'(a)\1', '((a?)?)?'*9 + 'b', '(?:a|b|c)*d', r'\s*\s*x', 'a++', 'a*+b', '(?>a)b', 'x(?i)a', '(?:a*)*', '(?:)*x', 'a{999}{999}',
    '(a', '*', '[', 'a{99999999999}', 'a'*5000, '('*500 + ')'*500, '|'*3000, '(?<=a+)b', '(?<=a|bb)c', '(?(1)a|b)', '(?P<n>a)(?P=n)', '(?#' + 'x'*3000 + ')a']
FAIR = ['sea', 'c.t', 'colou?r', 'C#', 'a|b|c', '(?:and|or)', '(un)?break(able)?s?', '[aeiou]{2}', '[^a]', r'\d\d', r'\bsea\b', '^sea', 'end$', 'hm+', 'C+', 'go+al', r'https?://(www\.)?', r'(?<!\w)C(?!\w)',
        '(?i)sea', '(?i:sea)', r'\$5\.00', 'P\\.S', 'über', '海', '100%', '[[a]', '😀', 'a{2}', 'a{1,3}']
PLACES = {'keywords:existence': ('keywords', lambda p: ['sea', p]), 'keywords:frequency': ('keyword', str), 'keywords:forbidden_words': ('forbidden_words', lambda p: [p]),
          'keywords:word_once': ('keyword', str), 'keywords:word_count_different_numbers': ('keyword', str), 'count:count_increment_word': ('keyword2', str),
          'detectable_content:postscript': ('postscript_marker', str), 'detectable_format:multiple_sections': ('section_spliter', str)}

@pytest.mark.parametrize('kind', PLACES)
@pytest.mark.parametrize('pattern', HOSTILE, ids=lambda p: p[:20])
def test_a_pattern_that_could_run_for_ever_is_refused(kind, pattern):
    name, form = PLACES[kind]
    def make():
        with pytest.raises(ConstraintError, match=re.escape(f"{kind}: argument '{name}' must be")) as e:
            check(Constraint(kind, KINDS[kind].example | {name: form(pattern)}), 'a')
        assert "fewer" in str(e.value) and len(str(e.value)) < 500
    assert seconds(make) < 1

@pytest.mark.parametrize('pattern', FAIR)
def test_a_fair_pattern_is_taken_and_means_what_it_means_to_re(pattern):
    c = Constraint('keywords:existence', {'keywords': [pattern]})
    for text in ('The SEA is salt.', 'goooal! hmm', 'C# or C++', 'breakable colors', '$5.00 at https://x.y', 'ÜBER 海 😀 100%', 'aa bb 12'):
        assert check(c, text) == bool(re.search(pattern, text, re.I))

@pytest.mark.parametrize('word', ['.?'*30, 'a*a*a*b', '(x', r'sea\B', r'sea\b', 'a+', '(sea)', 'a|b'])
@pytest.mark.parametrize('phrase', ['{} is salt', 'salt is {}'])
def test_the_ends_of_a_phrase_are_patterns_too(word, phrase):
    c = Constraint('copy:repeat_phrase', {'phrase': phrase.format(word), 'small_n': 1})
    with pytest.raises(ConstraintError, match="copy:repeat_phrase: argument 'phrase' must be"): check(c, 'a')
    assert c.refused and check(c, phrase.replace('is', 'was').format(word), 'meant')

def test_many_patterns_together_are_bounded_too():
    for kind, name in (('keywords:existence', 'keywords'), ('keywords:forbidden_words', 'forbidden_words')):
        assert not Constraint(kind, {name: ['sea']*20}).refused
        for many in (['sea']*5000, ['a?'*6 + 'b']*3):
            with pytest.raises(ConstraintError, match='fewer patterns'): check(Constraint(kind, {name: many}), 'a')

parts = st.sampled_from(['a', 'b', 'ab', '.', r'\w', r'\s', '[ab]', '[^b]', '(?:a|b)', '(a|ab)', '(?=a)', '(?<!b)', r'\b', '^', '$', ' ', 'é', '(?:', '(', ')', '|'])
ends = st.sampled_from(['', '', '', '?', '*', '+', '{2}', '{0,3}', '{1,}', '??', '*?', '+?'])
patterns = st.lists(st.tuples(parts, ends).map(''.join), min_size=1, max_size=8).map(''.join)
LIKES = ['a'*20_000, 'ab'*10_000, 'a '*10_000, ' '*20_000, 'b'*20_000, ('a'*50 + 'b')*400, 'é'*20_000, 'a'*19_999 + 'x']

@settings(QUICK, max_examples=400)
@given(patterns)
def test_whatever_is_taken_is_quick(pattern):
    if not is_pattern(pattern): return
    for text in LIKES: assert least(re.findall, pattern.strip(), text, re.I) < 3, text[:9]

@pytest.mark.parametrize('pattern', ['a?'*6 + 'b', 'a??'*6 + 'b', '(?:a|a)'*5 + 'b', '(a?)'*5 + 'b', 'a'*740 + 'b', r'\b'*140 + 'x', r'[^\W\d_]'*100 + '1', '.'*740 + 'x', '(?:a?b?){0,3}x',
                                     'go+al', r'\bo+\b', 'a{0,200}b', '(?=a{60})'*3 + 'x', '(?<=' + 'a'*200 + ')'*1 + 'b', '[ab]'*240 + 'x', 'ab|'*100 + 'x'])
def test_the_bound_holds_where_it_is_reached(pattern):
    assert pattern_work(pattern) <= MOST_WORK
    for text in ('a'*100_000, 'g' + 'o'*99_999, 'ab'*50_000, 'o '*50_000): assert least(re.findall, pattern, text, re.I) < 5, text[:9]

VERSIONS = [p for v in range(10, 14) if (p := shutil.which(f'python3.{v}')) and subprocess.run([p, '-c', ''], capture_output=True).returncode == 0]
SAY = ('import json, runpy, sys; work = runpy.run_path(sys.argv[1])["pattern_work"]; '
       'print(json.dumps([work(p) for p in json.load(sys.stdin)]))')

@pytest.mark.parametrize('python', VERSIONS)
def test_every_python_takes_and_refuses_the_same(python):
    asked = HOSTILE + FAIR + [''.join(p) for p in product(['', 'a', '(?i)', '(?:a|b)', '(?!)', r'\Z'], ['a', '[a', r'\1', r'\z', '(?t)', '(?x) #', r'\N{DIGIT ONE}', '(?L)'], ['', '++', '*', '{,2}', '(?i)', ')', ']'])]
    said = subprocess.run([python, '-I', '-c', SAY, str(ROOT/'hir'/'pattern.py')], input=json.dumps(asked), capture_output=True, text=True, check=True).stdout
    assert json.loads(said) == [pattern_work(p) for p in asked]

@pytest.mark.skipif(not FOLDER, reason='the environment variable HIR_PARITY names no folder of records')
def test_no_recorded_constraint_is_refused_for_its_work():
    refused = []
    for path in Path(FOLDER).glob('*.jsonl.gz'):
        for r in map(json.loads, gzip.open(path, 'rt')):
            for id, kwargs in zip(r['instruction_id_list'], r['kwargs']):
                if id not in KINDS: continue
                try: said = Constraint(id, {k: v for k, v in (kwargs or {}).items() if v is not None}).refused
                except ConstraintError as e: said = str(e)
                if 'fewer' in said or 'at most' in said and 'characters' in said: refused.append(said)
    assert not refused


# ---- sentences

BITS = [' ', '\n', '\t', 'a', 'the ', 'each ', 'every ', 'one ', 'hundred ', '1 ', '1,', 'one and ', 'one a and ', 'limit a ', 'a ', '"', "'", "'a' ", '”', '「', 'if discussing ', 'if discussing a/', 'must ', 'each a must ',
        "includes the keyword '", "avoids the keyword '", 'capital each ', 'use heading levels ', 'level 1 ', "level 1 heading titled '", 'columns: a,', 'use traditional ', '`', '一到', 'no more than ', '-', "'a", 'table "a" ']

@pytest.mark.parametrize('type', SAID)
def test_a_long_sentence_is_refused_by_name(type):
    for sentence in (SAID[type][0].format(n=3, w='sea') + ' and so on'*1200, 'one '*3000, ' '*12_000 + 'x'):
        with pytest.raises(ConstraintError, match=f"muldimif:{type}: argument 'constraint' must be a sentence of at most 2,000 characters") as e: muldimif.muldimif(*type.split('/'), sentence)
        assert len(str(e.value)) < 500
    with pytest.raises(ConstraintError, match='at most 60 quotation marks'): muldimif.muldimif(*type.split('/'), SAID[type][0].format(n=3, w='sea') + " 'a'"*60)

def test_no_sentence_that_is_short_enough_takes_long_to_read():
    readers = {n: f.__wrapped__ for n, f in vars(muldimif).items() if n.startswith('_read_') and hasattr(f, '__wrapped__')}
    assert len(readers) == 12
    found = {(n, s[:40]): t for n, read in readers.items() for a, b in product(BITS, ['', *BITS[:12]]) if (t := seconds(read, s := (b + repeated(a, 2000))[:2000])) > 2}
    assert not found

def test_verify_refuses_a_sentence_of_12_kB(tmp_path):
    path = tmp_path/'rows.jsonl'
    path.write_text(json.dumps({'response': 'Sea.', 'constraints': [['Length', 'Words: At most', 'each ' + ' '*12_000 + 'at most 3 words']]}) + '\n')
    done = subprocess.run([sys.executable, '-m', 'hir', 'verify', str(path), '-o', str(tmp_path/'out.jsonl')], capture_output=True, text=True, timeout=120)
    assert done.returncode and 'at most 2,000 characters' in done.stderr + done.stdout

@pytest.mark.parametrize('sentence', ["Mention " + ', '.join(f"'{c}'" for c in 'abcdefghijklmnopqrstuvwxyz'[:15]), "Each line must include " + ' '.join(f"'{'-'*60}{c}'" for c in 'abcdefghijkl'),
                                      "use " + ' or '.join(f"'{c}'" for c in 'bcdefghijklmnopqrst') + " in each item, every item must include 'a' or 'b'", 'a table with the columns: ' + ', '.join(map(chr, range(0x4e00, 0x5000)))])
def test_what_a_sentence_asks_for_is_looked_up_quickly(sentence):
    c = muldimif.muldimif('Format', 'Table', sentence) if 'columns' in sentence else muldimif.muldimif('Content', 'Keywords', sentence)
    texts = [repeated(s, 100_000) for s in ('a b c d e f g h i j k l m n o ', '-', '- a\n', '- s\n', '| a ', '---\na\n', 'a')] + ['|' + repeated('b|', 99_000) + ''.join(f'{chr(n)}|' for n in range(0x4e00, 0x5000)) + '\n|-|']
    for text in texts: assert least(check, c, text) < 5, text[:9]


# ---- texts

UNITS = ['a', 'A', ' ', '\n', '\t', '\r', '\xa0', '*', '<', '>', '.', '?', '!', '"', "'", '-', '|', '{', '}', '[', ']', '(', ')', '`', '#', '1', '_', ':', ';', ',', '@', '/', '\\', '海', 'é', '“', '”', '\0', '\u0301', '😀', 'İ',
         '. ', '? ', '! ', '- ', '* ', '1. ', '[[', ']]', '<<', '>>', 'a ', 'a. ', 'A. ', 'a.b', 'Mr. ', 'U.S. ', '.\n', '\n\n', '\n ', '\n* ', '\n- ', '# ', '*a*', '<i>', "<a b='", '<a ', "'a'", '"a"', "n't", 'a-', '--', '... ', '. . ',
         '|a|', '|\n', '```', '```json', '{"a":', '[1,', '1e', '://', 'a@', 'Question 1', 'Section 1', 'P. S', ' \n', 'a\n', '\\u', '<stop>', '<prd>', '******', '?!', "'tis ", 'aeiou', '1-', '1,', 'The ', 'sea ']
BEFORE, AFTER = ['', '<<', '"', '[', '(', '{', '|', '<a ', '{"a":"', '```json\n', 'Question ', 'p.', 'ProductID,Category,Brand,Price,Stock\n"'], ['', 'x']

def hostile(n, before=BEFORE): return {f'{b!r}, {u!r}, {a!r}': b + repeated(u, n) + a for b, u, a in product(before, UNITS, AFTER)}
def suite_of(k): return k.check.__module__.rpartition('.')[2]

ALL = [k for k, v in kinds().items() if v.check.__module__.startswith('hir.constraints.suites')]

def readings(kind): return ('official', 'meant') if KINDS[kind].meant else ('official',)      # that have a check of their own

def loaded(kind):
    out = constraints(kind)
    for c, reading in product(out, readings(kind)): check(c, 'LOAD WHAT IS LOADED. a b', reading), check(c, 'and what else 😀.', reading)
    return out

@pytest.mark.parametrize('kind, reading', [(kind, reading) for kind in ALL for reading in readings(kind)])
def test_twice_the_text_takes_twice_the_time(kind, reading):
    "The slowest of many texts of 4,000 characters, again with 64,000: sixteen times as long, not 256 times."
    for c in loaded(kind)[:3]:
        slowest = max((seconds(check, c, text, reading), name) for name, text in hostile(4000, ['']).items())[1]
        short, long = (least(check, c, hostile(n, [''])[slowest], reading) for n in (4000, 64_000))
        assert long < 80*short + .2, slowest


# ---- a check that never ends

def hang_in_python(response):
    while True: pass

def hang_in_re(response): return re.search('(a|a)*b', 'a'*200)

HANGS = dict(python=hang_in_python, re=hang_in_re)

@pytest.mark.parametrize('how', HANGS)
def test_sigterm_is_heard_while_a_check_works(how, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr('hir.policies.processes._PATIENCE', .3)
    calls = []
    @kind('test:hangs', 'Hang.')
    def hangs(response):
        calls.append(1)
        if len(calls) <= 4: return True                  # the first step: two instructions, two responses each
        os.kill(os.getpid(), signal.SIGTERM)
        return HANGS[how](response)
    before = signal.getsignal(signal.SIGALRM)
    try:
        with pytest.raises(SystemExit) as e:
            trained(small(tmp_path/'run', save_every=0, k=0), [Instruction('Write.', [Constraint('test:hangs')]), Instruction('Sing.', [Constraint('test:hangs')])])
    finally: del KINDS['test:hangs']
    assert e.value.code == 143 and check_at_work() == (0., '')
    said = capsys.readouterr().out
    assert 'stopped by SIGTERM: the check of test:hangs did not end' in said and [p.name for p in checkpoints(tmp_path/'run')] == ['checkpoint-000001']
    assert signal.getsignal(signal.SIGALRM) == before and signal.getitimer(signal.ITIMER_REAL) == (0., 0.)

def test_verify_ends_with_sigterm_and_leaves_nothing_half_written(tmp_path):
    (tmp_path/'slow_kinds.py').write_text("from hir.constraints.constraint import kind\nimport pathlib, re\n@kind('slow:one', 'Wait.')\ndef one(response):\n    pathlib.Path('begun').touch()\n    return re.search('(a|a)*b', 'a'*200)\n")
    (tmp_path/'rows.jsonl').write_text(json.dumps({'response': 'Sea.', 'instruction_id_list': ['slow:one'], 'kwargs': [{}]}) + '\n')
    child = subprocess.Popen([sys.executable, '-m', 'hir', 'verify', 'rows.jsonl', '--kinds', 'slow_kinds', '-o', 'out.jsonl'], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                             env=os.environ | {'PYTHONPATH': os.pathsep.join([str(ROOT), str(tmp_path)])})
    try:
        deadline = time.monotonic() + 90
        while not (tmp_path/'begun').exists() and child.poll() is None and time.monotonic() < deadline: time.sleep(.05)
        assert (tmp_path/'begun').exists(), child.communicate(timeout=5)
        child.send_signal(signal.SIGTERM); child.wait(10)
    finally: child.kill()
    assert child.returncode in (-signal.SIGTERM, 143) and not (tmp_path/'out.jsonl').exists()


# ---- templates

LOOPS = {'loops': '{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}', 'range': '{% for i in range(10**12) %}{% endfor %}', 'long': "{% for i in range(9999) %}{{ 'a'*999 }}{% endfor %}",
         'calls': '{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}', 'doubles': "{% set n = namespace(x='aaaa') %}{% for i in range(22) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}"}

@pytest.mark.parametrize('how', LOOPS)
def test_a_template_that_loops_is_refused(how, monkeypatch):
    monkeypatch.setattr('hir.policies.policy._PATIENT', .5)
    tokenizer = load_policy(shipped('toy/start'))[1]
    fair = encode_chat(tokenizer, 'Write.')
    tokenizer.chat_template = LOOPS[how]
    def ask():
        with pytest.raises(PolicyError, match='chat template of .* cannot be used for roles user: .*set tokenizer.chat_template'): encode_chat(tokenizer, 'Write.')
    assert seconds(ask) < 5
    assert fair and signal.getitimer(signal.ITIMER_REAL) == (0., 0.)

def test_clocks_stand_within_one_another_and_still_in_threads():
    struck = []
    with Clock(.05, lambda: struck.append('outer')):
        with Clock(30., lambda: struck.append('inner')): pass
        end = time.monotonic() + 5
        while not struck and time.monotonic() < end: pass
    assert set(struck) == {'outer'} and signal.getitimer(signal.ITIMER_REAL) == (0., 0.)
    def work():
        with Clock(.01, lambda: struck.append('thread')): time.sleep(.05)
    t = threading.Thread(target=work); t.start(); t.join()
    assert 'thread' not in struck


# ---- the judge's memory

judge = pytest.importorskip('hir.constraints.judge')
needs_client = pytest.mark.skipif(not __import__('importlib').util.find_spec('openai'), reason='the extra is not installed: pip install "hir[judge]"')
CALM = Constraint('judge:criterion', {'criterion': 'The tone is calm.'})

def asking(monkeypatch, **kw):
    "(asks or knows, what was asked) of a judge whose requests go nowhere."
    sent = []
    async def ask_all(judge, todo, tally):
        tally.asked += len(todo); sent.extend(todo)
        for k in todo: judge.answers.add(k, True)
    monkeypatch.setattr('hir.constraints.judge.ask_all', ask_all)
    return judge.Judge('model', **kw)([('Write.', 'Sea.', CALM)]).asked

@needs_client
def test_answers_belong_to_an_endpoint(tmp_path, monkeypatch):
    monkeypatch.delenv('OPENAI_BASE_URL', raising=False)
    path = tmp_path/'judge.jsonl'
    assert asking(monkeypatch, base_url='http://127.0.0.1:1/v1', cache=path) == 1
    assert asking(monkeypatch, base_url='http://127.0.0.1:1/v1/', cache=path) == 0
    for url in ('http://127.0.0.1:2/v1', 'http://127.0.0.1:1/v2', 'https://127.0.0.1:1/v1', None): assert asking(monkeypatch, base_url=url, cache=path) == 1
    monkeypatch.setenv('OPENAI_BASE_URL', 'http://127.0.0.1:3/v1')
    assert asking(monkeypatch, cache=path) == 1 and asking(monkeypatch, base_url='http://127.0.0.1:3/v1', cache=path) == 0

@pytest.mark.parametrize('text', ['Dear diary,\n', 'lr: 1\n', '\n', ' ', '\n\n\n', '{}', '[]', '{"key": "a", "ok": true}\n', '\n{"key": "a", "ok": true}', '{"task": "Write."}\n', '{"file": "something else"}\n', '\0\1', 'x'*5000,
                                  '#!/bin/sh\n', '{"key": "a", "ok"'])
def test_what_does_not_say_that_it_is_a_cache_is_not_touched(tmp_path, text):
    path = tmp_path/'file'
    path.write_text(text)
    with pytest.raises(judge.JudgeError, match=f'{path}:1.*name another'): judge.Cache(path)
    assert path.read_text() == text

def test_a_cache_that_became_something_else_is_not_added_to(tmp_path):
    path = tmp_path/'file'
    answers = judge.Cache(path)
    path.write_text('Dear diary,\n')
    with pytest.raises(judge.JudgeError, match=':1'): answers.add('a', True)
    assert path.read_text() == 'Dear diary,\n'

def test_the_first_line_says_what_the_file_is(tmp_path):
    path = tmp_path/'new'/'judge.jsonl'
    answers = judge.Cache(path)
    assert not path.exists()
    for i in range(3): answers.add(str(i), True)
    assert 'judge' in json.loads(path.read_text().splitlines()[0])['file'] and judge.Cache(path).known == dict.fromkeys('012', True)
    assert [p.name for p in path.parent.iterdir()] == ['judge.jsonl']
    (tmp_path/'empty').touch(); judge.Cache(tmp_path/'empty').add('a', False)
    assert judge.Cache(tmp_path/'empty').known == {'a': False}

@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='no named pipes here')
def test_a_pipe_or_a_folder_is_no_cache(tmp_path):
    os.mkfifo(tmp_path/'pipe'); (tmp_path/'folder').mkdir()
    for name in ('pipe', 'folder'):
        with pytest.raises(judge.JudgeError, match='is not a file'): judge.Cache(tmp_path/name)

def test_an_old_cache_is_refused_with_the_reason(tmp_path):
    (tmp_path/'old.jsonl').write_text('\n{"key": "' + hashlib.md5(b'x').hexdigest() + '", "ok": true}')
    with pytest.raises(judge.JudgeError, match='earlier version kept no endpoints'): judge.Cache(tmp_path/'old.jsonl')
