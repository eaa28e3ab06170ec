"The update on a GPU, as far as a CPU can tell: who waits for the device, and what sizes, kernels and compilation change."
import os
import shutil
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import hir.training.step
from hir.files import shipped
from hir.instructions.instruction import load_instructions
from hir.policies.capacity import CPU_TOKENS
from hir.policies.policy import Policy, cannot_fuse, layout_of, load_policy, pad_rows
from hir.training.batch import take, _mapped
from hir.training.config import ConfigError, make_config, method_of, read_config, rules_of, sizes_of
from hir.training.method import totals_of
from hir.training.step import step, _merged_stats, _share_of_loss
from hir.training.runlog import read_log
from hir.training.trainer import _prepare_job
from test_launch import RUNS, TOY, alone, launch_runs, same_run
from test_scale import ROWS, tiny

METHODS = {'hir': {'name': 'hir', 'kl_coef': .01}, 'plain RL': {'name': 'hir', 'k': 0, 'kl_coef': 0.}, 'sft': {'name': 'sft'}, 'dpo': {'name': 'dpo'}}


# ---- nobody waits for the device

class Copies(TorchDispatchMode):
    "Notes what is copied from one device to another; for such a copy the processor waits, too."
    def __init__(self): super().__init__(); self.seen = []

    def __torch_dispatch__(self, f, types, args=(), kw=None):
        out = f(*args, **(kw or {}))
        if f._schema.name in ('aten::_to_copy', 'aten::copy_') and any(x.device != out.device for x in args if isinstance(x, torch.Tensor)):
            self.seen.append(str(f))
        return out


def unseeable(module):
    "The module on the meta device, on which a tensor has a shape and no values: a look at one is an error."
    for m in module.modules():
        for group in (m._parameters, m._buffers):
            for name, x in group.items():
                if x is not None: group[name] = torch.nn.Parameter(x.detach().to('meta'), x.requires_grad) if group is m._parameters else x.to('meta')
    return module


def a_step(method, tmp_path):
    "Parts and batch of a step of the toy."
    cfg = make_config(dict(model=str(shipped('toy/start')), batch=6, m=4, max_new_tokens=20, method=method, reward='cla', out=str(tmp_path)), base=read_config(TOY))
    job, batches = _prepare_job(cfg, *load_policy(cfg.model)), []
    train = load_instructions(shipped('toy/train.jsonl'))[:6]
    step(method_of(cfg), job, train, rules=rules_of(cfg), sizes=sizes_of(cfg), seen=lambda rows, batch: batches.append(batch))
    return job, batches[0]


@pytest.mark.parametrize('name', METHODS)
@pytest.mark.parametrize('step', [1, 16])
def test_launches_wait_for_nothing_within_a_micro_batch(name, step, tmp_path, monkeypatch):
    job, batch = a_step(METHODS[name], tmp_path)
    totals = totals_of(batch, torch.arange(len(batch)))
    b = take(batch, torch.arange(len(batch)))
    assert job.policy.share
    b = replace(b, layout=layout_of(b.ids, b.prompt_len, b.mask, True, False, step))
    policy, b = unseeable(job.policy), _mapped(b, lambda x: x.to('meta'))
    made = torch.tensor

    def from_python(data, *args, **kw):
        assert data == [], 'a tensor is made from numbers, and copied to the device'       # a cache begins with an empty one
        return made(data, *args, **kw)
    monkeypatch.setattr(torch, 'tensor', from_python)
    with Copies() as copies:
        loss, stats = _share_of_loss(job.method, policy, b, totals, .7)
        loss.backward()
        _merged_stats(stats, stats)
    assert not copies.seen and loss.device.type == 'meta'
    assert all(p.grad is not None for p in policy.parameters())


def test_a_look_at_a_value_would_be_noticed_among_launches():
    with pytest.raises(RuntimeError): torch.ones(2, device='meta').sum().item()
    with pytest.raises((RuntimeError, NotImplementedError)): torch.ones(2, device='meta').nonzero()
    with Copies() as copies: torch.ones(2).to('meta')
    assert copies.seen


@pytest.mark.parametrize('step', [2, 16])
def test_wider_columns_change_nothing(step):
    "On a GPU the widths of shared prompts are multiples of 16."
    policy = Policy(tiny('llama'))
    rows = pad_rows(ROWS, 0)
    wide = layout_of(*rows, share=True, step=step)
    assert wide.ids.shape[1] % step == 0 and wide.then.shape[1] % step == 0 and wide.short is not None
    for ours, theirs in zip(policy(*rows, .8, True, wide), policy(*rows, .8)): assert (ours - theirs).abs().max() < 1e-9


# ---- micro-batches by memory

FULL = """
import hir.training.step, torch
whole = hir.training.step._share_of_loss
def small_memory(method, policy, b, *args):
    if rank == '1' and len(b) > 3: raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB')
    return whole(method, policy, b, *args)
hir.training.step._share_of_loss = small_memory
"""


@pytest.mark.parametrize('word, found', [('auto', 'auto'), ('512', 512), (0, 0)])
def test_micro_tokens_may_be_auto(word, found): assert make_config({'micro_tokens': word}).micro_tokens == found


