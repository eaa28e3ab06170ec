"Any causal language model of transformers: scores equal its own logits, samples equal a fresh forward."
import pytest
import torch
from transformers import AutoModelForCausalLM, CONFIG_MAPPING

from hir.generate import generate
from hir.policy import Policy, PolicyError, check_head, pad_rows

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
    check_head(model)
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
        check_head(AutoModelForCausalLM.from_config(config).eval())
