"LoRA on any family: only adapters learn, the start stays as the reference, merged weights are the same model."
import copy

import pytest
import torch
from transformers import AutoModelForCausalLM

from hir.policies.generate import generate
from hir.policies.lora import (AdapterOff, add_lora, count_parameters, linear_layers, load_adapter, lora_size,
                               lora_targets, merge_lora, merged_state, merged_weights, save_adapter)
from hir.policies.policy import Policy, PolicyError, _check_head, pad_rows
from test_models import FAMILIES, tiny

ROWS = pad_rows([([5, 6, 7], [8, 9, 10, 11]), ([5], [12, 13])], 0)
IDS = torch.tensor([[5, 6, 7, 8, 9]])


def stirred(family, rank=3, targets='all-linear'):
    "A model of the family with adapters that are not 0, and the model before."
    plain = tiny(family)
    model = add_lora(copy.deepcopy(plain), rank, 6, targets)
    for name, p in model.named_parameters():
        if 'lora_B' in name: torch.nn.init.normal_(p, std=.05)
    return model, plain

def close(a, b, eps): assert (a - b).abs().max().item() <= eps, (a - b).abs().max().item()


@pytest.mark.parametrize('family', FAMILIES)
def test_merged_weights_are_the_same_model(family, tmp_path):
    model, plain = stirred(family)
    _check_head(model)
    wanted, before = model(input_ids=IDS).logits.detach(), {n: p.clone() for n, p in model.state_dict().items()}
    twin = copy.deepcopy(plain); twin.load_state_dict(merged_state(model))
    close(twin(input_ids=IDS).logits, wanted, 1e-5)
    for name, p in model.state_dict().items(): assert torch.equal(p, before[name])
    merged = merge_lora(model); merged.save_pretrained(tmp_path)
    assert type(merged) is type(plain)
    for (n, p), q in zip(merged.state_dict().items(), twin.state_dict().values()): close(p, q, 1e-6)
    close(AutoModelForCausalLM.from_pretrained(tmp_path)(input_ids=IDS).logits, wanted, 1e-5)


def test_merged_weights_come_from_a_given_state():
    model, _ = stirred('qwen2')
    state = {n: p*2 if '.lora_B.' in n else p for n, p in model.state_dict().items()}    # the correction is twice as large
    once, twice = merged_state(model), dict(merged_weights(model, state))
    name = 'model.layers.0.mlp.up_proj.weight'
    base = model.state_dict()['base_model.model.model.layers.0.mlp.up_proj.base_layer.weight']
    close(twice[name] - base, 2*(once[name] - base), 1e-6)


@pytest.mark.parametrize('family', FAMILIES)
def test_only_adapters_learn_and_the_reference_stays(family):
    model, plain = add_lora(tiny(family), 4, 8), tiny(family)
    policy = Policy(model); reference = AdapterOff(policy)
    start, losses = Policy(plain)(*ROWS)[0].detach(), []
    assert count_parameters(model)[0] == lora_size(plain, 4)
    assert count_parameters(model)[1] == count_parameters(plain)[1] + lora_size(plain, 4)
    optimizer = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], 1e-2)
    frozen = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    for _ in range(4):
        loss = -policy(*ROWS)[0].sum(); loss.backward(); losses.append(loss.item())
        assert {n for n, p in model.named_parameters() if p.grad is not None} == {n for n, p in model.named_parameters() if p.requires_grad}
        optimizer.step(); optimizer.zero_grad()
        close(reference(*ROWS)[0], start, 1e-6)
    assert losses[-1] < losses[0] - .1
    for name, p in model.named_parameters():
        if name in frozen: assert torch.equal(p, frozen[name])


