"Machines that are not at hand: cards without bfloat16, MPS, Windows. All of it with stand-ins, on the CPU."
import os
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import pytest
import torch
import torchgen
import yaml
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import hir.training.trainer as trainer
from changed import changed
from hir.files import shipped
from hir.instructions.instruction import load_instructions
from hir.policies.generate import generate
from hir.policies.policy import load_policy
from hir.policies.processes import LaunchError, start
from hir.recipes import _device_bytes
from hir.training.config import ConfigError, HirConfig
from hir.training.runlog import read_log

START = str(shipped('toy/start'))


def config(tmp_path, **more):
    own = dict(model=START, train=str(shipped('toy/train.jsonl')), out=str(tmp_path/'run'), batch=4, m=3, k=1, steps=2, lr=1e-3,
               minibatches=1, max_new_tokens=12, eval_every=0, save_every=1, cards_every=0, kl_coef=.01, cpu=True)
    return changed(HirConfig(), **own | more)

def weights(model): return torch.cat([p.detach().flatten() for p in model.parameters()])

def trained(cfg):
    "The weights after a run, and its log."
    model, tokenizer = load_policy(cfg.model)
    trainer.fit(cfg, model, tokenizer, load_instructions(cfg.train), progress=False)
    return weights(load_policy(f'{cfg.out}/policy')[0]), read_log(f'{cfg.out}/history.jsonl')


# ---- float16

@pytest.fixture
def scaled(monkeypatch):
    "What makes the CPU scale gradients as a card does, from a given scale on; the accelerators that were made."
    made = []
    def from_scale(scale):
        def begin(cpu, mixed_precision, **kw):
            accelerator = start(True, 'no', **kw)
            accelerator.state._mixed_precision, accelerator.native_amp = 'fp16', True
            accelerator.scaler = torch.amp.GradScaler('cpu', init_scale=scale)
            made.append(accelerator)
            return accelerator
        monkeypatch.setattr(trainer, 'start', begin)
        monkeypatch.setattr(trainer, 'device_for', lambda cpu: 'cuda')
        return made
    yield from_scale
    for accelerator in made: accelerator.state._mixed_precision = 'no'


def test_a_gradient_that_overflows_is_skipped_and_lowers_the_scale(scaled, tmp_path):
    made, before = scaled(2.**60), weights(load_policy(START)[0])
    after, log = trained(config(tmp_path, mixed_precision='fp16'))
    assert [r['skipped'] for r in log] == [1, 1] and 'grad_norm' not in log[0]
    assert torch.equal(after, before) and made[0].scaler.get_scale() == 2.**58


def test_float16_learns_what_float32_learns(scaled, tmp_path):
    plain, _ = trained(config(tmp_path/'plain', mixed_precision='no'))
    scaled(2.**10)
    half, log = trained(config(tmp_path/'half', mixed_precision='fp16'))
    assert not any(r['skipped'] for r in log)
    start = weights(load_policy(START)[0])
    assert torch.cosine_similarity(half - start, plain - start, dim=0) > .8 and not torch.equal(half, plain)


def test_the_scale_survives_an_interruption(scaled, tmp_path):
    made = scaled(2.**60)
    trained(config(tmp_path, mixed_precision='fp16', steps=1)); trained(config(tmp_path, mixed_precision='fp16', resume='auto'))
    assert made[1].scaler.get_scale() == 2.**58


def test_float16_on_a_cpu_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="cannot be 'fp16' on a CPU"): trained(config(tmp_path, mixed_precision='fp16'))
    monkeypatch.setenv('ACCELERATE_MIXED_PRECISION', 'fp16')                               # as a launch file says it
    with pytest.raises(LaunchError, match='on a CPU take no or bf16'): start(cpu=True)
    monkeypatch.delenv('ACCELERATE_MIXED_PRECISION'); start(cpu=True)


# ---- MPS

def kernels():
    "Operation → where it has a kernel, as PyTorch itself declares."
    found = yaml.safe_load((Path(torchgen.__file__).parent/'packaged/ATen/native/native_functions.yaml').read_text())
    entries = {f['func'].split('(')[0]: f for f in found}
    def keys(name):
        entry = entries[name]
        if 'structured_delegate' in entry: return keys(entry['structured_delegate'])
        if 'dispatch' not in entry: return {'CompositeImplicitAutograd'}
        return {k.strip() for ks in entry['dispatch'] for k in ks.split(',')}
    return entries, keys

class Seen(TorchDispatchMode):
    "Operations, and those that make 64-bit floats."
    def __init__(self): super().__init__(); self.names, self.wide = Counter(), Counter()
    def __torch_dispatch__(self, f, types, args=(), kw=None):
        out, name = f(*args, **(kw or {})), str(f).removeprefix('aten.').removesuffix('.default')
        self.names[name] += 1
        if any(isinstance(t, torch.Tensor) and t.dtype == torch.float64 for t in tree_leaves(out)): self.wide[name] += 1
        return out

