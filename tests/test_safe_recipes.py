"Recipes from strangers: no module is imported, no endpoint asked, no key sent and nothing deleted on a file's word alone."
import json
import os
import re
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

import hir
from hir.cli import config_files, main
from hir.constraints.constraint import Constraint
from hir.constraints.judge import Judge, JudgeError
from hir.export import export_run, model_card
from hir.files import shipped
from hir.trust import STRUCK, asks_of, endpoint_of, keeps_secrets, struck, struck_text
from hir.training.config import ConfigError, FIELDS, make_config, read_config, read_known, save_config

from checkout import ROOT

TOY = ['--model', 'shipped:toy/start', '--train', 'shipped:toy/train.jsonl', '--cpu', 'true', '--steps', '1', '--batch', '2', '--m', '2',
       '--max_new_tokens', '8', '--micro', '8']
MINE = '''
from pathlib import Path
Path(__file__).with_suffix('.ran').touch()
from hir.methods.sft import sft
from hir.policies.engines.hf import HFEngine as Engine
from torch.optim import AdamW
def reward(verdict): return 1.
def select(*args, **kw): return []
'''

@pytest.fixture
def here(tmp_path, monkeypatch):
    "A folder to stand in, in which a module of that name leaves a file where it is imported."
    monkeypatch.chdir(tmp_path); monkeypatch.setenv('HIR_KINDS', ''); monkeypatch.setattr(sys, 'path', [p for p in sys.path if p])
    (tmp_path/'strange.py').write_text(MINE)
    yield tmp_path
    sys.modules.pop('strange', None)

def ran(here): return bool([*here.glob('*.ran')])

def told(capsys, *words, status=2):
    assert main([str(w) for w in words]) == status, capsys.readouterr()
    out, err = capsys.readouterr()
    return err if status else out

def command(*words, cwd, module=True, **env):
    "A process of its own, in a folder; `module`: as python -m hir, else as the command."
    start = ['-m', 'hir'] if module else [str(Path(sys.executable).parent/'hir')]
    own = {k: v for k, v in os.environ.items() if k not in ('PYTHONPATH', 'PYTHONSAFEPATH', 'HIR_KINDS')} | {'PYTHONPATH': str(ROOT)}
    return subprocess.run([sys.executable, *start, *map(str, words)], cwd=cwd, env=own | env, capture_output=True, text=True)


# ---- code from the working folder

SHADOWS = ('yaml', 'tqdm', 'torch', 'transformers', 'json', 'langdetect', 'emoji', 'numpy', 'argparse', 'multiprocessing', 'openai', 'sitecustomize',
           'usercustomize', 'pickle', 'socket', 'tempfile', 'random', 'nltk', 'vllm', 'bitsandbytes', 'sentencepiece', 'kernels', 'deepspeed')

@pytest.fixture
def littered(tmp_path):
    "A folder of modules with well-known names, and of a package with an entry point."
    for name in SHADOWS: (tmp_path/f'{name}.py').write_text(f'import os; open(os.path.dirname(os.path.abspath(__file__)) + "/{name}.ran", "w")\n')
    (tmp_path/'evil-1.dist-info').mkdir()
    (tmp_path/'evil-1.dist-info'/'METADATA').write_text('Metadata-Version: 2.1\nName: evil\nVersion: 1\n')
    (tmp_path/'evil-1.dist-info'/'entry_points.txt').write_text('[hir.kinds]\nevil = evil\n\n[torch.backends]\nevil = evil:f\n')
    (tmp_path/'evil.py').write_text('open("evil.ran", "w")\n')
    record = {'key': 1, 'prompt': 'p', 'instruction_id_list': ['punctuation:no_comma'], 'kwargs': [{}], 'response': 'x'}
    (tmp_path/'in.jsonl').write_text((json.dumps(record) + '\n')*70)
    return tmp_path

