"Evaluation by several processes: each response is judged once, and all report alike."
import json
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from subprocess import PIPE, STDOUT, Popen
from types import SimpleNamespace

import pytest

import hir.evaluation.evaluate
from hir.constraints.constraint import Constraint
from hir.evaluation.evaluate import evaluate
from hir.instructions.instruction import Instruction
from hir.constraints.judge import Judged
from hir.policies.rollout import Rollout
from hir.training.context import SharedEngine
from test_launch import environment, finished, free_port, launch

JUDGING = '''
import json
from hir.constraints.constraint import Constraint
from hir.evaluation.evaluate import evaluate
from hir.instructions.instruction import Instruction
from hir.constraints.judge import Judged
from hir.policies.policy import load_policy
from hir.policies.processes import said, start
from hir.policies.engines.hf import HFEngine
from hir.training.context import SharedEngine
from hir.files import shipped

accelerator, asked = start(cpu=True), []
def judge(items):
    "No judge at all agrees with itself less: what it says depends on who asks, and how often."
    out = []
    for _, response, _ in items: asked.append(response); out.append((len(asked) + accelerator.process_index) % 3 > 0)
    return Judged(tuple(out))

model, tokenizer = load_policy(shipped('toy/start'))
instructions = [Instruction(f'Tell of {thing}.', [Constraint('judge:criterion', {'criterion': 'Be warm.'})]) for thing in ('tea', 'rain', 'snow')]
report = evaluate(SharedEngine(HFEngine(model, tokenizer, 8), accelerator), instructions, n=2, judge=judge)
found = dict(asked=len(asked), verdicts=[list(r.verdict.ok) for r in (*report.rollouts, *report.greedy)], summary=report.summary(),
             texts=[r.response for r in (*report.rollouts, *report.greedy)])
every = said(accelerator, found)
if accelerator.is_main_process: print('FOUND ' + json.dumps(every))
accelerator.end_training()
'''


def every(text):
    "What each process found."
    return json.loads(next(line for line in text.splitlines() if line.startswith('FOUND '))[len('FOUND '):])


class Told(SharedEngine):
    "Every process has all rollouts, as after sharing."
    def generate(self, instructions, m, seeds, **sampling):
        return [Rollout(q, f'{s} {j} {sampling}', (1,), (2,), (0.,), (0.,), True, 0, i)
                for i, (q, s) in enumerate(zip(instructions, seeds)) for j in range(m)]

@pytest.mark.parametrize('processes', [1, 2, 3, 5])
def test_processes_that_share_an_engine_share_the_judge(processes, monkeypatch):
    "Threads in place of processes, more of them than instructions too."
    soft = [Instruction(f'Tell of {thing}.', [Constraint('judge:criterion', {'criterion': 'Be warm.'})]) for thing in ('tea', 'rain', 'snow')]
    asked, together, box = Counter(), threading.Barrier(processes), {}
    def said(accelerator, value):
        box[accelerator.process_index] = value; together.wait()
        every = [box[i] for i in range(processes)]; together.wait()
        return every
    monkeypatch.setattr(hir.evaluation.evaluate, 'said', said)
    def judge(items):
        asked.update(response for _, response, _ in items)
        return Judged(tuple(threading.get_ident() % 3 > 0 for _ in items))      # each has an opinion of its own
    def work(rank):
        engine = Told(None, SimpleNamespace(process_index=rank, num_processes=processes))
        return evaluate(engine, soft, n=4, judge=judge)
    with ThreadPoolExecutor(processes) as pool: reports = list(pool.map(work, range(processes)))
    assert len(asked) == 15 and set(asked.values()) == {1}
    assert all(r == reports[0] for r in reports)
    assert [r.group for r in reports[0].rollouts] == [0]*4 + [1]*4 + [2]*4


@pytest.mark.slow
def test_two_processes_judge_each_response_once(tmp_path):
    (tmp_path/'judging.py').write_text(JUDGING)
    both = every(finished(launch('ddp', '--main_process_port', free_port(), str(tmp_path/'judging.py'))))
    one, = every(finished(Popen([sys.executable, str(tmp_path/'judging.py')], env=environment(), stdout=PIPE, stderr=STDOUT, text=True)))
    assert sum(found['asked'] for found in both) == one['asked'] == 9 and min(found['asked'] for found in both) > 0
    assert both[0]['verdicts'] == both[1]['verdicts'] and both[0]['summary'] == both[1]['summary']
    assert both[0]['texts'] == both[1]['texts'] == one['texts']
