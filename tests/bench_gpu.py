"""How fast does a GPU sample and learn?

    python tests/bench_gpu.py [part …]

Without parts: all of PARTS. The model is SmolLM2-135M where `hir get smollm2` has brought it, else one of its shape with random weights,
which costs the same. `HIR_WITH_GPU=cpu` rehearses on the CPU with the toy and few tokens, which shows that the bench runs, no more.

sampling: 32 prompts of 34 to 41 tokens, 6 samples each, 200 tokens, none of them a stop token, at temperature 1. The first call of each
way stands apart: graphs are recorded in it, and compilers run. Then the median of ROUNDS calls; milliseconds are per token of the batch.

update: see `bench_gpu_update.py`.
"""
import os
import sys
import time
from functools import partial
from statistics import median

os.environ.setdefault('TOKENIZERS_PARALLELISM', 'false')

REHEARSAL = os.environ.get('HIR_WITH_GPU') == 'cpu'
DEVICE, ROUNDS, PAD = ('cpu', 1, 2) if REHEARSAL else ('cuda', 3, 2)
P, M, NEW = (2, 2, 12) if REHEARSAL else (32, 6, 200)


def seconds(work):
    "Of a call, the device included."
    import torch
    wait = (lambda: None) if REHEARSAL else torch.cuda.synchronize
    wait(); start = time.perf_counter(); work(); wait()
    return time.perf_counter() - start

def model_at_hand():
    "(name, model in float32 on the device, folder or None)."
    from bench_cpu import model_of
    from hir.fetch import fetched
    from hir.files import shipped
    folder = shipped('toy/start') if REHEARSAL else fetched('smollm2')
    name = 'toy' if REHEARSAL else 'SmolLM2-135M' if folder else 'random weights in the shape of SmolLM2-135M'
    return name, model_of(folder and str(folder)).to(DEVICE).eval(), folder

def some_prompts(vocabulary):
    import torch
    g = torch.Generator().manual_seed(0)
    return [torch.randint(5, vocabulary, (34 + i % 8,), generator=g).tolist() for i in range(P)]


# ---- sampling

def our_samplers(model, half, prompts):
    "name → a function that samples."
    import torch
    from hir.policies.generate import generate
    from hir.policies.graph import FixedSampler
    kw = dict(m=M, max_new_tokens=NEW, pad=PAD, generator=list(range(M*P)))

    def low(draw):
        with torch.autocast(DEVICE, torch.bfloat16): draw(prompts, **kw)
    return {'loop, float32 weights in autocast': partial(low, partial(generate, model)),
            'loop, 16-bit copy': partial(generate, half, prompts, **kw),
            'fixed buffers, no graph': partial(FixedSampler(half, record=False).generate, prompts, **kw),
            'fixed buffers, graphs, autocast': partial(low, FixedSampler(model).generate),
            'fixed buffers, graphs': partial(FixedSampler(half).generate, prompts, **kw)}

def their_samplers(half, prompts):
    "The same of `generate` of transformers, on the same rows."
    import torch
    width = max(map(len, prompts))
    ids = torch.tensor([[PAD]*(width - len(p)) + p for p in prompts for _ in range(M)], device=DEVICE)
    mask = torch.tensor([[0]*(width - len(p)) + [1]*len(p) for p in prompts for _ in range(M)], device=DEVICE)
    draw = partial(half.generate, input_ids=ids, attention_mask=mask, do_sample=True, temperature=1., top_k=0, top_p=1.,
                   pad_token_id=PAD, max_new_tokens=NEW, min_new_tokens=NEW)
    return {'transformers, dynamic cache': draw,
            'transformers, static cache': partial(draw, cache_implementation='static', disable_compile=True),
            'transformers, static cache, compiled': partial(draw, cache_implementation='static')}

def vllm_samplers(folder, prompts):
    "The same of vLLM, where it is installed and the model has a folder."
    try: from vllm import LLM, SamplingParams
    except ImportError as e: return print(f'{"vLLM":40} not run: {e}') or {}
    if not folder: return print(f'{"vLLM":40} not run: the weights have no folder') or {}
    llm = LLM(str(folder), dtype='bfloat16', gpu_memory_utilization=.4, max_model_len=1024)
    ask = SamplingParams(n=M, temperature=1., max_tokens=NEW, ignore_eos=True, logprobs=0, seed=0, detokenize=False)
    return {'vLLM': lambda: llm.generate([{'prompt_token_ids': p} for p in prompts], ask, use_tqdm=False)}

def bench_sampling():
    import torch
    from hir.policies.precision import half_copy
    name, model, folder = model_at_hand()
    half, prompts = half_copy(model), some_prompts(model.config.vocab_size)
    print(f'sampling: {name}, {P} prompts × {M}, {NEW} tokens\n{"":40} first call s  ms a token  tokens/s')
    ways = our_samplers(model, half, prompts) | their_samplers(half, prompts)
    for way, draw in (ways | vllm_samplers(folder, prompts)).items():
        try:
            with torch.no_grad(): first, each = seconds(draw), median(seconds(draw) for _ in range(ROUNDS))
        except Exception as e: print(f'{way:40} failed: {type(e).__name__}: {str(e)[:90]}'); continue
        print(f'{way:40} {first:12.2f}  {1000*each/NEW:10.2f}  {P*M*NEW/each:8,.0f}')


def bench_learning():
    from bench_gpu_update import bench_update
    bench_update()


PARTS = {'sampling': bench_sampling, 'update': bench_learning}

def main(parts):
    import torch
    from transformers import __version__ as version
    if not (REHEARSAL or torch.cuda.is_available()): sys.exit('no CUDA GPU is found; HIR_WITH_GPU=cpu rehearses on the CPU')
    card = 'a rehearsal on the CPU' if REHEARSAL else torch.cuda.get_device_name()
    print(f'{card}; torch {torch.__version__}, transformers {version}')
    for part in parts or PARTS: print(); PARTS[part]()


if __name__ == '__main__': main(sys.argv[1:])