@pytest.mark.parametrize('module', [True, False], ids=['python -m hir', 'hir'])
@pytest.mark.parametrize('words', ['verify in.jsonl -o out.jsonl', 'kinds', 'train --help', 'methods dpo', 'config',
                                   'train --config toy --dry-run'], ids=lambda w: w.split()[0])
def test_modules_beside_the_user_are_not_taken(littered, words, module):
    "Python 3.10 has no safe path, and `python -m` imports some of its own modules before anything of ours."
    done = command(*words.split(), cwd=littered, module=module)
    assert done.returncode == 0, done.stderr
    assert sorted(p.stem for p in littered.glob('*.ran')) == []

@pytest.mark.skipif(sys.version_info < (3, 11), reason='Python 3.10 has no safe path for its children')
def test_nor_by_the_workers_of_verify(littered):
    done = command('verify', 'in.jsonl', '-o', 'out.jsonl', '--workers', 2, cwd=littered)
    assert done.returncode == 0 and sorted(p.stem for p in littered.glob('*.ran')) == [], done.stderr

KIND = 'from hir.constraints.constraint import kind\n@kind("own:no_x", "No x.")\ndef no_x(response): return "x" not in response\n'

@pytest.mark.parametrize('module', [True, False], ids=['python -m hir', 'hir'])
def test_a_module_that_is_named_is_found_and_the_others_come_last(littered, module):
    (littered/'own.py').write_text(KIND)
    for said in (dict(words=['kinds', 'own:', '--kinds', 'own']), dict(words=['kinds', 'own:'], HIR_KINDS='own')):
        done = command(*said.pop('words'), cwd=littered, module=module, **said)
        assert done.returncode == 0 and 'own:no_x' in done.stdout, done.stderr
        assert not {p.stem for p in littered.glob('*.ran')} & {'yaml', 'tqdm', 'json', 'emoji', 'langdetect', 'evil'}

def test_in_safe_path_mode_nothing_is_found_there(littered):
    (littered/'own.py').write_text(KIND)
    done = command('kinds', 'own:', '--kinds', 'own', cwd=littered, PYTHONSAFEPATH='1')
    assert done.returncode == 2 and 'cannot import' in done.stderr
    (littered/'named').mkdir(); (littered/'named'/'own.py').write_text(KIND)
    done = command('kinds', 'own:', '--kinds', 'own', cwd=littered, PYTHONSAFEPATH='1', PYTHONPATH=f'{ROOT}{os.pathsep}{littered/"named"}')
    assert done.returncode == 0, done.stderr


# ---- code, addresses and deletions in settings

ASKS = {'reward': 'strange:reward', 'engine': 'strange:Engine', 'optimizer': 'strange:AdamW', 'method': 'strange:sft', 'kinds': 'strange',
        'judge_url': 'http://127.0.0.1:1/v1', 'out': '/elsewhere', 'resume': 'fresh', 'engine_options': '{"trust_remote_code": true}',
        'attention': 'stranger/kernel', 'judge_cache': '../cache.jsonl'}
MORE = [{'method': {'name': 'strange:sft'}}, {'method': {'name': 'hir', 'select': 'strange:select'}}, {'method.select': 'strange:select'},
        {'kinds': ['strange']}, {'out': '../x'}, {'out': 'runs/../../x'}, {'resume': 'auto'}, {'resume': 'runs/x/checkpoint-000001'},
        {'engine_options': {'worker_cls': 'strange.W'}}, {'engine_options': {'hf_overrides': {'a': 1}}}, {'reward': 'os:system'}]

@pytest.mark.parametrize('asked', [*({n: v} for n, v in ASKS.items()), *MORE], ids=str)
def test_a_recipe_asks_in_vain(here, capsys, asked):
    (here/'r.yaml').write_text(yaml.safe_dump(asked))
    sys.path.append(str(here)); name = next(iter(asked)); before = sorted(here.rglob('*'))
    said = told(capsys, 'train', '--config', 'r.yaml', *TOY)
    assert re.match(rf"hir: error: r.yaml: setting '{name}[\w.]*' .*--{name}.*--trust", said), said
    with pytest.raises(ConfigError, match='trust=True'): read_config('r.yaml')
    assert not ran(here) and sorted(here.rglob('*')) == before

