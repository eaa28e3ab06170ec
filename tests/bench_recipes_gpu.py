"""A recipe at its size: the shape of Qwen3-4B with random weights through the LoRA recipe, engine `hf`, three steps.

    python tests/bench_recipes_gpu.py [--batch 8] [--tokens 256] [case …]

Seconds of each step and its parts, and the peak of memory on the card beside the estimate of the dry run. The weights are made on
the card; nothing is downloaded. Writes the merged model at the end, 9 GB, into a temporary folder. Cases whose package is missing say so.
"""
import argparse
import gc
import tempfile
from importlib.util import find_spec

import torch
from transformers import AutoModelForCausalLM, Qwen3Config

from changed import changed
from hir.files import shipped
from hir.instructions.instruction import load_instructions
from hir.policies.policy import encode_chat, load_policy
from hir.policies.processes import device_for
from hir.recipes import dims_of, memory, recipes
from hir.training.config import read_config
from hir.training.trainer import fit

QWEN3_4B = dict(vocab_size=151936, hidden_size=2560, head_dim=128, intermediate_size=9728, num_hidden_layers=36,
                num_attention_heads=32, num_key_value_heads=8, max_position_embeddings=40960, tie_word_embeddings=True)
TINY = QWEN3_4B | dict(vocab_size=512, hidden_size=32, head_dim=8, intermediate_size=48, num_hidden_layers=2,
                       num_attention_heads=4, num_key_value_heads=2)
CASES = {   # the package it needs, the settings that differ
    'recipe': ('', {}),
    'without checkpointing': ('', dict(gradient_checkpointing=False)),
    'shared prompts': ('', dict(gradient_checkpointing=False, share=True)),
    'flash attention, packed rows': ('flash_attn', dict(attention='flash_attention_2')),
    '8-bit AdamW': ('bitsandbytes', dict(optimizer='adamw8bit')),
}


def ran(shape, out, steps=3, cpu=False, **settings):
    "Metrics of each step, the peak of memory on the card, and the estimate of it."
    cfg = changed(read_config(recipes()['qwen3-4b-lora']), model='random', train=str(shipped('toy/train.jsonl')), out=out, heldout='',
                  engine='hf', steps=steps, cpu=cpu, save_every=0, cards_every=0, rollouts_mb=0, **settings)
    tokenizer, device, log = load_policy(shipped('toy/start'))[1], device_for(cpu), []
    config = Qwen3Config(**shape, eos_token_id=tokenizer.eos_token_id, bos_token_id=None)
    if cfg.attention: config._attn_implementation = cfg.attention
    torch.manual_seed(0)
    with torch.device(device): model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, cfg.dtype)).eval()
    dims, train = dims_of(model, cfg), load_instructions(cfg.train)
    if device == 'cuda': torch.cuda.reset_peak_memory_stats()
    fit(cfg, model, tokenizer, train, progress=False, on_step=lambda metrics, rows: log.append(metrics))
    peak = torch.cuda.max_memory_allocated() if device == 'cuda' else 0
    longest = max(len(encode_chat(tokenizer, q.prompt)) for q in train)
    total = torch.cuda.mem_get_info()[1] if device == 'cuda' else 0
    return log, peak, memory(cfg, dims, longest, gpu=total)['peak']


def line(metrics):
    "What a step took, in words."
    parts = ', '.join(f'{n.removeprefix("time/")} {s:.1f}' for n, s in metrics.items() if n.startswith('time/'))
    return f'  step {metrics["step"]}: {parts} s; {metrics["tokens_per_second"]:,.0f} tokens/s'


def main():
    p = argparse.ArgumentParser()
    p.add_argument('cases', nargs='*', default=list(CASES)); p.add_argument('--batch', type=int, default=8)
    p.add_argument('--tokens', type=int, default=256)
    a = p.parse_args()
    if not torch.cuda.is_available(): return print('not run: no CUDA GPU is found')
    print(f'{torch.cuda.get_device_name()}, torch {torch.__version__}; Qwen3-4B by shape, {a.batch} instructions × 6, {a.tokens} tokens')
    for name in a.cases:
        package, settings = CASES[name]
        if package and not find_spec(package): print(f'{name}: not run: {package} is not installed'); continue
        with tempfile.TemporaryDirectory() as out:
            log, peak, guess = ran(QWEN3_4B, f'{out}/run', batch=a.batch, max_new_tokens=a.tokens, **settings)
        print(f'{name}: peak {peak/1e9:.1f} GB, estimate {guess/1e9:.1f} GB', *map(line, log), sep='\n', flush=True)
        gc.collect(); torch.cuda.empty_cache()


if __name__ == '__main__':
    main()
