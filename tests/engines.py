"""What every engine must do. test_engines.py asks it of `HFEngine`, with_vllm/ of the others:
each function of CHECKS is called with an engine (temperature 1, at most LENGTH tokens), its model and a tokenizer."""
from functools import lru_cache

import pytest
import torch
from transformers import AutoModelForCausalLM, CONFIG_MAPPING

from hir.instructions.instruction import load_instructions
from hir.policies.policy import Policy, encode_chat, load_policy, pad_rows
from hir.policies.rollout import EngineError, stop_ids
from hir.files import shipped

LENGTH, CLOSE = 24, 1e-4     # tokens of a response at most; nats between an engine's log-probability and the trainer's
TINY = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
            max_position_embeddings=256, initializer_range=.2, pad_token_id=0, eos_token_id=2, bos_token_id=None)
LORA = dict(r=4, lora_alpha=8, target_modules='all-linear', task_type='CAUSAL_LM')


# ---- models

def toy(): return load_policy(shipped('toy/start'))

def tiny(tied, family='qwen2'):
    "A random model of another family, with the toy's tokenizer."
    tokenizer = toy()[1]
    torch.manual_seed(0)
    config = CONFIG_MAPPING[family](**TINY, vocab_size=len(tokenizer), tie_word_embeddings=tied)
    return AutoModelForCausalLM.from_config(config).eval(), tokenizer

@torch.no_grad()
def wide():
    """The toy with heads of 32 instead of 16, the same function: vLLM's CPU kernels begin at 32. The new halves are 0;
    rotary positions pair i with i + 16 now, with the old angles where theta is squared; sqrt(2) undoes the new scale."""
    model, tokenizer = toy()
    c, kept = model.config, torch.tensor([*range(8), *range(16, 24)])
    at = (torch.arange(c.num_attention_heads)[:, None]*32 + kept).flatten()
    rope = dict(rope_type='default', rope_theta=c.rope_parameters['rope_theta']**2)
    new = AutoModelForCausalLM.from_config(type(c).from_dict(c.to_dict() | dict(head_dim=32, rope_parameters=rope))).eval()
    for name, w in model.state_dict().items():
        to = new.get_parameter(name)
        if name.endswith(('q_proj.weight', 'k_proj.weight', 'v_proj.weight')):
            to.zero_()[at] = w*2**.5 if 'q_proj' in name else w
        elif name.endswith('o_proj.weight'): to.zero_()[:, at] = w
        else: to.copy_(w)
    return new, tokenizer

def with_lora(model, tokenizer):
    "The model in peft's clothes, its adapter not 0."
    from peft import LoraConfig, get_peft_model
    model = get_peft_model(model, LoraConfig(**LORA)).eval()
    stir(model)
    return model, tokenizer

MODELS = dict(toy=toy, wide=wide, tied=lambda: tiny(True), untied=lambda: tiny(False),
              lora=lambda: with_lora(*wide()), tied_lora=lambda: with_lora(*tiny(True)))


# ---- tools

@lru_cache(maxsize=None)
def questions(n=4): return tuple(load_instructions(shipped('toy/heldout.jsonl'))[:n])

@torch.no_grad()
def stir(model, size=.02, seed=0):
    "Change every weight in training, in place, as an optimiser does."
    g = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        if p.requires_grad: p.add_(size*torch.randn(p.shape, generator=g))

@torch.no_grad()
def trainers(model, rollouts, temperature=1.):
    "What the trainer's own scoring says: (log-probabilities, entropies) per rollout."
    ids, prompt_len, mask = pad_rows([(r.prompt_ids, r.ids) for r in rollouts], 0)
    logp, entropy = Policy(model)(ids, prompt_len, mask, temperature)
    return [(logp[i, :len(r.ids)], entropy[i, :len(r.ids)]) for i, r in enumerate(rollouts)]

def gap(model, rollouts, temperature=1.):
    "The greatest difference between an engine's log-probabilities and the trainer's; NaN where it gives none."
    return max((torch.tensor(r.logps) - logp).abs().max().item()
               for r, (logp, _) in zip(rollouts, trainers(model, rollouts, temperature)))