def test_a_link_leads_elsewhere_too(here, tmp_path_factory, capsys):
    (here/'runs').symlink_to(tmp_path_factory.mktemp('elsewhere')); (here/'r.yaml').write_text('out: runs/x\n')
    assert 'writes outside this folder' in told(capsys, 'train', '--config', 'r.yaml', *TOY)

@pytest.mark.parametrize('name', ['reward', 'engine', 'optimizer', 'method'])
@pytest.mark.parametrize('how', ['named', 'trusted'])
def test_with_a_word_it_is_done(here, capsys, name, how):
    (here/'r.yaml').write_text(yaml.safe_dump({name: ASKS[name]} | ({'share': False} if how == 'named' else {})))
    word = ['--trust'] if how == 'trusted' else [f'--{name}', ASKS[name]]
    told(capsys, 'train', '--config', 'r.yaml', *TOY, *word, status=0)
    assert ran(here) and (here/'runs'/'hir'/'policy').is_dir()

def test_settings_that_are_said_otherwise_are_not_asked_about(here, capsys):
    (here/'r.yaml').write_text(yaml.safe_dump({n: ASKS[n] for n in ('reward', 'engine', 'optimizer', 'out', 'resume')}
                                              | {'method': {'name': 'strange:sft', 'n': 1}}))
    words = ['--reward', 'ila', '--engine', 'hf', '--optimizer', 'adamw', '--out', here/'run', '--resume', 'no', '--method', 'hir']
    told(capsys, 'train', '--config', 'r.yaml', *TOY, *words, status=0)
    assert not ran(here) and (here/'run'/'policy').is_dir()

def test_the_settings_of_a_method_do_not_vouch_for_it(here, capsys):
    (here/'r.yaml').write_text('method: {name: "strange:sft"}\n')
    assert "setting 'method'" in told(capsys, 'train', '--config', 'r.yaml', *TOY, '--method.beta', '1')
    assert not ran(here)

@pytest.mark.parametrize('name', sorted(config_files()))
def test_what_came_with_hir_needs_no_word(name):
    path = config_files()[name]
    if 'compute_environment' not in path.read_text(): assert asks_of(yaml.safe_load(path.read_text())) == {} and read_config(path)

@pytest.mark.parametrize('given', [(), ('--trust',)])
def test_a_dry_run_imports_nothing_and_says_what_a_run_would(here, capsys, given):
    (here/'r.yaml').write_text(yaml.safe_dump({n: ASKS[n] for n in ('reward', 'engine', 'optimizer', 'method', 'kinds', 'out', 'judge_cache', 'judge_url')}))
    sys.path.append(str(here)); before = sorted(here.rglob('*'))
    said = told(capsys, 'train', '--config', 'r.yaml', *TOY, '--dry-run', *given, status=0)
    for n in ('reward', 'engine', 'optimizer', 'method', 'kinds'): assert f'{ASKS[n]} ({n})' in said, said
    assert ("WARNING: r.yaml: setting 'out' writes outside this folder" in said) == (not given)
    assert not ran(here) and sorted(here.rglob('*')) == before

def test_a_dry_run_imports_nothing_that_the_command_line_names(here, capsys):
    sys.path.append(str(here))
    words = [w for n in ('reward', 'engine', 'optimizer', 'method', 'kinds') for w in (f'--{n}', ASKS[n])]
    said = told(capsys, 'train', *TOY, *words, '--method.beta', '1', '--dry-run', status=0)
    assert 'strange:sft (method)' in said and not ran(here)

