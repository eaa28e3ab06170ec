"""How fast does a GPU learn? Our update in its variants, beside a plain forward and backward pass over the same tokens, and TRL's.

    python tests/bench_gpu_update.py

32 prompts of 34 to 41 tokens, 8 rows of up to 160 tokens each. The model is SmolLM2-135M where `hir get smollm2` has brought it, else
one of its shape with random weights. `HIR_WITH_GPU=cpu` rehearses on the CPU with the toy, which shows that the bench runs, no more.
The first call of each way stands apart: kernels are chosen in it, and compilers run. Then the median of ROUNDS; peak memory is of the
last. Wanted on an H100: ours at most 1.5 × plain, TRL at least 1.5 × ours, a whole step at most 2 s. Not run on a card yet.
"""
import gc
import os
import sys
import time
from copy import deepcopy
from functools import partial
from statistics import median

os.environ.setdefault('TOKENIZERS_PARALLELISM', 'false')

REHEARSAL = os.environ.get('HIR_WITH_GPU') == 'cpu'
DEVICE, ROUNDS = ('cpu', 1) if REHEARSAL else ('cuda', 3)
P, M, NEW = (3, 2, 12) if REHEARSAL else (32, 8, 160)


def measured(work):
    "(seconds of a call, device included; GiB at the peak)."
    import torch
    wait = (lambda: None) if REHEARSAL else torch.cuda.synchronize
    if not REHEARSAL: torch.cuda.reset_peak_memory_stats()
    wait(); start = time.perf_counter(); work(); wait()
    return time.perf_counter() - start, 0. if REHEARSAL else torch.cuda.max_memory_allocated()/2**30

def at_hand():
    "(name, model in float32 on the CPU)."
    from bench_cpu import model_of
    from hir.fetch import fetched
    from hir.files import shipped
    folder = shipped('toy/start') if REHEARSAL else fetched('smollm2')
    return 'toy' if REHEARSAL else 'SmolLM2-135M' if folder else 'the shape of SmolLM2-135M', model_of(folder and str(folder))

def batch_of(model):
    "Rows of one update, with random advantages."
    import torch
    from hir.policies.policy import pad_rows
    from hir.training.batch import Batch, PerToken
    g, V = torch.Generator().manual_seed(0), model.config.vocab_size
    draw = lambda n: torch.randint(min(5, V - 1), V, (n,), generator=g).tolist()
    asked, n = [draw(34 + i % 8) for i in range(P)], P*M
    ids, prompt_len, mask = pad_rows([(q, draw(NEW - i*NEW//(2*M))) for q in asked for i in range(M)], 0)
    extras = dict(old=PerToken(mask*-9.), adv=PerToken(torch.randn(n, 1, generator=g).expand_as(mask).contiguous()),
                  replay=torch.zeros(n, dtype=torch.bool))
    return Batch(ids, prompt_len, mask.sum(1).long(), mask, mask, torch.zeros(n), torch.arange(n)//M, torch.arange(n),
                 torch.ones(n, dtype=torch.bool), extras, units=n)


# ---- ours, plain, TRL

def ours(model, batch, half='bf16', micro_tokens='auto', **policy):
    "A function that makes one update."
    import torch
    from accelerate.state import AcceleratorState
    from hir.methods.hir import hir
    from hir.policies.policy import Policy
    from hir.policies.processes import start, wrap
    from hir.training.method import Parts, Sizes
    from hir.training.step import update
    AcceleratorState._reset_state()
    accelerator, policy = start(REHEARSAL, half), Policy(deepcopy(model).eval(), **policy)
    policy, optimizer = wrap(accelerator, policy, torch.optim.AdamW(policy.parameters(), 1e-6), 32, 1.)
    sizes = Sizes(minibatches=1, micro=32, micro_tokens=micro_tokens)
    return partial(update, hir(k=0, kl_coef=0.), Parts(accelerator, policy, optimizer, None, None), batch, sizes)

def plain(model, batch, rows=32):
    "A function that makes the forward and backward pass of the padded rows, in bfloat16, without an optimizer."
    import torch
    model = deepcopy(model).to(DEVICE)
    ids = batch.ids.to(DEVICE)

    def work():
        for part in ids.split(rows):
            with torch.autocast(DEVICE, torch.bfloat16): logits = model(input_ids=part, use_cache=False).logits[:, :-1]
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), part[:, 1:].flatten(), reduction='sum')
            (loss*1e-4).backward()
        model.zero_grad()
    return work

def ways(model, batch):
    "name → a function that builds what makes an update."
    ours_ = partial(partial, ours, model, batch)
    return {'plain forward and backward': partial(plain, model, batch), 'ours': ours_(), 'ours, prompts not shared': ours_(share=False),
            'ours, micro-batches of 32 rows': ours_(micro_tokens=0), 'ours, float32': ours_(half='no'),
            'ours, kernel auto': ours_(kernel='auto'), 'ours, compiled': ours_(compiled=True)}

def theirs():
    "Seconds of TRL's own loss and backward pass, from `bench_trl.py` where TRL is installed beside."
    try: import trl
    except ImportError as e: return f'not run: {e}'
    return f'trl {trl.__version__}: python tests/bench_trl.py {sys.executable} counts processor time only; on a card not run'

def whole_step():
    "Seconds of the second of two steps: 32 instructions, m 6, k 2, engine hf."
    import tempfile
    from hir.files import shipped
    from hir.instructions.instruction import load_instructions
    from hir.policies.policy import load_policy
    from hir.training.config import make_config, rules_of
    from hir.training.trainer import _prepare_job, _train_step
    from hir.fetch import fetched
    path = shipped('toy/start') if REHEARSAL else fetched('smollm2')
    if not path: return 'not run: hir get smollm2'
    cfg = make_config(dict(model=str(path), batch=2 if REHEARSAL else 32, m=6, max_new_tokens=12 if REHEARSAL else 200, micro_tokens='auto', cpu=REHEARSAL,
                           mixed_precision='no' if REHEARSAL else 'bf16', sample_rows=192, steps=3, out=tempfile.mkdtemp()))
    job, train = _prepare_job(cfg, *load_policy(cfg.model)), load_instructions(shipped('toy/train.jsonl'))
    took = [measured(lambda: _train_step(cfg, job, train, rules_of(cfg)))[0] for _ in range(3)]
    return f'{took[-1]:.2f} s, the first {took[0]:.2f} s'


def bench_update():
    name, model = at_hand()
    batch, first = batch_of(model), None
    print(f'update: {name}, {len(batch)} rows, {int(batch.prompt_len.sum() + batch.length.sum()):,} tokens')
    for way, build in ways(model, batch).items():
        if way == 'ours, compiled' and REHEARSAL: print(f'{way:34} not run: takes minutes on a CPU'); continue
        work = None; gc.collect(); torch.cuda.empty_cache()          # so that the peak is of one way alone
        work = build(); start = measured(work)[0]
        took = [measured(work) for _ in range(ROUNDS)]
        middle = median(t for t, _ in took); first = first or middle
        print(f'{way:34} {middle:7.3f} s   {middle/first:5.2f} × plain   peak {took[-1][1]:5.1f} GiB   first call {start:6.2f} s', flush=True)
    print(f'{"TRL":34} {theirs()}\n{"a whole step":34} {whole_step()}', flush=True)


if __name__ == '__main__':
    import torch
    if not (REHEARSAL or torch.cuda.is_available()): sys.exit('no CUDA GPU is found; HIR_WITH_GPU=cpu rehearses on the CPU')
    bench_update()
