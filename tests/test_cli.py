"Settings that the command line hands on: how the model attends."
import pytest
import torch

from engines import gap, questions, trainers
from hir.cli import main
from hir.policy import load_policy
from hir.rollout import HFEngine
from hir.runlog import read_log
from hir.toy import shipped

WORDS = dict(model=shipped('toy/start'), train=shipped('toy/train.jsonl'), steps=1, batch=4, m=3, k=1, max_new_tokens=16, cpu='true',
             eval_every=0, save_every=0, lr=1e-4)


def hir_train(*flags, **words): return main(['train', *flags, *(f'--{k}={v}' for k, v in (WORDS | words).items())])


def test_every_attention_gives_the_same_log_probabilities():
    found = []
    for attention in ('sdpa', 'eager'):
        model, tokenizer = load_policy(shipped('toy/start'), attn_implementation=attention)
        assert model.config._attn_implementation == attention
        rollouts = HFEngine(model, tokenizer, 24).generate(questions(), 3, 0)
        assert gap(model, rollouts) < 1e-5
        found.append(rollouts)
    assert [r.ids for r in found[0]] == [r.ids for r in found[1]]
    for (a, _), (b, _) in zip(*(trainers(model, rollouts) for rollouts in found)): assert torch.allclose(a, b, atol=1e-5)
    for a, b in zip(*found): assert torch.allclose(torch.tensor(a.logps), torch.tensor(b.logps), atol=1e-5)


def test_a_run_attends_as_it_is_told(tmp_path, monkeypatch):
    "From the setting to the same numbers and weights, to 1e-5, in either way."
    import hir.trainer
    seen, fit, weights, said = [], hir.trainer.fit, {}, {}
    monkeypatch.setattr(hir.trainer, 'fit', lambda cfg, model, *rest: seen.append(model.config._attn_implementation) or fit(cfg, model, *rest))
    for attention in ('sdpa', 'eager'):
        assert hir_train(attention=attention, out=tmp_path/attention) == 0
        weights[attention] = torch.cat([p.detach().flatten() for p in load_policy(tmp_path/attention/'policy')[0].parameters()])
        said[attention], = read_log(tmp_path/attention/'history.jsonl')
    assert seen == ['sdpa', 'eager']
    for name in ('loss', 'grad_norm', 'entropy', 'cla'): assert said['sdpa'][name] == pytest.approx(said['eager'][name], abs=1e-5), name
    assert (weights['sdpa'] - weights['eager']).abs().max() < 1e-5


@pytest.mark.parametrize('flags', [(), ('--dry-run',)], ids=['run', 'dry run'])
@pytest.mark.parametrize('attention, says', [('sdap', 'is not supported'), ('flash_attention_2', "doesn't seem to be installed")])
def test_an_attention_that_cannot_be_had_is_told(attention, says, flags, tmp_path, capsys):
    if attention.startswith('flash'):
        from transformers.utils import is_flash_attn_2_available
        if is_flash_attn_2_available(): pytest.skip('flash attention is installed here')
    assert hir_train(*flags, attention=attention, out=tmp_path/'run') == 2
    said = capsys.readouterr().err
    assert said.startswith(f"hir: error: setting 'attention' cannot be '{attention}' here: ") and says in said, said
    assert not (tmp_path/'run').exists()