def test_a_dry_run_reads_data_with_kinds_that_it_does_not_import(here, capsys, monkeypatch):
    (here/'own.py').write_text(KIND + 'open("own.ran", "w")\n')
    (here/'mine.jsonl').write_text('{"task": "Write.", "constraints": [{"kind": "own:no_x"}, {"kind": "own:far", "args": {"n": 3, "list": [1]}}]}\n')
    words = ['train', *TOY, '--train', 'mine.jsonl', '--batch', '1', '--dry-run']
    assert '1 instructions' in told(capsys, *words, '--kinds', 'own', status=0)
    monkeypatch.setenv('HIR_KINDS', 'own')
    assert 'own (HIR_KINDS)' in told(capsys, *words, status=0)
    monkeypatch.setenv('HIR_KINDS', '')
    assert 'unknown kind' in told(capsys, *words) and not ran(here)

def test_a_judge_is_not_asked_and_its_cache_not_made_by_a_dry_run(here, capsys):
    told(capsys, 'train', *TOY, '--judge', 'm', '--judge_cache', 'new/cache.jsonl', '--dry-run', status=0)
    assert not (here/'new').exists()


# ---- a run folder from a stranger

@pytest.fixture
def run(here, capsys):
    told(capsys, 'train', *TOY, '--out', 'run', status=0)
    return here/'run'

def rewritten(run, **more):
    path = run/'config.yaml'
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | more))

@pytest.mark.parametrize('more', [{'method': 'strange:sft'}, {'method': {'name': 'strange:sft', 'n': 1}}, {'method': {'name': 'hir', 'select': 'strange:select'}},
                                  {'reward': 'strange:reward', 'engine': 'strange:Engine', 'kinds': 'strange'}], ids=str)
def test_the_settings_of_a_run_import_nothing(run, here, capsys, more):
    rewritten(run, **more); sys.path.append(str(here))
    told(capsys, 'export', 'run', '-o', 'model', status=0)
    assert 'going on from' in told(capsys, 'train', *TOY, '--out', 'run', '--resume', 'auto', '--steps', '2', status=0)
    assert not ran(here) and 'strange' in (here/'model'/'README.md').read_text()

def test_export_says_what_it_left_out_and_takes_a_word(run, here, capsys):
    rewritten(run, method={'name': 'strange:sft'})
    assert 'strange:sft was not imported' in told(capsys, 'export', 'run', '-o', 'model', status=0)
    assert 'not imported' not in told(capsys, 'export', 'run', '-o', 'again', '--trust', status=0) and ran(here)

def test_its_settings_as_a_recipe_need_a_word(run, here, capsys):
    rewritten(run, resume='auto')
    assert "setting 'resume' goes on in an earlier run" in told(capsys, 'train', '--config', 'run/config.yaml', '--steps', '2')
    told(capsys, 'train', '--config', 'run/config.yaml', '--resume', 'auto', '--steps', '2', status=0)      # `out` is beside us


# ---- keys

class Listener(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers.get('Content-Length', 0)))
        self.server.heard.append({k.lower(): v for k, v in self.headers.items()})
        to = self.server.to
        self.send_response(307 if to else 200)
        if to: self.send_header('Location', to + self.path)
        body = b'' if to else json.dumps({'id': 'x', 'object': 'chat.completion', 'created': 0, 'model': 'm', 'choices': [
            {'index': 0, 'finish_reason': 'stop', 'message': {'role': 'assistant', 'content': 'Yes'}}]}).encode()
        self.send_header('Content-Type', 'application/json'); self.send_header('Content-Length', str(len(body)))
        self.end_headers(); self.wfile.write(body)
    def log_message(self, *args): pass

@pytest.fixture
def listen(monkeypatch):
    "Starts endpoints that note what they hear; the environment is full of secrets."
    servers = []
    def start(to=''):
        server = ThreadingHTTPServer(('127.0.0.1', 0), Listener); server.heard, server.to = [], to
        server.url = f'http://127.0.0.1:{server.server_port}/v1'
        threading.Thread(target=server.serve_forever, kwargs={'poll_interval': .02}, daemon=True).start()
        servers.append(server); return server
    for name in ('HTTP_PROXY', 'http_proxy', 'ALL_PROXY', 'all_proxy', 'OPENAI_BASE_URL'): monkeypatch.delenv(name, raising=False)
    for name, value in SECRETS.items(): monkeypatch.setenv(name, value)
    yield start
    for server in servers: server.shutdown(); server.server_close()