def gives_none(rollouts): return all(x != x for r in rollouts for x in r.logps)


# ---- the contract

def samples_are_seeded_and_grouped(engine, model, tokenizer):
    a, b = (engine.generate(questions(), m=3, seeds=5) for _ in range(2))
    assert [r.group for r in a] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert [r.ids for r in a] == [r.ids for r in b]
    assert len({r.ids for r in a[:3]}) > 1 and len({r.seed for r in a}) == 12
    assert [r.ids for r in engine.generate(questions(), m=3, seeds=6)] != [r.ids for r in a]
    for i, q in enumerate(questions()):
        assert all(r.instruction is q and list(r.prompt_ids) == list(encode_chat(tokenizer, q.prompt))
                   and r.response == tokenizer.decode(r.ids, skip_special_tokens=True) for r in a[3*i:3*i + 3])
    each = engine.generate(questions(), m=3, seeds=[1, 2, 3, 4])
    assert [r.ids for r in engine.generate(questions()[1:2], m=3, seeds=[2])] == [r.ids for r in each[3:6]]
    assert engine.generate((), m=3, seeds=0) == []

def log_probabilities_are_the_trainers(engine, model, tokenizer):
    "At every sampling temperature; where an engine cannot say what the whole softmax said, NaN."
    for sampling in (dict(), dict(temperature=.7), dict(temperature=1.3), dict(top_p=.8), dict(temperature=.7, top_k=5)):
        rollouts = engine.generate(questions(), m=2, seeds=1, **sampling)
        if {'top_p', 'top_k'} & set(sampling) and gives_none(rollouts): continue
        found = gap(model, rollouts, sampling.get('temperature', 1.))
        assert found <= CLOSE, (sampling, found)
    if engine.exact: assert not gives_none(rollouts)

def a_truncated_draw_tells_its_own_odds(engine, model, tokenizer):
    "Beside the softmax's log-probability that in what was kept of it, made to sum to 1; importance divides by it."
    for sampling in (dict(top_p=.8), dict(temperature=.7, top_k=5), dict(top_k=20, top_p=.6)):
        for r in engine.generate(questions(), m=2, seeds=1, **sampling):
            with torch.no_grad(): logits = model(torch.tensor([[*r.prompt_ids, *r.ids]])).logits[0, len(r.prompt_ids) - 1:-1]
            p = (logits/sampling.get('temperature', 1.)).softmax(-1)
            if k := sampling.get('top_k'): p = p.where(p >= p.topk(k).values[:, -1:], 0.)
            order = (p/p.sum(-1, keepdim=True)).sort(descending=True, stable=True)
            ahead = order.values.cumsum(-1) - order.values < sampling.get('top_p', 1.)
            kept = p.where(torch.zeros_like(ahead).scatter(1, order.indices, ahead), 0.)
            found = (kept/kept.sum(-1, keepdim=True)).gather(1, torch.tensor(r.ids)[:, None])[:, 0].log()
            assert (torch.tensor(r.engine_logps) - found).abs().max() <= CLOSE, sampling
    assert all(r.engine_logps is None for r in engine.generate(questions(), m=1, seeds=1))

def entropies_are_the_trainers_or_none(engine, model, tokenizer):
    for temperature in (1., .7):
        rollouts = engine.generate(questions(), m=2, seeds=1, temperature=temperature)
        if not engine.exact and all(x != x for r in rollouts for x in r.entropies): continue
        for r, (_, entropy) in zip(rollouts, trainers(model, rollouts, temperature)):
            assert torch.allclose(torch.tensor(r.entropies), entropy, atol=CLOSE)

