"The wheel: it holds what it should, and works where nothing of the checkout is in reach."
import configparser, os, subprocess, sys, venv, zipfile
from pathlib import Path

import pytest

from checkout import copy_to, files

pytestmark = pytest.mark.slow
DATA = ['english.txt', 'smollm2/train.jsonl', 'smollm2/heldout.jsonl', 'verbs.txt', 'toy/train.jsonl', 'toy/heldout.jsonl', 'toy/start/model.safetensors', 'toy/start/tokenizer.json', 'toy/start/config.json']


def run(*words, **kwargs):
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, **kwargs)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    "A wheel built from a copy of the checkout, which building litters."
    home = tmp_path_factory.mktemp('wheel')
    run(sys.executable, '-m', 'pip', 'wheel', '.', '--no-deps', '--no-build-isolation', '-q', '-w', home, cwd=copy_to(home/'copy'))
    return next(home.glob('hir-*.whl'))


@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory):
    "A fresh environment that holds the wheel and, behind it, the packages of this one."
    home = tmp_path_factory.mktemp('installed')
    venv.create(home/'env', symlinks=os.name != 'nt')
    python = home/'env'/('Scripts' if os.name == 'nt' else 'bin')/'python'
    run(sys.executable, '-m', 'pip', '--python', python, 'install', '-q', '--no-deps', '--no-index', wheel)
    own = Path(run(python, '-c', 'import sysconfig; print(sysconfig.get_path("purelib"))').strip())
    behind = [p for p in sys.path if p.endswith(('site-packages', 'dist-packages'))]
    (own/'behind.pth').write_text('\n'.join(behind) + '\n')  # .pth files over there are not read: no editable install
    return python


def test_wheel_holds_the_package_and_its_data(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {f for f in files() if f.startswith('hir/') and f.endswith('.py')} | {f'hir/data/{d}' for d in DATA}
    wanted |= {f for f in files() if f.startswith('hir/configs/')}
    assert wanted <= names, f'missing: {sorted(wanted - names)}'
    other = {n for n in names if not n.startswith(('hir/', 'hir-'))}
    assert not other, f'does not belong there: {sorted(other)}'


def test_wheel_declares_its_entry_points(wheel):
    with zipfile.ZipFile(wheel) as z:
        text = z.read(next(n for n in z.namelist() if n.endswith('.dist-info/entry_points.txt'))).decode()
        licences = [n for n in z.namelist() if n.rsplit('/', 1)[-1] == 'LICENSE']
    declared = configparser.ConfigParser(delimiters='=')
    declared.read_string(text)
    assert declared['console_scripts']['hir'] == 'hir.cli:main'
    assert 'hir.kinds' not in declared                             # for other people's; ours are named in the library
    assert licences


def test_wheel_works_from_another_folder(installed, tmp_path):
    env = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    lines = run(installed, '-c', 'import hir; print(hir.__file__)\n'
                'from hir.files import shipped; print(shipped("toy/start"), len(list(shipped("toy/start").iterdir())))\n'
                'from hir.constraints.constraint import _load_suites; ids = _load_suites(); print("toy:case" in ids, "punctuation:no_comma" in ids)',
                cwd=tmp_path, env=env).split('\n')
    site = str(installed.parent.parent)
    assert lines[0].startswith(site) and lines[1].startswith(site), lines
    assert int(lines[1].split()[-1]) >= 5 and lines[2] == 'True True', lines


def test_command_of_the_wheel_answers(installed, tmp_path):
    env = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    said = run(installed.parent/'hir', '--help', cwd=tmp_path, env=env)
    for word in ('demo', 'train', 'eval'): assert word in said
    assert 'hir' in run(installed, '-m', 'hir', '--help', cwd=tmp_path, env=env)