SECRETS = {'OPENAI_API_KEY': 'sesame-of-the-environment', 'OPENAI_ADMIN_KEY': 'sesame-of-the-admin', 'OPENAI_ORG_ID': 'sesame-of-the-org',
           'OPENAI_PROJECT_ID': 'sesame-of-the-project', 'OPENAI_CUSTOM_HEADERS': 'X-Gate: sesame-of-the-gate'}
ITEM = [('Write.', 'a response', Constraint('judge:criterion', {'criterion': 'The tone is calm.'}))]

def test_the_key_goes_to_the_endpoint_of_the_environment(listen, monkeypatch):
    home = listen(); monkeypatch.setenv('OPENAI_BASE_URL', home.url)
    for url in (None, home.url, home.url + '/', home.url.replace('http', 'HTTP')): assert Judge('m', url)(ITEM).ok == (True,)
    assert [h['authorization'] for h in home.heard] == ['Bearer sesame-of-the-environment']*4 and home.heard[0]['x-gate']

@pytest.mark.parametrize('named', [True, False])
def test_and_nowhere_else(listen, monkeypatch, named):
    home, other = listen(), listen()
    if named: monkeypatch.setenv('OPENAI_BASE_URL', home.url)
    for url in (other.url, other.url + '/other', other.url.replace('//', '//me:pw@')): assert Judge('m', url)(ITEM).ok == (True,)
    assert len(other.heard) == 3 and not home.heard
    assert 'sesame' not in str(other.heard)

def test_the_same_host_is_not_the_same_endpoint(listen, monkeypatch):
    home = listen(); monkeypatch.setenv('OPENAI_BASE_URL', home.url)
    Judge('m', home.url + '/../other')(ITEM)
    assert 'sesame' not in str(home.heard)

def test_a_redirection_takes_no_key_along(listen, monkeypatch):
    away = listen(); home = listen(away.url.removesuffix('/v1')); monkeypatch.setenv('OPENAI_BASE_URL', home.url)
    Judge('m')(ITEM); Judge('m', home.url, api_key='sesame-of-my-own')(ITEM)
    assert len(home.heard) == 2 and len(away.heard) == 2 and 'sesame' not in str(away.heard)

def test_a_key_of_ones_own_goes_where_it_is_sent(listen):
    other = listen(); Judge('m', other.url, api_key='my-own')(ITEM)
    assert other.heard[0]['authorization'] == 'Bearer my-own' and 'sesame' not in str(other.heard)

@pytest.mark.parametrize('url', ['http://judge.example/v1', 'http://localhost.example/v1', 'http://localhost@judge.example/v1', 'http://192.168.0.7/v1'])
def test_the_key_does_not_go_over_plain_http(monkeypatch, url):
    monkeypatch.setenv('OPENAI_API_KEY', 'sesame'); monkeypatch.setenv('OPENAI_BASE_URL', url)
    for given in (None, url):
        with pytest.raises(JudgeError, match='plain http'): Judge('m', given)
    monkeypatch.delenv('OPENAI_API_KEY'); Judge('m')

def test_a_recipe_with_a_word_still_gets_no_key(listen, here):
    other = listen()
    cfg = make_config({'judge': 'm', 'judge_url': other.url})
    from hir.training.config import rules_of
    rules_of(cfg).judge(ITEM)
    assert other.heard and 'sesame' not in str(other.heard)

