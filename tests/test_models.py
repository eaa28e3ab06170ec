"Any causal language model of transformers: scores equal its own logits, samples equal a fresh forward."
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, CONFIG_MAPPING

from hir.policies.generate import generate
from hir.policies.policy import Policy, PolicyError, _check_head, load_policy, pad_rows
from hir.files import shipped

SMALL = dict(vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=128, pad_token_id=0, eos_token_id=1, bos_token_id=2)
FAMILIES = {
    'llama': dict(tie_word_embeddings=True),
    'qwen2': {},
    'qwen3': dict(head_dim=8),
    'mistral': dict(sliding_window=6),          # shorter than the sequences below
    'phi3': {},
    'gpt2': {},
}


def tiny(family):
    torch.manual_seed(0)
    config = CONFIG_MAPPING[family](**(SMALL | FAMILIES[family]))
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize('family', FAMILIES)
def test_scores_are_the_models_own(family):
    model = tiny(family)
    _check_head(model)
    rows = [([5, 6, 7], [8, 9, 10, 11]), ([5], [12, 13]), ([5, 6, 7, 8, 9, 10], [14])]
    ids, prompt_len, mask = pad_rows(rows, 0)
    with torch.no_grad():
        logp, entropy = Policy(model, chunk=2)(ids, prompt_len, mask, temperature=.8)
        for b, (q, a) in enumerate(rows):
            full = (model(torch.tensor([q + a])).logits[0].float()/.8).log_softmax(-1)
            for t, token in enumerate(a):
                dist = full[len(q) + t - 1]
                assert logp[b, t].item() == pytest.approx(dist[token].item(), abs=1e-5)
                assert entropy[b, t].item() == pytest.approx(-(dist.exp()*dist).sum().item(), abs=1e-5)


@pytest.mark.parametrize('family', FAMILIES)
def test_samples_equal_a_fresh_forward(family):
    model = tiny(family)
    prompts = [[5, 6, 7, 8, 9, 10, 11, 12], [5], [20, 21, 22]]
    samples = generate(model, prompts, m=4, max_new_tokens=24, stop=[1, 3, 4], pad=0, generator=list(range(12)))
    ids, prompt_len, mask = pad_rows([(prompts[i//4], s.ids) for i, s in enumerate(samples)], 0)
    with torch.no_grad():
        logp, entropy = Policy(model)(ids, prompt_len, mask)
    for i, s in enumerate(samples):
        assert torch.allclose(torch.tensor(s.logps), logp[i, :len(s.ids)], atol=1e-5)
        assert torch.allclose(torch.tensor(s.entropies), entropy[i, :len(s.ids)], atol=1e-5)
        assert s.stopped == (s.ids[-1] in (1, 3, 4)) and (s.stopped or len(s.ids) == 24)
    assert len({len(s.ids) for s in samples}) > 2


def test_a_model_that_bends_its_logits_is_refused():
    torch.manual_seed(0)
    config = CONFIG_MAPPING['gemma2'](**SMALL, head_dim=8, final_logit_softcapping=.05)
    with pytest.raises(PolicyError, match='soft cap'):
        _check_head(AutoModelForCausalLM.from_config(config).eval())


# ---- what cannot be loaded

@pytest.fixture
def start(tmp_path):
    "A copy of the toy's start policy, to be spoilt."
    return shutil.copytree(shipped('toy/start'), tmp_path/'runs'/'mine'/'policy')

def refused(path, **kw):
    with pytest.raises(PolicyError) as e: load_policy(path, **kw)
    assert '\n' not in str(e.value), e.value
    return str(e.value)

def test_a_runs_folder_is_not_its_policy(start):
    (start.parent/'config.yaml').write_text('m: 3\n')
    assert f'did you mean {start}?' in refused(start.parent)

def test_adapters_alone_are_no_policy(start):
    (start/'config.json').unlink(); (start/'adapter_config.json').write_text('{"base_model_name_or_path": "x"}')
    assert '`hir export`' in refused(start)

@pytest.mark.parametrize('spoil', [
    lambda p: [f.unlink() for f in p.iterdir()],
    lambda p: (p/'model.safetensors').write_bytes(b'\x08\0\0\0\0\0\0\0'),
    lambda p: (p/'model.safetensors').write_bytes((p/'model.safetensors').read_bytes()[:900]),
    lambda p: (p/'model.safetensors').write_bytes(b''),
    lambda p: (p/'config.json').write_text('{'),
    lambda p: (p/'config.json').write_text('{"model_type": "qwen9"}'),
    lambda p: (p/'tokenizer.json').write_text('{'),
], ids=['empty folder', 'no header', 'cut weights', 'no weights', 'cut config', 'unknown family', 'cut tokenizer'])
def test_a_damaged_folder_is_named(start, spoil):
    spoil(start)
    assert refused(start).startswith(f'{start}: cannot be loaded as a policy: ')

def test_a_name_that_is_no_folder_and_not_on_the_hub(monkeypatch, tmp_path):
    "At once, without asking the hub: names there have an owner."
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(AutoModelForCausalLM, 'from_pretrained', lambda *a, **k: pytest.fail('asked the hub'))
    for name in ('qwenx', 'runs/mine/polcy', './qwenx'): assert f'{name}: no such folder' in refused(name)
    assert 'OWNER/NAME' in refused('qwenx')

def test_a_tokenizer_with_more_tokens_than_the_model(start):
    tokenizer = AutoTokenizer.from_pretrained(start)
    tokenizer.add_tokens([f'word{i}' for i in range(7)]); tokenizer.save_pretrained(start)
    said = refused(start)
    assert 'tokenizer' in said and 'resize_token_embeddings' in said and str(len(tokenizer)) in said

def test_a_padding_token_must_be_one(start):
    assert "'<nope>'" in refused(start, pad_token='<nope>') and 'pad_token' in refused(start, pad_token='<nope>')
    _, tokenizer = load_policy(start)
    assert load_policy(start, pad_token=tokenizer.eos_token)[1].pad_token_id == tokenizer.eos_token_id