# the CPU's own, where MPS has others
OTHERS = {'_scaled_dot_product_flash_attention_for_cpu', '_scaled_dot_product_flash_attention_for_cpu_backward'}

@pytest.mark.parametrize('more', [{}, dict(lora_rank=4), dict(share=False, gradient_checkpointing=True), dict(top_p=.9, top_k=20)])
def test_mps_has_a_kernel_for_every_operation_of_a_run(tmp_path, more):
    "In this PyTorch; operations that only ever see the CPU are among them."
    entries, keys = kernels()
    with Seen() as seen: trained(config(tmp_path, steps=1, **more))
    assert len(seen.names) > 50
    lacking = {n for n in seen.names if n in entries and n not in OTHERS
               and not any(k == 'MPS' or k.startswith('Composite') for k in keys(n))}
    assert not lacking

def test_no_64_bit_float_before_numbers_are_on_the_cpu(tmp_path):
    "MPS has none. What a log adds up is turned into 64 bits once it has left the device."
    with Seen() as seen: trained(config(tmp_path, steps=1))
    assert set(seen.wide) <= {'_to_copy', 'add.Tensor', 'maximum', 'select.int', 'clamp', 'div.Tensor', 'alias', 'detach'}
    model, tokenizer = load_policy(START)
    with Seen() as seen: generate(model, [[5, 6, 7]], 2, 6, stop=[1], generator=[1, 2], top_k=4, top_p=.9)
    assert not seen.wide


def test_the_memory_of_the_device_that_is_found(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(torch.backends.mps, 'is_available', lambda: True)
    monkeypatch.setattr(torch.mps, 'recommended_max_memory', lambda: 11_453_251_584)
    assert _device_bytes() == 11_453_251_584 and _device_bytes(cpu=True) != 11_453_251_584
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'mem_get_info', lambda: (1, 80_000_000_000))
    assert _device_bytes() == 80_000_000_000


def test_models_that_are_asked_go_to_the_device_that_is_found(monkeypatch):
    import argparse
    import hir.policies.precision
    from hir.cli import _engine_asked
    args = argparse.Namespace(suite=None, engine='hf', engine_options='', max_new_tokens=4, chat='', rows=2, temperature=1.,
                              pad_token='', revision='', cpu=False)
    monkeypatch.setattr(hir.policies.processes, 'device_for', lambda cpu=False: 'meta')
    assert _engine_asked(args, START).model.device.type == 'meta'


# ---- Windows

WITHOUT = '''
import os, signal, sys
import multiprocessing.util, subprocess, filelock, psutil, torch, accelerate, transformers      # they know Windows
import transformers.models.llama.modeling_llama
for name in ('sysconf', 'sched_getaffinity', 'fork', 'getuid', 'geteuid', 'getloadavg', 'mkfifo', 'killpg', 'setsid', 'uname', 'fchmod'):
    delattr(os, name)
for name in ('setitimer', 'SIGALRM', 'pthread_sigmask', 'SIGKILL', 'SIGHUP', 'SIGPIPE', 'ITIMER_REAL'): delattr(signal, name)
for name in ('fcntl', 'resource', 'pwd', 'grp', 'termios', 'pty'): sys.modules[name] = None
def kill(pid, number): raise AssertionError('on Windows this ends the process')
os.kill = kill
from hir.cli import main
'''

@pytest.mark.parametrize('words', [('train', '--dry-run'), ('train', '--steps', '1', '--save_every', '1'), ('kinds',)])
def test_commands_need_nothing_that_windows_lacks(words, tmp_path):
    run = ['--config', str(Path(trainer.__file__).parents[1]/'configs'/'toy.yaml'), '--model', START, '--train', str(shipped('toy/train.jsonl')), '--heldout', '',
           '--out', str(tmp_path/'run'), '--batch', '2', '--m', '2', '--max_new_tokens', '8', '--cpu', 'true']
    script = WITHOUT + f'sys.exit(main({[*words, *(run if words[0] == "train" else [])]!r}))'
    done = subprocess.run([sys.executable, '-c', textwrap.dedent(script)], capture_output=True, text=True, cwd=tmp_path,
                          env=dict(os.environ, TQDM_DISABLE='1'))
    assert done.returncode == 0, done.stderr[-2000:]
    if words == ('train', '--dry-run'): assert 'device    ' in done.stdout
    if '--steps' in words: assert (tmp_path/'run'/'policy'/'manifest.json').is_file()


# ---- the bench of a recipe, whose card is not at hand either

def test_the_bench_of_a_recipe_runs_on_a_tiny_shape(tmp_path):
    from bench_recipes_gpu import CASES, TINY, line, ran
    runs = {name: ran(TINY, str(tmp_path/name), steps=1, cpu=True, batch=2, max_new_tokens=8, **settings)
            for name, (package, settings) in CASES.items() if not package}
    for log, peak, guess in runs.values():
        assert [r['step'] for r in log] == [1] and not log[0]['skipped'] and peak == 0 and guess > 0
        assert line(log[0]).startswith('  step 1: ') and 'sample ' in line(log[0]) and 'update ' in line(log[0])
