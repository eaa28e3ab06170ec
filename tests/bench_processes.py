"""What a step costs: with 1 and 2 processes, and as rollouts, length and vocabulary double.

    python tests/bench_processes.py [--steps 3]

Process CPU seconds on one thread, the least of the steps measured, so that a busy machine matters little. The comparison of
processes is in seconds of the clock: it means something only where both processes have a core for themselves.
"""
import argparse
import os

os.environ.update(OMP_NUM_THREADS='1', MKL_NUM_THREADS='1', TOKENIZERS_PARALLELISM='false', HF_HUB_OFFLINE='1')

import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

BASE = dict(batch=8, m=6, k=2, length=32, vocab=512)


def measure(out, steps, batch, m, k, length, vocab):
    "Seconds of CPU and of the clock per step (least of `steps`, after one to warm up) of a random Llama-like model."
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from hir.training.config import make_config
    from hir.instructions.instruction import load_instructions
    from hir.policies.policy import load_policy
    from hir.files import shipped
    from hir.training.trainer import fit
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenizer = load_policy(shipped('toy/start'))[1]
    model = LlamaForCausalLM(LlamaConfig(vocab_size=vocab, hidden_size=128, intermediate_size=256, num_hidden_layers=4,
                                         num_attention_heads=4, num_key_value_heads=4, eos_token_id=None))
    cfg = make_config(dict(out=out, steps=steps + 1, batch=batch, m=m, method=dict(k=k, kl_coef=0.), max_new_tokens=length,
                           micro=64, sample_rows=512, cards_every=0, save_every=0, rollouts_mb=0, cpu=True))
    marks = []
    def mark(metrics, rows):
        marks.append((time.process_time(), time.perf_counter()))
    fit(cfg, model, tokenizer, load_instructions(shipped('toy/train.jsonl'))[:64], progress=False, on_step=mark)
    gaps = [(b[0] - a[0], b[1] - a[1]) for a, b in zip(marks, marks[1:])]
    return min(g[0] for g in gaps), min(g[1] for g in gaps)


def child(processes, steps, **shape):
    "The same in processes of their own; (CPU seconds of the slowest process, seconds of the clock)."
    out = Path(tempfile.mkdtemp())
    code = [sys.executable] + (['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', str(processes)]
                               if processes > 1 else [])
    words = [str(Path(__file__)), '--child', str(out), '--steps', str(steps)] + [f'{k}={v}' for k, v in shape.items()]
    done = subprocess.run(code + words, capture_output=True, text=True)
    if done.returncode: raise SystemExit(done.stderr[-2000:])
    found = [tuple(map(float, p.read_text().split())) for p in out.iterdir()]
    return max(f[0] for f in found), max(f[1] for f in found)


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--steps', type=int, default=3)
    p.add_argument('--child')
    p.add_argument('shape', nargs='*')
    args = p.parse_args()
    if args.child:
        warnings.simplefilter('ignore')
        cost = measure(f'{args.child}.run', args.steps, **{k: int(v) for k, v in (s.split('=') for s in args.shape)})
        return (Path(args.child)/str(os.getpid())).write_text(f'{cost[0]} {cost[1]}')
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    one, two = child(1, args.steps, **BASE), child(2, args.steps, **BASE)
    print(f'{BASE}, {cores} cores, load {os.getloadavg()[0]:.1f}')
    print(f'steps per second: 1 process {1/one[1]:.2f}, 2 processes {1/two[1]:.2f}, ratio {one[1]/two[1]:.2f}; '
          f'CPU seconds per process: {one[0]:.2f}, {two[0]:.2f}, ratio {one[0]/two[0]:.2f}\n')
    print('CPU seconds of a step      x1     x2     x4   growth per doubling (2: linear)')
    for name, key in (('rollouts (batch)', 'batch'), ('length', 'length'), ('vocabulary', 'vocab')):
        costs = [child(1, args.steps, **BASE | {key: BASE[key]*n})[0] for n in (1, 2, 4)]
        growth = [b/a for a, b in zip(costs, costs[1:])]
        print(f'{name:<22}' + ''.join(f'{c:7.2f}' for c in costs) + '   ' + ', '.join(f'{g:.2f}' for g in growth)
              + ('' if max(growth) < 2.5 else '   more than linear'))


if __name__ == '__main__': main()
