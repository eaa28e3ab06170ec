"The environment against the package `verifiers` itself: it asks the toy at an endpoint on 127.0.0.1, and its rewards are our verdicts."
import asyncio, json, os, re, subprocess, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

vf = pytest.importorskip('verifiers.v1', reason='not installed: see tests/adapters/verifiers.txt')

import torch
from checkout import ROOT
from hir.adapters.verifiers_env import answer_scores, instruction_env
from hir.constraints.constraint import Constraint
from hir.constraints.verifier import cla, verify
from hir.files import DataError, shipped
from hir.instructions.instruction import Instruction, Message, load_instructions, record_of
from hir.policies.policy import load_policy

GUIDE = '\n'.join(''.join(c['source']) for c in json.loads((ROOT/'nbs/howto/use_verifiers.ipynb').read_text(encoding='utf-8'))['cells'])
ASKED = shipped('toy/heldout.jsonl').read_text(encoding='utf-8').splitlines(keepends=True)[:3]

def blocks(language): return re.findall(rf'^```{language}\n(.*?)^```', GUIDE, re.M | re.S)


# ---- the endpoint

class Endpoint(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
        with self.server.lock: status, said = self.server.answer(body)
        self.server.bodies.append(body)
        choice = {'index': 0, 'finish_reason': 'stop', 'message': {'role': 'assistant', 'content': said}}
        out = json.dumps({'id': '1', 'object': 'chat.completion', 'created': 0, 'model': 'toy', 'choices': [choice]}).encode()
        self.send_response(status); self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(out))); self.end_headers(); self.wfile.write(out)
    def log_message(self, *args): pass

@pytest.fixture
def endpoint(monkeypatch):
    for name in ('HTTP_PROXY', 'http_proxy', 'ALL_PROXY', 'all_proxy'): monkeypatch.delenv(name, raising=False)
    server = ThreadingHTTPServer(('127.0.0.1', 0), Endpoint)
    server.lock, server.bodies, server.url = threading.Lock(), [], f'http://127.0.0.1:{server.server_port}/v1'
    threading.Thread(target=server.serve_forever, kwargs={'poll_interval': .02}, daemon=True).start()
    yield server
    server.shutdown(); server.server_close()

def the_toy():
    "A function from a request to the toy's likeliest answer."
    model, tokenizer = load_policy(shipped('toy/start'))
    def answer(body):
        ids = tokenizer.apply_chat_template(body['messages'], add_generation_prompt=True, return_tensors='pt', return_dict=True)
        with torch.no_grad(): out = model.generate(**ids, max_new_tokens=32, do_sample=False)
        return 200, tokenizer.decode(out[0, ids['input_ids'].shape[1]:], skip_special_tokens=True)
    return answer


# ---- runs

