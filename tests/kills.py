"""SIGKILL at random moments: `python tests/kills.py 200` ends with what was killed and that nothing was lost.

A training run is killed and resumed until it is done, then the next one begins, with things of the user's beside it and in
it; `hir verify` is killed and goes on. Afterwards the weights, the histories and the verdicts are those of a run that was
never killed, and the user's things are what they were. Processes are forked, so that most of their time is work."""
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path

import torch

from hir.files import shipped
from hir.instructions.instruction import load_instructions
from hir.instructions.scoring import score_file
from hir.policies.policy import load_policy
from hir.training.config import make_config
from hir.training.runlog import read_log
from hir.training.trainer import fit

TRAIN = load_instructions(shipped('toy/train.jsonl'))[:4]
KEPT = ('time/', 'seconds', 'cpu_seconds', 'tokens_per_second')


def train(out):
    cfg = make_config({'out': str(out), 'batch': 2, 'm': 2, 'steps': 6, 'max_new_tokens': 8, 'save_every': 1, 'cards_every': 2,
                       'eval_every': 3, 'resume': 'auto', 'cpu': True, 'lr': 1e-3, 'keep': 2})
    fit(cfg, *load_policy(shipped('toy/start')), TRAIN, lambda engine: {'ila': len(engine.generate(TRAIN, 1, 0))/4}, progress=False)

def verify(folder): score_file(folder/'in.jsonl', folder/'out.jsonl', resume='auto')

def forked(work, *args, after=None):
    "Run `work` in a process; after so many seconds it is killed. Was it?"
    pid = os.fork()
    if not pid:
        status = 1
        try:
            with open(os.devnull, 'w') as f, redirect_stdout(f): work(*args)
            status = 0
        except BaseException as e: print(f'{type(e).__name__}: {e}', file=sys.stderr)
        finally: os._exit(status)
    if after is not None: time.sleep(after); os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, 'it failed instead of being killed'
    return os.WIFSIGNALED(status)

def sums(folder): return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob('*')) if p.is_file()}

def mine(folder):
    "Things of the user's, with names like ours."
    names = ('.venv.old/x', '.git.tmp/x', 'checkpoint-500/x', 'checkpoint-000001-best/x', 'notes.md', '.policy.txt')
    for name in names: (folder/name).parent.mkdir(parents=True, exist_ok=True); (folder/name).write_text(f'mine: {name}')
    return {k: v for k, v in sums(folder).items() if k in names}

def told(out):
    "What a run says of itself, but for its clocks."
    logs = [[{k: v for k, v in r.items() if not k.startswith(KEPT)} for r in read_log(out/n)] for n in ('history.jsonl', 'eval.jsonl')]
    return logs, (out/'cards.md').read_text(), [r['step'] for r in read_log(out/'rollouts.jsonl')]

def weights(out): return torch.cat([p.flatten() for p in load_policy(out/'policy')[0].state_dict().values()])

def trained(home, kills, rng, longest):
    "One run, killed until it is done or until there were enough kills; then checked."
    out, done = home/f'run-{kills}', False
    while not done:
        was = forked(train, out, after=rng.uniform(0, longest)) if kills > 0 else forked(train, out)
        kills -= was; done = not was
        if not (out/'notes.md').exists() and (out/'hir-run.json').exists(): kept = mine(out)
    left = sums(out)
    assert {k: left.get(k) for k in kept} == kept, 'a thing of the user has changed'
    assert told(out) == told(home/'whole') and torch.equal(weights(out), weights(home/'whole')), 'the run is not what it was'
    assert not [p for p in out.iterdir() if p.name.startswith(('.checkpoint', '.policy.tmp', '.policy.old'))], 'debris'
    shutil.rmtree(out)
    return kills

def verified(home, kills, rng, longest):
    "One scoring, killed until it is done; then checked."
    kept = mine(home/'verify'); wanted = (home/'wanted.jsonl').read_bytes(); (home/'verify'/'out.jsonl').unlink(missing_ok=True)
    while forked(verify, home/'verify', after=rng.uniform(0, longest) if kills > 0 else None): kills -= 1
    assert (home/'verify'/'out.jsonl').read_bytes() == wanted, 'other verdicts'
    assert {k: sums(home/'verify').get(k) for k in kept} == kept, 'a thing of the user has changed'
    assert not [p for p in (home/'verify').iterdir() if 'out.jsonl.' in p.name], 'debris'
    return kills

def measured(work, *args):
    start = time.perf_counter(); forked(work, *args)
    return time.perf_counter() - start

def main(kills, seed=0):
    torch.set_num_threads(1)
    home, rng = Path(tempfile.mkdtemp()), random.Random(seed)
    (home/'verify').mkdir(); (home/'beside').mkdir(); beside = mine(home/'beside')
    record = {'prompt': 'x', 'instruction_id_list': ['punctuation:no_comma', 'length_constraints:number_sentences'],
              'kwargs': [{}, {'relation': 'at least', 'num_sentences': 2}], 'response': 'The sea is wide. It is never still.'}
    (home/'verify'/'in.jsonl').write_text((json.dumps(record) + '\n')*3000)
    spent = {'training': measured(train, home/'whole'), 'verify': measured(verify, home/'verify')}
    shutil.copy(home/'verify'/'out.jsonl', home/'wanted.jsonl')
    for name, work, n in (('training', trained, kills - kills//4), ('verify', verified, kills//4)):
        left = n
        while left > 0: left = work(home, left, rng, 1.1*spent[name])
        print(f'{name}: killed {n} times, always resumed; nothing lost, nothing of the user touched')
    assert sums(home/'beside') == beside
    shutil.rmtree(home)


if __name__ == '__main__': main(*map(int, sys.argv[1:]))
