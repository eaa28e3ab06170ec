"Export: what plain transformers loads, a card that tells the truth, and nothing half done."
import json

import re

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from hir.training.checkpoint import CheckpointError, publish
from hir.cli import main
from hir.training.config import HirConfig, save_config
from hir.export import _HIDDEN, export_run, model_card, push_to_hub
from hir.files import write_jsonl
from hir.policies.lora import add_lora, save_adapter
from hir.policies.policy import PolicyError, load_policy
from hir.files import shipped

IDS = torch.tensor([[5, 6, 7, 8]])


def trained(folder, rank=0):
    "A run's folder with a policy that is not the start; and that policy's logits."
    torch.manual_seed(0)
    model, tokenizer = load_policy(shipped('toy/start'))
    if rank: model = add_lora(model, rank, 4)
    for p in model.parameters():
        if p.requires_grad: p.data += .02*torch.randn(p.shape)
    def policy(tmp): save_adapter(model, tmp) if rank else model.save_pretrained(tmp); tokenizer.save_pretrained(tmp)
    def whole(tmp): (tmp/'policy').mkdir(); policy(tmp/'policy'); (tmp/'run.json').write_text(json.dumps({'step': 3}))
    folder.mkdir()
    cfg = HirConfig(model='some/model', train='/data/secret/place/train.jsonl', steps=4, lr=3e-6, lora_rank=rank, lora_alpha=4, out=str(folder))
    save_config(cfg, folder/'config.yaml'); publish(folder/'policy', policy); publish(folder/'checkpoint-000003', whole)
    write_jsonl(folder/'history.jsonl', [dict(step=s, ila=.1*s, cla=.2*s) for s in range(1, 5)])
    write_jsonl(folder/'eval.jsonl', [dict(step=s, ila=.1 + .1*s, cla=.5) for s in (0, 2, 4)])
    return folder, model(input_ids=IDS).logits.detach()


@pytest.mark.parametrize('words', [[], ['--checkpoint', '3'], ['--checkpoint', 'checkpoint-000003']])
@pytest.mark.parametrize('rank', [0, 2])
def test_export_loads_in_plain_transformers(rank, words, tmp_path, capsys):
    run, wanted = trained(tmp_path/'run', rank)
    assert main(['export', str(run), '-o', str(tmp_path/'out'), *words]) == 0, capsys.readouterr().err
    model = AutoModelForCausalLM.from_pretrained(tmp_path/'out')
    assert not (tmp_path/'out'/'adapter_config.json').exists()
    assert (model(input_ids=IDS).logits - wanted).abs().max() < 1e-5
    assert AutoTokenizer.from_pretrained(tmp_path/'out').chat_template
    assert f'After step {3 if words else 4}' in (tmp_path/'out'/'README.md').read_text()


def test_an_adapter_alone(tmp_path):
    run, wanted = trained(tmp_path/'run', 2)
    out = export_run(run, tmp_path/'out', adapter=True)
    from peft import AutoPeftModelForCausalLM
    assert (AutoPeftModelForCausalLM.from_pretrained(out)(input_ids=IDS).logits - wanted).abs().max() < 1e-5
    assert not (out/'model.safetensors').exists() and 'AutoPeftModel' in (out/'README.md').read_text()


def test_the_card_tells_what_was_done(tmp_path):
    run, _ = trained(tmp_path/'run', 2)
    card = re.sub(' +', ' ', model_card(run, 'mine', 2))
    front = yaml.safe_load(model_card(run, 'mine', 2).split('---')[1])
    assert (front['base_model'], front['base_model_relation'], front['library_name']) == ('some/model', 'finetune', 'transformers')
    assert '| `lr` | `3e-06` |' in card and '| ila | 0.100 | 0.300 |' in card            # steps 0 and 2, not 4
    assert 'adapters of rank 2 were trained and added' in card and 'torch ' in card and '2512.23457' in card
    assert 'secret' not in card and '`train.jsonl`' in card and str(tmp_path) not in card
    assert not [h for h in _HIDDEN if f'\n| `{h}` ' in card]
    (run/'eval.jsonl').unlink()
    assert 'ila 0.250, cla 0.500' in model_card(run, 'mine', 4)                         # the mean of the training log
    (run/'history.jsonl').unlink()
    assert 'None recorded.' in model_card(run, 'mine', 4)


def test_what_is_damaged_or_missing_is_not_exported(tmp_path, capsys):
    run, _ = trained(tmp_path/'run')
    weights = run/'checkpoint-000003'/'policy'/'model.safetensors'
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match='it was cut'): export_run(run, tmp_path/'out', checkpoint='3')
    with pytest.raises(CheckpointError, match='checkpoint-000009: no such checkpoint'): export_run(run, tmp_path/'out', checkpoint='9')
    with pytest.raises(PolicyError, match='there is no adapter, all weights were trained; export without --adapter'):
        export_run(run, tmp_path/'out', adapter=True)
    (tmp_path/'taken').mkdir()
    assert main(['export', str(run), '-o', str(tmp_path/'taken')]) == 2 and 'exists already' in capsys.readouterr().err
    assert main(['export', str(tmp_path), '-o', str(tmp_path/'out')]) == 2 and 'no config.yaml' in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ['run', 'taken']


def test_an_adapter_whose_model_is_gone(tmp_path):
    run, _ = trained(tmp_path/'run', 2)
    path = run/'policy'/'adapter_config.json'
    told = json.loads(path.read_text()) | {'base_model_name_or_path': str(tmp_path/'gone')}
    def moved(tmp):
        for p in (run/'policy').iterdir(): (tmp/p.name).write_bytes(p.read_bytes())
        (tmp/'manifest.json').unlink(); (tmp/path.name).write_text(json.dumps(told))
    publish(run/'again', moved); (run/'policy').rename(run/'old'); (run/'again').rename(run/'policy')
    with pytest.raises(CheckpointError, match='model under the adapter.*--adapter'): export_run(run, tmp_path/'out')
    assert export_run(run, tmp_path/'out', adapter=True).is_dir()


# ---- the hub

class FakeHub:
    def __init__(self, error=None): self.calls, self.error = [], error
    def create_repo(self, name, **kw):
        if self.error: raise self.error
        self.calls.append((name, kw)); return f'https://hub.example/{name}'
    def upload_folder(self, **kw): self.calls.append(kw)


def test_push(tmp_path, monkeypatch, capsys):
    run, _ = trained(tmp_path/'run')
    hub = FakeHub()
    monkeypatch.setattr('hir.export.get_token', lambda: 'token'); monkeypatch.setattr('hir.export.HfApi', lambda: hub)
    assert main(['export', str(run), '-o', str(tmp_path/'out'), '--push', 'me/great']) == 0
    assert 'https://hub.example/me/great' in capsys.readouterr().out
    assert hub.calls[0] == ('me/great', dict(private=True, exist_ok=True))
    assert (hub.calls[1]['repo_id'], hub.calls[1]['folder_path']) == ('me/great', str(tmp_path/'out'))
    assert "# great" in (tmp_path/'out'/'README.md').read_text()


def test_push_says_what_is_missing(tmp_path, monkeypatch):
    with pytest.raises(PolicyError, match='check the network'): push_to_hub(tmp_path, 'me/x', FakeHub(ConnectionError('no route to host')))
    monkeypatch.setattr('hir.export.get_token', lambda: None)
    with pytest.raises(PolicyError, match='hf auth login'): push_to_hub(tmp_path, 'me/x')