def responses_end_where_they_should(engine, model, tokenizer):
    word = max((ids := [t for r in engine.generate(questions(), m=6, seeds=2) for t in r.ids]), key=ids.count)
    own = stop_ids(model, tokenizer)
    for stop, kw in ((own, {}), ({word}, dict(stop=[word])), (own, dict(max_new_tokens=3)), (own, dict(max_new_tokens=1))):
        longest = kw.get('max_new_tokens', LENGTH)
        rollouts = engine.generate(questions(), m=6, seeds=2, **kw)
        for r in rollouts:
            assert r.stopped == (r.ids[-1] in stop) and not set(r.ids[:-1]) & stop
            assert len(r.ids) == longest or r.stopped and len(r.ids) < longest
            assert len(r.ids) == len(r.logps) == len(r.entropies)
        if kw.get('stop'): assert any(r.stopped for r in rollouts)

def temperature_0_takes_the_likeliest(engine, model, tokenizer):
    a, b = (engine.generate(questions(), m=2, seeds=s, temperature=0.) for s in (0, 1))
    assert [r.ids for r in a] == [r.ids for r in b]
    with torch.no_grad():
        for r in a:
            logp = model(torch.tensor([[*r.prompt_ids, *r.ids]])).logits[0, len(r.prompt_ids) - 1:-1].log_softmax(-1)
            chosen = logp.gather(1, torch.tensor(r.ids)[:, None])[:, 0]
            assert (logp.max(-1).values - chosen).max() <= CLOSE
            assert gives_none([r]) or (torch.tensor(r.logps) - chosen).abs().max() <= CLOSE

def tokens_are_drawn_as_often_as_they_are_likely(engine, model, tokenizer, m=1500):
    "First tokens at temperature 0.7, of all and of the nucleus: total variation, against that of m fair draws."
    prompt = encode_chat(tokenizer, questions()[0].prompt)
    with torch.no_grad(): p = (model(torch.tensor([prompt])).logits[0, -1]/.7).softmax(-1)
    order = p.sort(descending=True)
    nucleus = torch.zeros_like(p).scatter(0, order.indices, (order.values.cumsum(0) - order.values < .8).float())
    for q, sampling in ((p, {}), (p*nucleus/(p*nucleus).sum(), dict(top_p=.8))):
        drawn = engine.generate(questions()[:1], m=m, seeds=3, temperature=.7, max_new_tokens=1, **sampling)
        count = torch.bincount(torch.tensor([r.ids[0] for r in drawn]), minlength=len(q)).float()
        fair = torch.distributions.Multinomial(m, q).sample((200,))
        far = lambda c: (c/m - q).abs().sum(-1)/2
        assert far(count) <= far(fair).max() + 1e-3 and not count[q == 0].any()

def after_sync_the_weights_are_the_new_ones(engine, model, tokenizer):
    before = engine.generate(questions(), m=2, seeds=4)
    for seed in (1, 2):
        stir(model, seed=seed)
        assert gap(model, before) > 10*CLOSE                     # or the next line would show nothing
        engine.sync(model)
        assert gap(model, engine.generate(questions(), m=2, seeds=4)) <= CLOSE

def stale_weights_are_refused(engine, model, tokenizer):
    "After an optimiser step without `sync` an engine samples from the new weights, or not at all."
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    ids = torch.tensor([encode_chat(tokenizer, questions()[0].prompt)])
    model(ids).logits.log_softmax(-1)[..., 5].mean().backward()
    optimizer.step(); optimizer.zero_grad()
    try: assert gap(model, engine.generate(questions(), m=2, seeds=4)) <= CLOSE
    except EngineError as e: assert 'sync' in str(e)
    engine.sync(model)
    assert gap(model, engine.generate(questions(), m=2, seeds=4)) <= CLOSE

CHECKS = [samples_are_seeded_and_grouped, log_probabilities_are_the_trainers, a_truncated_draw_tells_its_own_odds,
          entropies_are_the_trainers_or_none, responses_end_where_they_should, temperature_0_takes_the_likeliest,
          tokens_are_drawn_as_often_as_they_are_likely, after_sync_the_weights_are_the_new_ones,
          stale_weights_are_refused]

def contract(name, make):
    "A model by name and an engine for it, made by `make(model, tokenizer, …)`."
    if 'lora' in name: pytest.importorskip('peft')
    model, tokenizer = MODELS[name]()
    return make(model, tokenizer, max_new_tokens=LENGTH), model, tokenizer
