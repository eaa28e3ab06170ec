"LoRA on weights in 4 bits: loaded, trained, resumed, merged and exported; on a CPU, where bitsandbytes is installed."
import json
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch

from changed import changed
from hir.cli import main
from hir.files import shipped
from hir.instructions.instruction import load_instructions
from hir.policies.engines.hf import HFEngine
from hir.policies.engines.replica import _base_weights, _weights_of
from hir.policies.generate import _by_columns
from hir.policies.lora import AdapterOff, add_lora, count_parameters, lora_size, merge_lora, merged_plain, merged_state
from hir.policies.policy import Policy, PolicyError, load_policy, packed_layers, pad_rows
from hir.recipes import _weight_bytes, dims_of, resolve
from hir.training.config import ConfigError, HirConfig, make_config, rules_of
from hir.training.runlog import read_log
from hir.training.trainer import fit

START, IDS = str(shipped('toy/start')), torch.tensor([[5, 6, 7, 8, 9]])
ROWS = pad_rows([([5, 6, 7], [8, 9, 10]), ([5, 6, 7], [11, 12]), ([9, 8], [7])], 0)
needs = pytest.mark.skipif(not find_spec('bitsandbytes'), reason="bitsandbytes is not installed: pip install 'hir[4bit]'")


def packed(): return load_policy(START, dtype='nf4')[0]

def stirred():
    "A packed model with adapters that do something."
    model = add_lora(packed(), 4, 8)
    torch.manual_seed(1)
    for name, p in model.named_parameters():
        if 'lora_B' in name: torch.nn.init.normal_(p, std=.1)
    return model.eval()

def close(a, b, eps): assert (a - b).abs().max() < eps, (a - b).abs().max()


# ---- without the package

def test_without_lora_or_without_the_package_it_is_refused(monkeypatch):
    with pytest.raises(ConfigError, match='without LoRA: weights in 4 bits get no gradient; set lora_rank'):
        rules_of(make_config({'dtype': 'nf4'}))
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'hir\[4bit\]'"): rules_of(make_config({'dtype': 'nf4', 'lora_rank': 4}))
    monkeypatch.setattr('hir.policies.policy.is_bitsandbytes_available', lambda: False)
    with pytest.raises(PolicyError, match=r"pip install 'hir\[4bit\]'"): load_policy(START, dtype='nf4')


def test_the_dry_run_counts_packed_weights():
    "Without packing anything: 4 bits and the scales for layers between embeddings and head, float32 for the rest."
    plain = HirConfig(model=START); cfg = replace(plain, dtype='nf4', lora_rank=4)
    d, model = dims_of(resolve(cfg)[0], cfg), resolve(plain)[0]
    inner = sum(p.numel() for n, p in model.named_parameters() if 'proj' in n)
    assert d.linear - d.vocab*d.width == inner
    assert _weight_bytes(cfg, d) == 4*(d.params - inner) + round(inner*(.5 + 1/64 + 4/(64*256)))


# ---- with it

@needs
def test_numbers_are_counted_as_what_they_stand_for():
    model, plain = packed(), load_policy(START)[0]
    assert count_parameters(model)[1] == count_parameters(plain)[1] and lora_size(model, 4) == lora_size(plain, 4)
    assert len(packed_layers(model)) == 14 and not packed_layers(plain)
    assert count_parameters(add_lora(model, 4))[0] == lora_size(plain, 4)


@needs
def test_packed_layers_are_where_the_dry_run_looks_for_them():
    "The bytes of weights, scales and the rest; each layer keeps a table of 16, and of 256 numbers, and an offset beside."
    cfg, model = HirConfig(model=START, dtype='nf4', lora_rank=4), packed()
    held = sum(p.numel()*p.element_size() for p in model.parameters())
    for layer in packed_layers(model).values():
        s = layer.weight.quant_state
        held += sum(x.numel()*x.element_size() for x in (s.absmax, s.state2.absmax))
    assert held == pytest.approx(_weight_bytes(cfg, dims_of(resolve(cfg)[0], cfg)), rel=.01)


@needs
def test_the_merged_model_is_the_one_that_was_trained():
    model = stirred(); plain = merged_plain(model)
    assert type(plain) is type(load_policy(START)[0]) and plain.dtype == torch.float32 and not packed_layers(plain)
    assert not hasattr(plain.config, 'quantization_config')
    close(plain(input_ids=IDS).logits, model(input_ids=IDS).logits, 1e-4)
    close(Policy(plain)(*ROWS)[0], Policy(model)(*ROWS)[0], 1e-4)
    assert dict(plain.named_parameters()).keys() == merged_state(model).keys()
    close(merge_lora(model)(input_ids=IDS).logits, plain(input_ids=IDS).logits, 1e-6)