HIDDEN = {'engine_options': '{"hf_token": "sesame", "nested": {"apiKey": "sesame", "args": ["--api-key", "sesame", "--token=sesame"]}}',
          'judge_url': 'https://me:sesame@judge.example/v1?api_key=sesame', 'chat': '{"headers": {"Authorization": "Bearer sesame"}}',
          'model': 'https://me:sesame@host/model', 'judge': 'm?access_token=sesame'}

def test_secrets_do_not_stand_in_the_settings_of_a_run(here):
    save_config(make_config(HIDDEN), here/'config.yaml')
    assert 'sesame' not in (here/'config.yaml').read_text() and (here/'config.yaml').read_text().count(STRUCK) >= 7
    back = read_known(here/'config.yaml')[0]
    from hir.training.config import object_of, rules_of
    with pytest.raises(ConfigError, match="'engine_options': a secret was struck out"): object_of('engine_options', back.engine_options)
    with pytest.raises(ConfigError, match="'judge_url': a password was struck out"): rules_of(back)

def test_nor_in_a_model_card(run, here):
    rewritten(run, **HIDDEN)                                    # as an earlier version wrote them
    assert 'sesame' not in model_card(run, 'mine', 1) and STRUCK in model_card(run, 'mine', 1)
    assert 'sesame' not in ''.join(p.read_text(errors='replace') for p in export_run(run, here/'model').glob('*.md'))

def test_nor_in_what_a_run_and_its_errors_say(run, here, capsys):
    options = '{"hf_token": "sesame"}'
    said = told(capsys, 'train', *TOY, '--out', 'run', '--resume', 'auto', '--steps', '2', '--engine_options', options)
    assert 'sesame' not in said and 'hf_token' in said
    (here/'r.yaml').write_text('judge_url: https://me:sesame@judge.example/v1\nlr: "token=sesame"\n')
    for words in ((), ('--trust',), ('--judge_url', 'https://me:sesame@judge.example:x/v1', '--lr', '1', '--judge', 'm')):
        assert 'sesame' not in told(capsys, 'train', '--config', 'r.yaml', *TOY, *words)
    (here/'r.yaml').write_text('judge_url: https://me:sesame@judge.example/v1\n')
    assert f'{STRUCK}@judge.example' in told(capsys, 'train', '--config', 'r.yaml', *TOY, '--dry-run', status=0)

def test_a_changed_setting_is_said_without_its_secret(run, here):
    from hir.training.folder import changes
    rewritten(run, engine_options='{"hf_token": "sesame", "tolerance": 1}')
    found, said = changes(make_config({'engine_options': '{"hf_token": "sesame2", "tolerance": 2}'}), run, {})
    assert 'engine_options' in found and 'sesame' not in str(said) + str(found)

def test_a_suite_keeps_no_secret(here, capsys):
    (here/'toy.jsonl').write_text(open(shipped('toy/heldout.jsonl')).readline())
    main(['eval', '--model', 'shipped:toy/start', '--suite', 'toy', '--data', 'toy.jsonl', '--responses', 'said', '--max-new-tokens', '4', '--cpu',
          '--engine-options', '{"hf_token": "sesame"}'])
    assert 'sesame' not in ''.join(p.read_text() for p in here.rglob('*.json*')) + ''.join(capsys.readouterr())

def test_what_the_environment_holds_under_a_secret_name_is_struck_out(monkeypatch):
    monkeypatch.setenv('MY_API_KEY', 'a plain looking text')
    assert struck_text('so: a plain looking text!') == f'so: {STRUCK}!'

@pytest.mark.parametrize('name', sorted(FIELDS))
def test_no_setting_is_taken_for_a_secret(name):
    value = getattr(make_config({}), name)
    assert struck({name: value}) == {name: value} and struck(f'{name}: abc') == f'{name}: abc'


# ---- unbounded work: YAML

BILLION = 'a: &a ["lol","lol","lol","lol","lol","lol","lol","lol","lol"]\n' + '\n'.join(
    f'{y}: &{y} [*{x},*{x},*{x},*{x},*{x},*{x},*{x},*{x},*{x}]' for x, y in zip('abcdefg', 'bcdefgh')) + '\nengine_options: *h\n'
