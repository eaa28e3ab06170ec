"Whole runs on a card: the toy and SmolLM2, in every precision, beside the CPU, stopped and resumed."
import gc
from importlib.util import find_spec

import pytest
import torch

from changed import changed
from hir.fetch import fetched
from hir.files import shipped
from hir.instructions.instruction import load_instructions
from hir.policies.policy import encode_chat, load_policy
from hir.recipes import dims_of, memory, resolve
from hir.training.config import HirConfig
from hir.training.runlog import read_log
from hir.training.trainer import fit

TOY = str(shipped('toy/start'))
bits = pytest.mark.skipif(not find_spec('bitsandbytes'), reason="bitsandbytes is not installed: pip install 'hir[4bit]'")
real = pytest.mark.skipif(not fetched('smollm2'), reason='SmolLM2 is not here: hir get smollm2')
PRECISION = {'float32': {}, 'bf16': dict(mixed_precision='bf16'), 'fp16': dict(mixed_precision='fp16'),
             'bfloat16 weights': dict(dtype='bfloat16', lora_rank=8), 'nf4': dict(dtype='nf4', lora_rank=8),
             '8-bit AdamW': dict(optimizer='adamw8bit')}
PRECISIONS = [pytest.param(name, marks=bits if name in ('nf4', '8-bit AdamW') else ()) for name in PRECISION]


def config(tmp_path, name='run', **more):
    own = dict(model=TOY, train=str(shipped('toy/train.jsonl')), out=str(tmp_path/name), engine='hf', batch=4, m=3, k=1, steps=2,
               lr=1e-4, max_new_tokens=16, eval_every=0, save_every=1, cards_every=0, kl_coef=.01)
    return changed(HirConfig(), **own | more)

def ran(cfg):
    "The log of a run."
    model, tokenizer = load_policy(cfg.model, dtype=cfg.dtype)
    fit(cfg, model, tokenizer, load_instructions(cfg.train), progress=False)
    return read_log(f'{cfg.out}/history.jsonl')

def weights(cfg): return torch.cat([p.detach().flatten() for p in load_policy(f'{cfg.out}/policy')[0].parameters()])


@pytest.mark.parametrize('model', [TOY, pytest.param('smollm2', marks=real)])
def test_the_first_step_is_that_of_the_cpu(tmp_path, on_cpu, model):
    "In float32 the same numbers are drawn, so nearly all tokens are the same."
    card, cpu = (ran(config(tmp_path, name, model=model, steps=1, minibatches=1, cpu=c))[0] for name, c in (('card', on_cpu), ('cpu', True)))
    for key in ('loss', 'reward', 'cla', 'entropy', 'kl'): assert card[key] == pytest.approx(cpu[key], abs=.02), key
    assert card['grad_norm'] == pytest.approx(cpu['grad_norm'], rel=.1)


@pytest.mark.parametrize('name', PRECISIONS)
def test_every_precision_takes_steps(tmp_path, on_cpu, name):
    if on_cpu and name == 'fp16': pytest.skip('float16 needs a card')
    cfg = config(tmp_path, cpu=on_cpu, **PRECISION[name])
    log, start = ran(cfg), torch.cat([p.detach().flatten() for p in load_policy(TOY)[0].parameters()])
    assert [r['step'] for r in log] == [1, 2]
    assert name == 'fp16' or not any(r['skipped'] for r in log)     # the scale of float16 is found by skipping
    if name == 'bf16': assert 0 < log[0]['old_diff'] < .05          # sampled and scored in the same precision, not alike
    assert 0 < (weights(cfg) - start).abs().max() < .1 or name == 'fp16'


@pytest.mark.parametrize('name', [p for p in PRECISIONS if p.values[0] in ('float32', 'bf16', 'nf4')])
def test_a_resumed_run_is_the_whole_one(tmp_path, on_cpu, name):
    whole, first = (config(tmp_path, n, cpu=on_cpu, **PRECISION[name]) for n in ('whole', 'parts'))
    ran(whole); ran(changed(first, steps=1)); ran(changed(first, resume='auto'))
    assert (weights(whole) - weights(first)).abs().max() < 5e-4      # a sign that flips in noise is 2e-4 of Adam at this rate


@real
@pytest.mark.parametrize('more', [{}, dict(mixed_precision='bf16'), dict(lora_rank=16, dtype='bfloat16'),
                                  pytest.param(dict(lora_rank=16, dtype='nf4'), marks=bits)], ids=str)
def test_memory_is_what_the_dry_run_says(tmp_path, on_cpu, more):
    "Within a fifth, on the longest of the toy's prompts."
    if on_cpu: pytest.skip('tests/bench_estimate.py measures the CPU')
    cfg = config(tmp_path, model='smollm2', batch=16, m=4, micro=16, max_new_tokens=128, save_every=0, **more)
    model, tokenizer = load_policy(cfg.model, dtype=cfg.dtype)
    length = lambda q: len(encode_chat(tokenizer, q.prompt))
    long = sorted(load_instructions(cfg.train), key=length)[-32:]
    gc.collect(); torch.cuda.empty_cache(); torch.cuda.reset_peak_memory_stats()
    fit(cfg, model, tokenizer, long, progress=False)
    guess = memory(cfg, dims_of(resolve(cfg)[0], cfg), max(map(length, long)), gpu=torch.cuda.mem_get_info()[1])['peak']
    assert torch.cuda.max_memory_allocated() == pytest.approx(guess, rel=.2)