@needs
def test_gradients_are_those_of_the_merged_model_under_adapters():
    "Also after sampling, when a processor with bfloat16 would have laid the weights out for inference."
    model = stirred(); twin = load_policy(START)[0]
    twin.load_state_dict({n: w for n, w in merged_state(add_lora(packed(), 4, 8)).items()})       # the packed weights, unpacked
    twin = add_lora(twin, 4, 8)
    twin.load_state_dict({n: w for n, w in model.state_dict().items() if 'lora_' in n}, strict=False)
    HFEngine(model, load_policy(START)[1], 4).generate(load_instructions(shipped('toy/train.jsonl'))[:1], 1, seeds=0)
    for m in (model, twin.eval()): Policy(m)(*ROWS)[0].sum().backward()
    other = dict(twin.named_parameters())
    for name, p in model.named_parameters():
        if p.requires_grad: close(p.grad, other[name].grad, 1e-3); assert p.grad.abs().sum() > 0
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)
    assert not any(layer.support_avx512bf16_for_cpu for layer in packed_layers(model).values())


@needs
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_packed_layers_heed_autocast(dtype):
    layer, x = next(iter(packed_layers(packed()).values())), torch.randn(3, 64)
    plainly = layer(x)
    assert plainly.dtype == torch.float32
    with torch.autocast('cpu', dtype): low = layer(x)
    assert low.dtype == dtype and 0 < (low.float() - plainly).abs().max() < .05
    assert torch.equal(layer(x), plainly)                                      # and compute in float32 again


@needs
def test_sampling_leaves_packed_weights_as_they_lie(monkeypatch):
    monkeypatch.setattr('hir.policies.generate._WORTH', (0, 2**30))
    model = packed(); before = {n: (p.data_ptr(), p.stride()) for n, p in model.named_parameters()}
    with _by_columns(model): inside = {n: (p.data_ptr(), p.stride()) for n, p in model.named_parameters()}
    assert {n for n in before if inside[n] != before[n]} <= {'lm_head.weight'}
    assert {n: (p.data_ptr(), p.stride()) for n, p in model.named_parameters()} == before


@needs
def test_an_engine_with_a_copy_is_sent_plain_weights():
    model = stirred(); plain = load_policy(START)[0]
    for weights, like in ((_weights_of(model), model), (_base_weights(model), AdapterOff(Policy(model)).policy)):
        plain.load_state_dict(dict(weights))
        if like is model: close(plain(input_ids=IDS).logits, model(input_ids=IDS).logits, 1e-4)
        else:
            with model.disable_adapter(): close(plain(input_ids=IDS).logits, model(input_ids=IDS).logits, 1e-4)


def config(tmp_path, **more):
    own = dict(model=START, train=str(shipped('toy/train.jsonl')), out=str(tmp_path/'run'), dtype='nf4', lora_rank=4, batch=3,
               m=3, k=1, steps=2, lr=1e-2, max_new_tokens=8, save_every=1, cards_every=0, kl_coef=.01, cpu=True)
    return changed(HirConfig(), **own | more)

def trained(cfg):
    fit(cfg, load_policy(START, dtype='nf4')[0], load_policy(START)[1], load_instructions(cfg.train), progress=False)
    return {n: p for n, p in load_policy(f'{cfg.out}/policy')[0].named_parameters()}


@needs
def test_a_run_is_resumed_and_exported(tmp_path, capsys):
    whole, first = trained(config(tmp_path/'a')), config(tmp_path/'b', steps=1)
    trained(first); parts = trained(changed(first, steps=2, resume='auto'))
    assert all(torch.equal(p, parts[n]) for n, p in whole.items())
    start = merged_state(add_lora(packed(), 4))
    assert max((p - start[n]).abs().max() for n, p in whole.items()) > 1e-3
    lines = read_log(tmp_path/'a'/'run'/'history.jsonl')
    assert [r['step'] for r in lines] == [1, 2] and not any(r['skipped'] for r in lines)
    for words, out in ((('--checkpoint', '2'), 'merged'), (('--adapter',), 'adapter')):
        assert main(['export', str(tmp_path/'a'/'run'), '-o', str(tmp_path/out), *words]) == 0, capsys.readouterr().err
    again = dict(load_policy(str(tmp_path/'merged'))[0].named_parameters())
    for n, p in whole.items(): close(p, again[n], 1e-6)
    assert json.loads((tmp_path/'adapter'/'adapter_config.json').read_text())['r'] == 4
    assert 'quantization_config' not in json.loads((tmp_path/'merged'/'config.json').read_text())


@needs
def test_a_gguf_file_is_not_packed(tmp_path):
    from test_get import tiny_llama, write_gguf
    with pytest.raises(PolicyError, match='not of a .gguf file; take float32 or'):
        load_policy(write_gguf(tmp_path/'tiny.gguf', tiny_llama()), dtype='nf4')
