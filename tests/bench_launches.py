"""How much is a GPU told to do? Operations launched and round trips, per token of a batch and per micro-batch of an update.

    python tests/bench_launches.py

Counted by torch's profiler on a CPU (launches.py says how), so the figures hang on versions, not on the machine. Models: the toy, a model
of the shape of SmolLM2-135M with random weights, which is told to do the same as the real one, and the real one where `hir get smollm2`
has brought it. Sampling: 2 prompts of different lengths, 2 samples each, no stop token. Update: forward and backward pass of 4 responses
to 2 prompts. BEFORE has what was counted when the loop of `generate` was the only one (torch 2.13, transformers 5.19)."""
import os

os.environ.update(OMP_NUM_THREADS='1', TOKENIZERS_PARALLELISM='false', HF_HUB_OFFLINE='1')

PROMPTS, KW = [[3, 5, 6, 7], [3, 9]], dict(m=2, stop=[], pad=0, generator=[1, 2, 3, 4])
BEFORE = {(name, what): n for name, each in {'toy': ((137, 4), (665, 13)), 'shape of SmolLM2': ((1201, 4), (7849, 13)),
                                             'SmolLM2': ((1201, 4), (7849, 13))}.items()
          for what, n in zip(('token, growing buffers', 'micro-batch'), each)}


def models():
    from bench_cpu import model_of
    from hir.fetch import fetched
    from hir.files import shipped
    from hir.policies.policy import load_policy
    yield 'toy', load_policy(shipped('toy/start'))[0].eval()
    yield 'shape of SmolLM2', model_of('')
    if fetched('smollm2'): yield 'SmolLM2', load_policy('smollm2')[0].eval()


def figures(model):
    "what → (launches, round trips)"
    import torch
    from launches import counted, per_token
    from hir.policies.generate import generate
    from hir.policies.graph import FixedSampler
    from hir.policies.policy import Policy, pad_rows
    fixed, policy = FixedSampler(model), Policy(model)
    rows = pad_rows([(p, [5, 6, 7, 8][:n]) for p in PROMPTS for n in (4, 2)], 0)

    def update():
        logp = policy(*rows, 1., False)[0]
        (logp*rows[2]).sum().backward()
    model.zero_grad(); update()
    with torch.no_grad():
        found = {'token, growing buffers': per_token(lambda n: generate(model, PROMPTS, max_new_tokens=n, **KW)),
                 'token, fixed buffers': per_token(lambda n: fixed.generate(PROMPTS, max_new_tokens=n, **KW))}
    found['micro-batch'] = counted(update)
    return {what: tuple(sum(x.values()) for x in pair) for what, pair in found.items()}


def main():
    for name, model in models():
        print(f'\n{name:24} launches  before  round trips  before')
        for what, (n, trips) in figures(model).items():
            was = BEFORE.get((name, what), ('', ''))
            print(f'{what:24} {n:8.0f} {was[0]:>7}  {trips:11.3g} {was[1]:>7}')


if __name__ == '__main__': main()
