"""Is the memory that the dry run estimates what a run takes? Two steps of SmolLM2 on the CPU, each case in a process of its own.

    python tests/bench_estimate.py [case …]

What counts is the peak of resident memory (`ru_maxrss`). Needs the model (`hir get smollm2`); nf4 needs bitsandbytes. The prompts
are the longest of the toy's, so that rows are about as long as the estimate takes them to be. Under nf4 the file of the model stays
mapped, since its embedding is used as it lies there; its pages, which the system takes back when it needs them, are left out. On Linux.
"""
import argparse
import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

STEPS, WITHIN = 2, .2
SMALL = dict(batch=2, m=2, max_new_tokens=16, **{'method.kl_coef': 0.})
CASES = {
    'all weights': {},
    'with a reference': {'method.kl_coef': .001},
    'twelve rows at a time': dict(batch=6, m=2, micro=12, max_new_tokens=48),
    'gradient checkpointing': dict(gradient_checkpointing=True, share=False),
    'bfloat16 arithmetic': dict(mixed_precision='bf16'),
    'LoRA': dict(lora_rank=16),
    'LoRA, six rows at a time': dict(lora_rank=16, batch=3, m=2, micro=6),
    'LoRA, checkpointing': dict(lora_rank=16, batch=3, m=2, micro=6, gradient_checkpointing=True, share=False),
    'LoRA, bfloat16 weights': dict(lora_rank=16, dtype='bfloat16'),
    'LoRA, nf4': dict(lora_rank=16, dtype='nf4'),
}


def measured(case, model='smollm2'):
    "(peak of resident memory, estimate) of a case in bytes, in this process, and the parts of the estimate."
    import resource
    import torch
    from hir.files import shipped
    from hir.instructions.instruction import load_instructions
    from hir.policies.policy import encode_chat, load_policy, local_place
    from hir.recipes import dims_of, memory, resolve
    from hir.training.config import make_config
    from hir.training.trainer import fit
    torch.set_num_threads(1); warnings.simplefilter('ignore')
    with tempfile.TemporaryDirectory() as out:
        own = dict(model=model, steps=STEPS, eval_every=0, save_every=0, cards_every=0, rollouts_mb=0, cpu=True, out=f'{out}/run')
        cfg = make_config(own | SMALL | CASES[case])
        d = dims_of(resolve(cfg)[0], cfg)
        policy, tokenizer = load_policy(cfg.model, dtype=cfg.dtype)
        length = lambda q: len(encode_chat(tokenizer, q.prompt))
        long = sorted(load_instructions(shipped('toy/train.jsonl')), key=length)[-STEPS*cfg.batch:]
        fit(cfg, policy, tokenizer, long, progress=False)
    parts = memory(cfg, d, max(map(length, long)))
    mapped = sum(f.stat().st_size for f in Path(local_place(cfg.model)).glob('*.safetensors')) if cfg.dtype == 'nf4' else 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*1024 - mapped, parts


def apart(case, model='smollm2'):
    "`measured` in a process of its own."
    done = subprocess.run([sys.executable, __file__, case, '--here', '--model', model], capture_output=True, text=True)
    if done.returncode: raise RuntimeError(f'{case}: exit {done.returncode} {done.stderr[-1500:]}')
    return json.loads(done.stdout.splitlines()[-1])


def main():
    p = argparse.ArgumentParser()
    p.add_argument('cases', nargs='*', default=list(CASES)); p.add_argument('--parts', action='store_true')
    p.add_argument('--here', action='store_true'); p.add_argument('--model', default='smollm2')
    a, off = p.parse_args(), 0
    if a.here: return print(json.dumps(measured(a.cases[0], a.model)))
    print(f'{"case":24} {"measured":>9} {"estimate":>9} {"ratio":>6}')
    for case in a.cases:
        peak, parts = apart(case, a.model)
        off += abs(parts['peak']/peak - 1) > WITHIN
        print(f'{case:24} {peak/1e9:6.2f} GB {parts["peak"]/1e9:6.2f} GB {parts["peak"]/peak:6.2f}', flush=True)
        if a.parts: print('   ', ', '.join(f'{n} {b/1e9:.2f}' for n, b in parts.items() if b))
    sys.exit(f'{off} of {len(a.cases)} are off by more than {WITHIN:.0%}' if off else 0)


if __name__ == '__main__':
    main()
