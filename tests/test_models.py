"Any causal language model of transformers: scores equal its own logits, samples equal a fresh forward."
import os, shutil, subprocess, sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError
from transformers import AutoModelForCausalLM, AutoTokenizer, CONFIG_MAPPING

from hir.policies.generate import generate
from hir.policies.policy import Policy, PolicyError, _check_head, load_policy, pad_rows
from hir.files import shipped
from checkout import ROOT

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

@pytest.fixture
def no_hub(monkeypatch):
    "Whoever asks the hub fails the test."
    def asked(*a, **k): pytest.fail('asked the hub')
    monkeypatch.setattr(AutoModelForCausalLM, 'from_pretrained', asked); monkeypatch.setattr(HfApi, 'model_info', asked)

def test_a_name_that_is_no_folder_and_not_on_the_hub(no_hub, monkeypatch, tmp_path):
    "At once, without asking the hub: names there have an owner."
    monkeypatch.chdir(tmp_path)
    for name in ('qwenx', 'runs/mine/polcy', './qwenx'): assert f'{name}: no such folder' in refused(name)
    assert 'OWNER/NAME' in refused('qwenx')

@pytest.mark.parametrize('wrong, hint', [
    ('data/toyy', "data has no 'toyy'; did you mean 'toy'?"),                 # OWNER/NAME in form, but data/ is here
    ('./modles/qwen', ". has no 'modles'; did you mean 'models'?"),
    ('models/qwen/last', "models/qwen has no 'last'; it has no folders"),
    ('.\\models\\qwen', "did you mean 'models/qwen'?"),
    ('modles/', "did you mean 'models'?"),
    ('C:/models', ". has no 'C:'; it has the folders data, models"),
    ('elsewhere/model.safetensors', ". has no 'elsewhere'"), ('data/list.jsonl', 'is a file'),
    (Path('modles/qwen'), "did you mean 'models'?"), ('~/hir-nowhere', "has no 'hir-nowhere'")])
def test_a_mistyped_path_is_told_what_is_there(no_hub, monkeypatch, tmp_path, wrong, hint):
    "At once, though it may look like a name on the hub."
    for folder in ('data/toy', 'models/qwen', '.cache'): (tmp_path/folder).mkdir(parents=True)
    (tmp_path/'data'/'list.jsonl').touch(); monkeypatch.chdir(tmp_path)
    said = refused(wrong)
    assert said.startswith(f'{wrong}: ') and hint in said, said

def test_a_name_that_the_hub_does_not_know(no_hub, monkeypatch, tmp_path):
    def asked(*a, **k): raise RepositoryNotFoundError('404', response=SimpleNamespace(headers={}, request=None))
    monkeypatch.chdir(tmp_path); monkeypatch.setattr(HfApi, 'model_info', asked)
    assert '`hf auth login`' in refused('Qwen/Qwen9')

def test_a_hub_that_cannot_be_reached_is_asked_once(tmp_path):
    "Not with the retries of each file that a model may have, which took most of a minute."
    code = 'from hir.policies.policy import load_policy; load_policy("Qwen/Qwen9")'
    env = dict(os.environ, HF_ENDPOINT='http://127.0.0.1:9', HF_HUB_OFFLINE='0', HF_HOME=str(tmp_path), PYTHONPATH=str(ROOT))
    done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, env=env, capture_output=True, text=True)
    said = done.stderr.strip().splitlines()[-1]
    assert 'PolicyError: Qwen/Qwen9: ' in said and 'the hub cannot be asked' in said and 'Retrying' not in done.stderr, done.stderr

def test_offline_is_named():
    assert 'HF_HUB_OFFLINE' in refused('Qwen/Qwen9')

def test_a_home_folder_is_found(start, monkeypatch):
    monkeypatch.setenv('HOME', str(start.parent)); monkeypatch.setenv('USERPROFILE', str(start.parent))
    assert load_policy('~/policy')[1].pad_token

def test_a_tokenizer_with_more_tokens_than_the_model(start):
    tokenizer = AutoTokenizer.from_pretrained(start)
    tokenizer.add_tokens([f'word{i}' for i in range(7)]); tokenizer.save_pretrained(start)
    said = refused(start)
    assert 'tokenizer' in said and 'resize_token_embeddings' in said and str(len(tokenizer)) in said

def test_a_padding_token_must_be_one(start):
    assert "'<nope>'" in refused(start, pad_token='<nope>') and 'pad_token' in refused(start, pad_token='<nope>')
    _, tokenizer = load_policy(start)
    assert load_policy(start, pad_token=tokenizer.eos_token)[1].pad_token_id == tokenizer.eos_token_id