@pytest.mark.parametrize('family', ['llama', 'gpt2'])
def test_samples_come_from_the_adapted_model(family):
    model, plain = stirred(family)
    kw = dict(m=2, max_new_tokens=12, stop=[1], pad=0, generator=list(range(4)))
    mine, merged = generate(model, [[5, 6], [7, 8, 9]], **kw), copy.deepcopy(plain)
    merged.load_state_dict(merged_state(model))
    for a, b in zip(mine, generate(merged.eval(), [[5, 6], [7, 8, 9]], **kw)):
        assert a.ids == b.ids and max(abs(x - y) for x, y in zip(a.logps, b.logps)) < 1e-5
    assert [s.logps for s in mine] != [s.logps for s in generate(plain, [[5, 6], [7, 8, 9]], **kw)]


def test_an_untied_output_projection_can_have_an_adapter():
    model, plain = stirred('qwen2', targets='lm_head,q_proj')
    assert set(lora_targets(plain, 'lm_head,q_proj')) == {'lm_head', 'q_proj'}
    twin = copy.deepcopy(plain); twin.load_state_dict(merged_state(model))
    close(twin(input_ids=IDS).logits, model(input_ids=IDS).logits, 1e-5)
    _check_head(model)
    a, b = Policy(model)(*ROWS), Policy(twin)(*ROWS)
    close(a[0], b[0], 1e-5); close(a[1], b[1], 1e-5)
    a[0].sum().backward()
    assert model.get_output_embeddings().lora_B['default'].weight.grad.abs().sum() > 0


@pytest.mark.parametrize('targets, says', [('qproj', "'qproj'; there are .*q_proj"), ('', "called ''"), ('embed_tokens', 'embed_tokens'),
                                           ('lm_head', 'leave it out')])
def test_targets_that_cannot_be_are_refused(targets, says):
    with pytest.raises(PolicyError, match=says): lora_targets(tiny('llama'), targets)        # its head is tied


def test_targets_by_part_of_a_name():
    model = add_lora(tiny('qwen3'), 2, targets='layers.1.mlp.up_proj,v_proj')
    adapted = {n.split('.lora_A')[0].removeprefix('base_model.model.') for n, p in model.named_parameters() if 'lora_A' in n}
    assert adapted == {'model.layers.1.mlp.up_proj', 'model.layers.0.self_attn.v_proj', 'model.layers.1.self_attn.v_proj'}
    assert 'lm_head' in linear_layers(tiny('qwen3'))


def test_adapters_are_saved_alone_and_loaded_strictly(tmp_path):
    model, plain = stirred('qwen3')
    save_adapter(model, tmp_path/'a')
    assert {p.name for p in (tmp_path/'a').iterdir()} == {'adapter_config.json', 'adapter_model.safetensors'}
    assert (tmp_path/'a'/'adapter_model.safetensors').stat().st_size < 4*lora_size(plain, 3) + 20_000
    fresh = add_lora(copy.deepcopy(plain), 3, 6); load_adapter(fresh, tmp_path/'a')
    close(fresh(input_ids=IDS).logits, model(input_ids=IDS).logits, 0)
    for other in (add_lora(copy.deepcopy(plain), 2, 6), add_lora(copy.deepcopy(plain), 3, 6, 'q_proj')):
        with pytest.raises(PolicyError, match='not an adapter of this rank and these layers'): load_adapter(other, tmp_path/'a')
    with pytest.raises(PolicyError, match='no such file'): load_adapter(fresh, tmp_path)


def test_adapters_of_a_16_bit_model_are_float32_and_merge_into_16_bit():
    model = add_lora(tiny('llama').bfloat16(), 3, 6)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert {w.dtype for w in merged_state(model).values()} == {torch.bfloat16}


@pytest.mark.parametrize('reentrant', [False, True])
def test_gradients_survive_recomputed_activations(reentrant):
    plainly, again = (stirred('qwen3')[0] for _ in range(2))
    again.load_state_dict(plainly.state_dict())
    again.gradient_checkpointing_enable(gradient_checkpointing_kwargs={'use_reentrant': reentrant})
    if reentrant: again.enable_input_require_grads()          # else nothing that enters a layer asks for a gradient
    for model in (plainly, again.train()): Policy(model)(*ROWS)[0].sum().backward()
    for p, q in zip(plainly.parameters(), again.parameters()):
        if p.requires_grad: close(p.grad, q.grad, 1e-6)