BOMBS = {'aliases': BILLION, 'alias in a mapping': 'a: &a {x: 1}\nchat: {<<: *a}\n', 'itself': 'chat: &a [*a]\n', 'a key': '&a lr: 1\nb: *a\n',
         'deep': 'chat: ' + '['*100_000, 'deep mappings': 'chat: ' + '{a: '*50_000, 'deep blocks': ''.join(' '*i + '-\n' for i in range(400)),
         'deep keys': '? '*20_000, 'long': '#'*2**20, 'digits': 'steps: ' + '9'*5_000, 'sixty': 'steps: 1' + ':1'*30_000, 'hex': 'lr: 0x' + 'f'*60_000,
         'float': 'lr: 1' + '0'*400, 'tags': 'lr: !!python/object/apply:os.system ["touch hit"]\n', 'int': 'lr: !!int x', 'bool': 'lr: !!bool x',
         'date': 'lr: 2001-99-99', 'stamp': 'lr: !!timestamp x', 'binary': 'lr: !!binary "@"', 'list key': '? [a, b]\n: 1', 'set': 'lr: !!set {a, b}',
         'two': 'lr: 1\n---\nlr: 2\n', 'nul': 'lr: "\x00"', 'empty int': 'lr: !!int ""', 'omap': 'lr: !!omap [1]', 'merge': '<<: 3\n'}

@pytest.mark.parametrize('name', BOMBS)
def test_yaml_has_bounds(here, name):
    (here/'r.yaml').write_text(BOMBS[name]); t = time.perf_counter()
    with pytest.raises(ConfigError, match='r.yaml') as e: read_config('r.yaml')
    assert time.perf_counter() - t < 5 and len(str(e.value)) < 2000 and not (here/'hit').exists()

def test_a_device_is_no_file_of_settings(here):
    with pytest.raises(ConfigError, match='/dev/zero: more than 128 kB'): read_config('/dev/zero')

@pytest.mark.parametrize('text', ['['*100_000, '{"a":'*50_000, '{"a": ' + '9'*5_000 + '}'], ids=['list', 'object', 'digits'])
def test_json_in_a_setting_has_bounds(text):
    from hir.training.config import object_of
    with pytest.raises(ConfigError, match='engine_options'): object_of('engine_options', text)
    struck(text, 'engine_options'); asks_of({'engine_options': text})

def test_honest_yaml_is_read(here):
    (here/'r.yaml').write_text('# mine\nlr: 5e-4\nsteps: 1_000\nmethod: {name: dpo, beta: .1}\nchat: {enable_thinking: no}\nlora_targets: [q_proj, v_proj]\n'
                               'engine_options: {gpu_memory_utilization: .3}\n')
    assert read_config('r.yaml').method['beta'] == .1


# ---- supply

WORKFLOWS = sorted((ROOT/'.github'/'workflows').glob('*.y*ml'))

@pytest.mark.parametrize('path', WORKFLOWS, ids=lambda p: p.name)
def test_actions_are_named_by_their_commit(path):
    used = re.findall(r'uses:\s*(\S+)(.*)', path.read_text())
    assert used and all(re.fullmatch(r'[\w./-]+@[0-9a-f]{40}', what) and re.search(r'# v\d+\.\d+\.\d+', note) for what, note in used), used

@pytest.mark.parametrize('path', WORKFLOWS, ids=lambda p: p.name)
def test_jobs_may_do_no_more_than_they_must(path):
    flow = yaml.safe_load(path.read_text())
    assert flow['permissions'] == {'contents': 'read'}
    for name, job in flow['jobs'].items():
        writes = [p for p, how in job.get('permissions', {}).items() if how == 'write']
        runs = [s['run'] for s in job['steps'] if 'run' in s]
        assert not (writes and runs), f'{name} runs {runs} with the right to write {writes}'
        for s in job['steps']:
            if 'actions/checkout' in s.get('uses', ''): assert s['with']['persist-credentials'] is False

