"Kinds of one's own, in a module that the command, its workers and a run are told of by name."
import json, os, shutil, subprocess, sys
from pathlib import Path

import pytest

import hir

from hir.constraints import constraint
from hir.cli import main
from hir.constraints.constraint import ConstraintError, get_kind, use_kinds
from hir.files import shipped

RHYME = '''from hir.constraints.constraint import kind
from hir.schema import Positive, Text

@kind('NAME:rhyme', 'Let at least {n} lines end in "{ending}".', example={'n': 2, 'ending': 'ow'})
def rhyme(response, n:Positive, ending:Text):
    return sum(line.endswith(ending) for line in response.splitlines()) >= n
'''


@pytest.fixture
def module(tmp_path, monkeypatch):
    "Writes a module of this text into a folder that Python imports from, and names it."
    monkeypatch.setenv('HIR_KINDS', '')                                  # what a test adds is gone after it
    monkeypatch.setattr(constraint, 'KINDS', constraint.KINDS)
    monkeypatch.syspath_prepend(tmp_path); monkeypatch.chdir(tmp_path)
    constraint._load_suites()                                             # or those of hir would be gone after it, too
    before, made = dict(constraint.KINDS), []
    def write(text):
        made.append(f'own_{tmp_path.name}_{len(made)}')
        (tmp_path/f'{made[-1]}.py').write_text(text.replace('NAME', made[-1]))
        return made[-1]
    yield write
    for name in made: sys.modules.pop(name, None)
    for id in set(constraint.KINDS) - set(before): del constraint.KINDS[id]


def record(name, **more):
    return json.dumps({'task': 'Write.', 'constraints': [{'kind': f'{name}:rhyme', 'args': {'n': 1, 'ending': 'ow'}},
                                                         {'kind': 'punctuation:no_comma'}]} | more) + '\n'


def test_a_module_is_found_by_its_name(module):
    name = module(RHYME)
    with pytest.raises(ConstraintError, match='--kinds MODULE'): get_kind(f'{name}:rhyme')
    assert f'{name}:rhyme' in use_kinds(name) and get_kind(f'{name}:rhyme').params
    use_kinds(f' {name}, '); assert os.environ['HIR_KINDS'] == name      # once


def test_modules_that_were_imported_before_and_packages_count(module, tmp_path):
    first, second = module(RHYME), module('from {} import rhyme'.format('own_other'))
    (tmp_path/'own_other.py').write_text(RHYME.replace('NAME', 'own_other'))
    __import__(first); use_kinds(first)
    __import__(second); use_kinds(second)
    sys.modules.pop('own_other')


@pytest.mark.parametrize('text, says', [('x = 1', 'registers no kind'), ('import no_such_thing', "No module named 'no_such_thing'"),
                                        ('x = ', 'SyntaxError'), ('1/0', 'ZeroDivisionError')])
def test_a_module_that_gives_no_kinds_is_told(module, capsys, text, says):
    name = module(text)
    assert main(['kinds', '--kinds', name]) == 2
    said = capsys.readouterr().err
    assert said.startswith('hir: error: ') and repr(name) in said and says in said, said
    assert os.environ['HIR_KINDS'] == ''                                 # the next command is not spoilt

def test_a_file_is_named_as_a_module(module, capsys):
    name = module(RHYME)
    for wrong in (f'{name}.py', f'./{name}.py', 'no_such_module'):
        assert main(['kinds', '--kinds', wrong]) == 2
        said = capsys.readouterr().err
        assert repr(wrong) in said and 'file mykinds.py' in said and '--kinds mykinds' in said, said


def test_kinds_shows_them(module, capsys):
    name = module(RHYME)
    assert main(['kinds', f'{name}:rhyme']) == 2
    assert '--kinds MODULE' in capsys.readouterr().err
    for asked in (f'{name}:rhyme', f'{name}:', name):
        assert main(['kinds', asked, '--kinds', name]) == 0
        assert f'{name}:rhyme' in capsys.readouterr().out


