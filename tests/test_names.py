"The front door, and the names of the package: annotated where they are public, one meaning each."
import ast, inspect, subprocess, sys
from collections import defaultdict
from functools import lru_cache

import pytest
import hir

from checkout import ROOT

MODULES = sorted(p.relative_to(ROOT).as_posix() for p in (ROOT/'hir').rglob('*.py') if p.name != '_modidx.py')


# ---- the front door

def run(code): return subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT, check=True).stdout

def test_the_door_opens_without_torch_and_shows_what_it_has():
    said = run('import sys, hir; print(sorted(m for m in sys.modules if m.startswith("hir.")), "torch" in sys.modules, '
               '[n for n in dir(hir) if n[0] != "_" and n != "TYPE_CHECKING"])')
    names = ['Constraint', 'Instruction', 'Method', 'evaluate', 'fit', 'hindsight', 'kind', 'load_instructions',
             'load_policy', 'make_config', 'verify']
    assert said == f'[] False {names}\n'

@pytest.mark.parametrize('names', ['Constraint, Instruction, kind, load_instructions, verify'])
def test_what_needs_no_torch_loads_none(names):
    assert run(f'import sys; from hir import {names}; print("torch" in sys.modules)') == 'False\n'

@pytest.mark.parametrize('name', hir.__all__)
def test_a_name_of_the_door_is_that_of_its_module(name):
    found = getattr(hir, name)
    assert found is getattr(sys.modules[f'hir.{hir._DOOR[name]}'], name) and hir.__dict__[name] is found

def test_editors_are_told_of_the_same_names():
    told = {(a.name, n.module) for n in ast.walk(ast.parse((ROOT/'hir/__init__.py').read_text()))
            if isinstance(n, ast.ImportFrom) and n.level for a in n.names}
    assert told == set(hir._DOOR.items())

def test_a_mistyped_name_is_told_the_nearest():
    with pytest.raises(AttributeError, match="hir has no 'verfy'; did you mean 'verify'?"): hir.verfy
    with pytest.raises(ImportError, match='Hindsight'): from hir import Hindsight


# ---- names

@lru_cache(maxsize=None)
def tree(module): return ast.parse((ROOT/module).read_text(encoding='utf-8'))

def defined(module):
    "What a module defines at its top: name -> node."
    found = {}
    for n in tree(module).body:
        if isinstance(n, (ast.FunctionDef, ast.ClassDef)): found[n.name] = n
        targets = n.targets if isinstance(n, ast.Assign) else [n.target] if isinstance(n, ast.AnnAssign) else []
        found |= {x.id: n for t in targets for x in ast.walk(t) if isinstance(x, ast.Name)}
    return {k: v for k, v in found.items() if not k.startswith('__')}

def absolute(module, node):
    "The file that a relative import takes its names from."
    folder = module.split('/')[:-node.level]
    return '/'.join(folder + (node.module or '').split('.')) + '.py'

def test_a_name_means_one_thing():
    where = defaultdict(list)
    for m in MODULES:
        for name in defined(m): where[name].append(m)
    assert {name: ms for name, ms in where.items() if len(ms) > 1} == {}

def test_private_names_stay_in_their_module():
    taken = [(m, a.name) for m in MODULES for n in ast.walk(tree(m)) if isinstance(n, ast.ImportFrom) and n.level
             for a in n.names if a.name.startswith('_') and absolute(m, n) in MODULES]
    assert taken == []

def signatures(module):
    "Public functions, and public methods of public classes, as (name, node, is it a method?)."
    for name, n in defined(module).items():
        if name.startswith('_'): continue
        if isinstance(n, ast.FunctionDef): yield name, n, False
        if isinstance(n, ast.ClassDef):
            yield from ((f'{name}.{f.name}', f, True) for f in n.body
                        if isinstance(f, ast.FunctionDef) and (not f.name.startswith('_') or f.name == '__init__'))

def bare(node, method):
    "Parameters without an annotation, and 'return'."
    a = node.args
    own = (a.posonlyargs + a.args)[1 if method and not any(isinstance(d, ast.Name) and d.id == 'staticmethod'
                                                           for d in node.decorator_list) else 0:]
    found = [p.arg for p in [*own, *a.kwonlyargs] if p.annotation is None]
    return found + ['return']*(node.returns is None and node.name != '__init__')

@pytest.mark.parametrize('module', MODULES)
def test_public_names_are_annotated(module):
    assert {name: b for name, n, method in signatures(module) if (b := bare(n, method))} == {}

def test_annotations_can_be_read():
    import importlib, typing
    for m in MODULES:
        if m.endswith('__init__.py') or '__main__' in m: continue
        module = importlib.import_module(m[:-3].replace('/', '.'))
        for name in getattr(module, '__all__', ()):
            if inspect.isfunction(f := getattr(module, name)) and f.__module__ == module.__name__: typing.get_type_hints(f)
