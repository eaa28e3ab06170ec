"The sampler over fixed buffers writes what the simplest one writes: a response alone, all of it read anew for each token."
import pytest
import torch
from transformers import AutoModelForCausalLM, CONFIG_MAPPING

from hir.policies import generate as sampler
from hir.policies.generate import Sample, generate
from hir.policies.policy import PolicyError

SMALL = dict(vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=128, initializer_range=.2, pad_token_id=0, eos_token_id=1, bos_token_id=2)
FAMILIES = {'llama': dict(tie_word_embeddings=True), 'qwen2': {}, 'qwen3': dict(head_dim=8), 'gpt2': {}, 'phi3': {},
            'falcon': dict(alibi=False),                                                          # attends by means of its own
            'mistral': dict(sliding_window=6),                                                    # not in fixed buffers
            'gemma3_text': dict(head_dim=8, sliding_window=6, layer_types=['sliding_attention', 'full_attention', 'sliding_attention'])}
PROMPTS, STOP, LENGTH = [[5, 6, 7, 8, 9, 10, 11, 12], [5], [20, 21, 22]], [1, 3, 4], 24


def tiny(family, dtype=torch.float64):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIG_MAPPING[family](**(SMALL | FAMILIES[family]))).to(dtype).eval()


@torch.no_grad()
def plainly(model, prompts, m=1, generator=(), temperature=1., top_k=0, top_p=1., stop=STOP, length=LENGTH):
    found = []
    for i, seed in enumerate(generator):
        u, ids, logps, entropies = torch.rand(length, generator=torch.Generator().manual_seed(seed)), [], [], []
        while len(ids) < length and not set(ids) & set(stop):
            logits = model(torch.tensor([prompts[i//m] + ids]), use_cache=False).logits[0, -1]
            logp = (logits/(temperature or 1)).log_softmax(-1)
            likely = logp.exp().sort(descending=True, stable=True)
            kept = likely.values.clone()
            if top_k: kept[top_k:] = 0
            if top_p < 1: kept[kept.cumsum(-1) - kept >= top_p*kept.sum()] = 0
            kept = torch.zeros_like(kept).scatter(0, likely.indices, kept)
            token = int((kept.cumsum(0) > u[len(ids)]*kept.sum()).int().argmax()) if temperature else int(logits.argmax())
            ids.append(token); logps.append(logp[token].item()); entropies.append(-(logp.exp()*logp).sum().item())
        found.append(Sample(ids, logps, entropies, ids[-1] in stop))
    return found


def agree(ours, theirs, eps=1e-6):          # models in float64; some compute norms and softmax in float32 all the same
    assert [s.ids for s in ours] == [s.ids for s in theirs] and [s.stopped for s in ours] == [s.stopped for s in theirs]
    for a, b in zip(ours, theirs):
        for x, y in ((a.logps, b.logps), (a.entropies, b.entropies)): assert x == pytest.approx(y, abs=eps)


@pytest.mark.parametrize('family, sampling', [(family, {}) for family in FAMILIES] + [
    ('llama', dict(temperature=.7, top_k=9)), ('llama', dict(temperature=1.4, top_p=.8)), ('llama', dict(temperature=0))], ids=str)
def test_it_writes_what_the_simplest_writes(family, sampling):
    "Rows that end at different times, prompts of different lengths, several samples of one."
    model, kw = tiny(family), dict(m=4, generator=list(range(12))) | sampling
    ours = generate(model, PROMPTS, stop=STOP, max_new_tokens=LENGTH, **kw)
    agree(ours, plainly(model, PROMPTS, **kw))
    if sampling.get('temperature') != 0: assert len({len(s.ids) for s in ours}) > 2 and max(len(s.ids) for s in ours) > 8


@pytest.mark.parametrize('attention', ['sdpa', 'eager'])
@pytest.mark.parametrize('prompts, m', [([[5, 6]], 1), ([[5, 6], [7, 8]], 3), ([[5]], 7)], ids=['one row', 'one length', 'one prompt'])
def test_without_padding(prompts, m, attention):
    model = tiny('llama')
    model.set_attn_implementation(attention)
    kw = dict(m=m, generator=[9 + i for i in range(m*len(prompts))])
    agree(generate(model, prompts, stop=STOP, max_new_tokens=LENGTH, **kw), plainly(model, prompts, **kw))


@pytest.mark.parametrize('length', [1, 2])
def test_short_ones(length):
    model, kw = tiny('qwen2'), dict(m=2, generator=list(range(6)))
    agree(generate(model, PROMPTS, stop=STOP, max_new_tokens=length, **kw), plainly(model, PROMPTS, length=length, **kw))


def test_with_adapters_on_and_off():
    peft = pytest.importorskip('peft')
    model = peft.get_peft_model(tiny('llama'), peft.LoraConfig(r=4, target_modules='all-linear', init_lora_weights=False)).double().eval()
    kw = dict(m=2, generator=list(range(6)))
    ours = generate(model, PROMPTS, stop=STOP, max_new_tokens=LENGTH, **kw)
    agree(ours, plainly(model, PROMPTS, **kw))
    with model.disable_adapter():
        start = generate(model, PROMPTS, stop=STOP, max_new_tokens=LENGTH, **kw)
        agree(start, plainly(model, PROMPTS, **kw))
    assert [s.ids for s in start] != [s.ids for s in ours]


@pytest.mark.parametrize('family', ['llama', 'gpt2', 'gemma3_text'])
def test_in_16_bits(family):
    "Log-probabilities are those of a fresh forward pass in the same arithmetic, about; of float32, less so."
    model = tiny(family, torch.float32)
    with torch.autocast('cpu', torch.bfloat16):
        ours = generate(model, PROMPTS, m=4, stop=STOP, max_new_tokens=LENGTH, generator=list(range(12)))
        far = []
        for i, s in enumerate(ours):
            with torch.no_grad(): logits = model(torch.tensor([PROMPTS[i//4] + s.ids]), use_cache=False).logits[0].float()
            logp = logits[len(PROMPTS[i//4]) - 1:-1].log_softmax(-1).gather(1, torch.tensor(s.ids)[:, None])[:, 0]
            far.append((torch.tensor(s.logps) - logp).abs().mean().item())
    assert sum(far)/len(far) < .05


def test_buffers_are_allocated_once(monkeypatch):
    "However many tokens are written, and however many rows leave."
    seen = {}
    def update(self, *args, own=sampler._FixedLayer.update, **kw):
        found = own(self, *args, **kw)
        seen.setdefault(id(self), set()).add((*(x.data_ptr() for x in self.room), *(x.data_ptr() for x in found), len(self.room[0])))
        assert self.room[0].shape[2] == 8 + LENGTH - 1
        return found
    monkeypatch.setattr(sampler._FixedLayer, 'update', update)
    ours = generate(tiny('llama'), PROMPTS, m=4, stop=STOP, max_new_tokens=LENGTH, generator=list(range(12)))
    assert len({len(s.ids) for s in ours}) > 4 and len(seen) == 3 and all(len(places) == 1 for places in seen.values())


def test_weights_by_columns_are_the_same_weights(monkeypatch):
    model, kw = tiny('llama', torch.float32), dict(m=4, stop=STOP, max_new_tokens=LENGTH, generator=list(range(12)))
    own = {name: (p.data_ptr(), p.stride(), p.clone()) for name, p in model.named_parameters()}
    rows, strides = generate(model, PROMPTS, **kw), []
    monkeypatch.setattr(sampler, '_WORTH', (0, 2**30))
    model.model.layers[0].mlp.up_proj.register_forward_pre_hook(lambda layer, x: strides.append(layer.weight.stride()))
    agree(generate(model, PROMPTS, **kw), rows, 1e-5)
    assert set(strides) == {(1, 48) if torch.backends.mkl.is_available() else (32, 1)}
    model.lm_head.weight.data[5] = float('nan')
    with pytest.raises(PolicyError, match='NaN'): generate(model, PROMPTS, **kw)
    for name, p in model.named_parameters():                                      # after an error, too
        assert (p.data_ptr(), p.stride()) == own[name][:2] and p.is_contiguous()
        assert torch.equal(p.nan_to_num(), own[name][2]) or p is model.lm_head.weight
    assert model.config._attn_implementation == 'sdpa'