def test_eval_and_a_dry_run_read_them(module, tmp_path, capsys):
    name = module(RHYME)
    (tmp_path/'mine.jsonl').write_text(record(name)*2)
    words = ['train', '--model', str(shipped('toy/start')), '--train', 'mine.jsonl', '--cpu', 'true', '--dry-run']
    assert main(words) == 2 and '--kinds MODULE' in capsys.readouterr().err
    assert main([*words, '--kinds', name]) == 0, capsys.readouterr().err
    for id in [k for k in constraint.KINDS if k.startswith(name)]: del constraint.KINDS[id]
    assert name not in sys.modules; os.environ['HIR_KINDS'] = ''         # a dry run imports nothing
    assert main(['eval', '--model', 'shipped:toy/start', '--data', 'mine.jsonl', '--samples', '1', '--max-new-tokens', '4',
                 '--cpu', '--kinds', name]) == 0, capsys.readouterr().err
    assert f'{name}:rhyme' in capsys.readouterr().out


def test_workers_of_verify_know_them(module, tmp_path):
    "In processes of their own: the workers are spawned, and know only what the environment says."
    name = module(RHYME)
    (tmp_path/'mine.jsonl').write_text(record(name, response='the wind lies low')*70)
    env = dict(os.environ, HIR_KINDS='')
    done = subprocess.run([sys.executable, '-m', 'hir', 'verify', 'mine.jsonl', '-o', 'scored.jsonl', '--workers', '2', '--kinds', name],
                          cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    scored = [json.loads(line) for line in (tmp_path/'scored.jsonl').read_text().splitlines()]
    assert len(scored) == 70 and all(r['strict'] == [True, True] for r in scored)


def test_a_run_keeps_the_name(module, tmp_path, capsys):
    name = module(RHYME)
    (tmp_path/'mine.jsonl').write_text(record(name)*2)
    (tmp_path/'run.yaml').write_text(f'kinds: [{name}]\nmodel: {shipped("toy/start")}\ntrain: mine.jsonl\n')
    assert main(['train', '--config', 'run.yaml', '--trust', '--out', 'run', '--cpu', 'true', '--steps', '1', '--batch', '2', '--m', '2',
                 '--max_new_tokens', '8']) == 0, capsys.readouterr().err
    assert f'kinds: {name}\n' in (tmp_path/'run'/'config.yaml').read_text()


def test_a_data_file_imports_nothing(module, tmp_path, capsys):
    name = module('open("imported", "w").close()\n' + RHYME)
    (tmp_path/'mine.jsonl').write_text(record(name) + record(f'{name}:{name}'))
    assert main(['eval', '--model', 'shipped:toy/start', '--data', 'mine.jsonl']) == 2
    assert not (tmp_path/'imported').exists()


@pytest.mark.parametrize('first', ['', 'import hir.constraints.suites.ifeval', 'import hir.toy.toy, hir.constraints.judge', 'import hir.methods.hir'])
def test_built_in_kinds_are_found_in_a_source_tree(tmp_path, first):
    "A tree on the path that nobody installed, whatever was imported before: no entry point is needed."
    shutil.copytree(Path(hir.__file__).parent, tmp_path/'hir', ignore=shutil.ignore_patterns('__pycache__', 'data'))
    code = f'''
import importlib.metadata
real = importlib.metadata.entry_points
importlib.metadata.entry_points = lambda **kw: () if kw.get('group') == 'hir.kinds' else real(**kw)
{first}
import hir
from hir.constraints.constraint import kinds
assert hir.__file__.startswith({str(tmp_path)!r}), hir.__file__
print(len(kinds()))
'''
    env = {k: v for k, v in os.environ.items() if k != 'HIR_KINDS'} | {'PYTHONPATH': str(tmp_path)}
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=env, cwd=tmp_path)
    assert done.stdout.strip() == '138', done.stdout + done.stderr[-500:]
    listed = subprocess.run([sys.executable, '-m', 'hir', 'kinds'], capture_output=True, text=True, env=env, cwd=tmp_path)
    assert listed.returncode == 0 and len(listed.stdout.splitlines()) == 138