def environment(tmp_path, monkeypatch, name, *args, **kw):
    "A module of that name that holds the environment."
    (tmp_path/f'{name}.py').write_text('from test_verifiers_adapter import made\nInstructions, AskOnce = made\n'
                                       "__all__ = ['Instructions', 'AskOnce']\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, 'test_verifiers_adapter', sys.modules[__name__])
    monkeypatch.setattr(sys.modules[__name__], 'made', instruction_env(*args, **kw), raising=False)
    return vf.load_environment(vf.resolve_env_config({'taskset': {'id': name}, 'agent': {'runtime': {'type': 'subprocess'}}}))

def traces(env, url):
    "The trace of each task."
    ctx = vf.ModelContext(client=vf.EvalClientConfig(base_url=url, api_key_var='NO_KEY'), model='toy', sampling=vf.SamplingConfig())
    async def run():
        async with env.serving(): return [await env.run_slot(slot, ctx) for task in env.taskset for slot in env.slots(task)]
    episodes = asyncio.run(run())
    assert all(len(e.traces) == 1 for e in episodes)
    return [e.traces[0] for e in episodes]

def followed(trace): return trace.rewards['followed'] and trace.rewards['followed'].score


def test_the_lines_of_the_guide(endpoint, tmp_path):
    "Its module, its command and its table, as they stand; what it shows is what comes out."
    endpoint.answer = the_toy()
    module, reading = blocks('python')
    (tmp_path/'sailors.py').write_text(module)
    (tmp_path/'heldout.jsonl').write_text(''.join(ASKED))
    env = os.environ | {'PATH': os.pathsep.join([str(Path(sys.executable).parent), os.environ['PATH']])}
    def run(line):
        done = subprocess.run(line, shell=isinstance(line, str), cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout
    run(blocks('sh')[0].replace('http://localhost:8000/v1', endpoint.url))
    assert sorted(run([sys.executable, '-c', reading]).splitlines()) == sorted(blocks('text')[0].splitlines())   # first done, first written
    lines = [json.loads(l)['traces'][0] for l in (tmp_path/'runs/first/traces.jsonl').read_text().splitlines()]
    assert len(lines) == len(endpoint.bodies) == 3
    for t in lines:
        q = next(q for q in load_instructions(tmp_path/'heldout.jsonl') if q.prompt == t['nodes'][0]['message']['content'])
        v = verify(q.constraints, t['nodes'][-1]['message']['content'], reading='meant')
        assert t['rewards']['followed']['score'] == cla(v) == t['metrics']['cla']

def test_system_prompt_and_earlier_turns_are_sent_and_the_answer_is_scored_as_it_came(endpoint, tmp_path, monkeypatch):
    plain, last = Constraint('punctuation:no_comma'), Constraint('startend:end_checker', {'end_phrase': 'Ahoy!'})
    chat = Instruction('Greet me.', [plain, last], earlier=[Message('system', 'Be brief.'), Message('user', 'Hi'), Message('assistant', 'Yes?')])
    said = '<think>No, no commas, I must end with it.</think>\nWelcome! Ahoy!'
    endpoint.answer = lambda body: (200, said)
    for thinking, reward in (('cut', 1.), ('keep', 0.)):
        trace, = traces(environment(tmp_path, monkeypatch, f'chat_{thinking}', [chat], thinking=thinking), endpoint.url)
        assert trace.ok and followed(trace) == reward
        assert (followed(trace), trace.metrics) == answer_scores(record_of(chat), said, thinking=thinking)
    assert [b['messages'] for b in endpoint.bodies] == [chat.messages]*2

def test_what_went_wrong_has_no_reward_and_silence_has_one(endpoint, tmp_path, monkeypatch):
    qs = [Instruction(task, [Constraint('punctuation:no_comma')]) for task in ('Fail.', 'Be silent.', 'Speak.')]
    answers = {'Fail.': (400, 'no'), 'Be silent.': (200, ''), 'Speak.': (200, 'Ahoy')}
    endpoint.answer = lambda body: next(a for task, a in answers.items() if body['messages'][-1]['content'].startswith(task))
    failed, silent, spoken = traces(environment(tmp_path, monkeypatch, 'wrong', qs), endpoint.url)
    assert not failed.ok and failed.errors and not failed.rewards.get('followed')
    assert (silent.ok, followed(silent), spoken.ok, followed(spoken)) == (True, 0., True, 1.)

def test_a_trace_without_an_answer_is_an_error():
    task = next(iter(instruction_env(load_instructions(shipped('toy/heldout.jsonl'))[:1])[0](vf.TasksetConfig())))
    trace = type('Trace', (), {'assistant_messages': []})()
    with pytest.raises(ValueError, match='no answer to score'): asyncio.run(task.followed(trace))

def test_what_rules_cannot_score_is_refused_before_anything_is_asked():
    with pytest.raises(DataError, match='instruction 0: .*judge'):
        instruction_env([Instruction('Greet.', [Constraint('judge:criterion', {'criterion': 'Be kind.'})])])