@pytest.mark.parametrize('word', ['atuo', -1, 2.5, True])
def test_micro_tokens_may_be_no_other_word(word):
    with pytest.raises(ConfigError, match='micro_tokens'): make_config({'micro_tokens': word})


def test_micro_tokens_auto_changes_no_gradient_and_is_in_the_log(tmp_path):
    same_run(alone(tmp_path), by_memory := alone_auto(tmp_path))
    assert {r['micro_tokens'] for r in read_log(by_memory/'history.jsonl')} == {CPU_TOKENS}


def alone_auto(tmp_path):
    (tmp_path/'auto').mkdir()
    return alone(tmp_path/'auto', micro_tokens='auto')


def test_micro_tokens_auto_is_halved_where_memory_runs_out(tmp_path, monkeypatch, capsys):
    "The toy's minibatch is begun again until no micro-batch has more than three rows."
    whole = hir.training.step._share_of_loss

    def small_memory(method, policy, b, *args):
        loss = whole(method, policy, b, *args)
        if len(b) > 3: loss[0].backward(); raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB')
        return loss
    monkeypatch.setattr(hir.training.step, '_share_of_loss', small_memory)
    small = alone_auto(tmp_path)
    monkeypatch.undo()
    same_run(alone(tmp_path), small)
    used = [r['micro_tokens'] for r in read_log(small/'history.jsonl')]
    assert used[0] < 300 and used == sorted(used, reverse=True)
    assert f'out of memory: micro_tokens {used[0]:,} from now on' in capsys.readouterr().out


def test_a_row_for_which_there_is_no_memory_ends_the_run(tmp_path, monkeypatch):
    def no_memory(*args): raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB')
    monkeypatch.setattr(hir.training.step, '_share_of_loss', no_memory)
    with pytest.raises(RuntimeError, match='a single row.*max_new_tokens'): alone_auto(tmp_path)


@pytest.mark.slow
def test_micro_tokens_auto_is_halved_by_all_processes_where_one_is_full(tmp_path):
    launch_runs('ddp', tmp_path, RUNS + FULL + 'runs()', {'auto': dict(micro_tokens='auto')})
    same_run(alone(tmp_path), tmp_path/'auto')
    assert read_log(tmp_path/'auto'/'history.jsonl')[0]['micro_tokens'] < 300


# ---- a fused kernel, a compiled decoder

def gradients(policy, rows, temperature=.8):
    policy.model.zero_grad()
    logp, entropy = policy(*rows, temperature)
    (logp*torch.linspace(-1, 1, logp.shape[1])).sum().backward()
    return logp.detach(), entropy, torch.cat([p.grad.flatten() for p in policy.model.parameters()])


@pytest.mark.parametrize('dtype, eps', [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_the_kernel_of_liger_is_ours(dtype, eps):
    "On a CPU its own fallback runs; the Hopper kernel is asked in tests/with_gpu."
    pytest.importorskip('liger_kernel.ops', reason='liger-kernel is not installed', exc_type=ImportError)
    model, rows = tiny('llama', dtype), pad_rows(ROWS, 0)
    for ours, theirs in zip(gradients(Policy(model), rows), gradients(Policy(model, kernel='liger'), rows), strict=True):
        assert ours.abs().max() > 0 and (ours - theirs).abs().max() <= eps*ours.abs().max()


def test_a_kernel_that_is_not_there_is_refused_and_auto_does_without(monkeypatch, tmp_path):
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    assert "pip install 'hir[kernel]'" in cannot_fuse(tiny('llama'), 'liger')
    with pytest.raises(ConfigError, match='kernel.*hir.kernel'): alone(tmp_path, kernel='liger')
    rows = pad_rows(ROWS, 0)
    for ours, theirs in zip(Policy(tiny('llama'), kernel='auto')(*rows), Policy(tiny('llama'))(*rows)): assert ours.equal(theirs)


@pytest.mark.parametrize('other', [dict(gradient_checkpointing=True), dict(lora_rank=2)])
def test_compile_is_refused_beside_what_was_not_tried(other, tmp_path):
    with pytest.raises(ConfigError, match=f'compile.*{next(iter(other))}'): alone(tmp_path, compile=True, **other)


def test_compile_wants_a_compiler(tmp_path, monkeypatch):
    monkeypatch.setenv('CXX', 'no-such-compiler')
    with pytest.raises(ConfigError, match='C.. compiler'): alone(tmp_path, compile=True)


@pytest.mark.slow
@pytest.mark.parametrize('share', [True, False])
def test_a_compiled_decoder_is_the_plain_one_at_any_length(share):
    if not shutil.which(os.environ.get('CXX', 'g++')): pytest.skip('no C++ compiler')
    from torch._dynamo.utils import counters
    model = tiny('llama', torch.float32)
    plain, fast = (Policy(model, share=share, compiled=compiled) for compiled in (False, True))
    assert fast.state_dict().keys() == plain.state_dict().keys()
    counters.clear()
    for n in range(4):
        rows = pad_rows([(q, [*a, *[5 + n]*(3*n)]) for q, a in ROWS], 0)
        for ours, theirs in zip(gradients(fast, rows), gradients(plain, rows)): assert (ours - theirs).abs().max() <= 1e-5*theirs.abs().max()
    assert counters['stats']['unique_graphs'] <= 4                     # not one for each length