def test_code_of_a_model_is_never_run():
    "Wherever something is loaded by `from_pretrained` or `from_config`, it is said that its code is not run."
    for path in sorted((ROOT/'hir').rglob('*.py')):
        for call in re.findall(r'\b(?:Auto\w+)\.from_(?:pretrained|config)\((?:[^()]|\([^()]*\))*\)', path.read_text()):
            assert 'trust_remote_code=False' in call or '**own' in call or 'FOLDER' in call, f'{path}: {call}'

@pytest.fixture
def model_with_code(here):
    import shutil
    folder = Path(shutil.copytree(shipped('toy/start'), here/'model'))
    config = json.loads((folder/'config.json').read_text())
    (folder/'config.json').write_text(json.dumps(config | {'model_type': 'strange', 'auto_map': {
        'AutoConfig': 'code.Config', 'AutoModelForCausalLM': 'code.Model'}}))
    (folder/'code.py').write_text(f'open({str(here/"model.ran")!r}, "w")\n')
    return folder

def test_a_model_with_code_of_its_own_is_refused(model_with_code, here, capsys):
    from hir.policies.policy import PolicyError, load_policy
    with pytest.raises(PolicyError, match='cannot be loaded'): load_policy(model_with_code)
    for more in ((), ('--dry-run',)): told(capsys, 'train', *TOY, '--model', model_with_code, *more)
    assert not ran(here)

def test_the_revision_is_asked_of_weights_tokenizer_and_config(monkeypatch, here, capsys):
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    asked = []
    def noted(cls):
        real = cls.from_pretrained.__func__
        def load(own, path, **kw): asked.append((cls.__name__, path, kw.pop('revision', ''), kw['trust_remote_code'])); return real(own, shipped('toy/start'), **kw)
        monkeypatch.setattr(cls, 'from_pretrained', classmethod(load))
    for cls in (AutoConfig, AutoModelForCausalLM, AutoTokenizer): noted(cls)
    monkeypatch.setattr('hir.policies.policy._check_hub', lambda *a: None)               # a hub that knows the name
    words = [w if w != 'shipped:toy/start' else 'owner/name' for w in TOY] + ['--revision', 'abc']
    told(capsys, 'train', *words, '--dry-run', status=0)
    assert {a[0]: a[1:] for a in asked if a[1] == 'owner/name'} == dict.fromkeys(['AutoConfig', 'AutoTokenizer'], ('owner/name', 'abc', False))
    asked.clear(); told(capsys, 'train', *words, '--out', 'run', status=0)
    assert {a[0]: a[1:] for a in asked if a[1] == 'owner/name'} == dict.fromkeys(['AutoModelForCausalLM', 'AutoTokenizer'], ('owner/name', 'abc', False))
    assert 'revision: abc\n' in (here/'run'/'config.yaml').read_text()
    assert re.search(r'`revision` +\| `abc`', model_card(here/'run', 'mine', 1))

def test_a_folder_has_no_revision(capsys, here):
    assert 'has no revision' in told(capsys, 'train', *TOY, '--revision', 'abc')

def test_the_commit_that_a_name_meant_is_kept(here, capsys):
    from hir.instructions.instruction import load_instructions
    from hir.policies.policy import load_policy
    from hir.training.trainer import fit
    model, tokenizer = load_policy(shipped('toy/start')); model.config._commit_hash = 'f'*40
    cfg = make_config(dict(model='owner/name', out='run', steps=1, batch=2, m=2, max_new_tokens=8, cpu=True))
    fit(cfg, model, tokenizer, load_instructions(shipped('toy/train.jsonl'))[:4], progress=False)
    assert json.loads((here/'run'/'hir-run.json').read_text())['data']['model'] == 'f'*40
    assert 'f'*40 in model_card('run', 'mine', 1)
