"""How much memory does an update need at a real vocabulary? Ours beside the straightforward `log_softmax` over all logits.

    python tests/bench_memory.py [--vocabulary 151936] [--rows 8] [--tokens 512] [--hidden 256]

One forward and backward pass of a small Llama over rows of a short prompt and a response of `--tokens` tokens. Each way runs in
a process of its own; what counts is the peak of its resident memory (`ru_maxrss`) less what it held just before the pass, with
model and rows in place. Both must give the same loss and the same gradient.
"""
import argparse
import json
import os
import subprocess
import sys

PROMPT = 16
LIMIT = .4


def arguments():
    p = argparse.ArgumentParser()
    for name, default in dict(vocabulary=151_936, rows=8, tokens=512, hidden=256).items():
        p.add_argument(f'--{name}', type=int, default=default)
    p.add_argument('--way', choices=('ours', 'straightforward'))
    return p.parse_args()


def setting(a):
    "The model and the rows, the same in both processes."
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig
    torch.manual_seed(0); torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_config(LlamaConfig(
        vocab_size=a.vocabulary, hidden_size=a.hidden, intermediate_size=2*a.hidden, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, tie_word_embeddings=True)).eval()
    ids = torch.randint(3, a.vocabulary, (a.rows, PROMPT + a.tokens))
    return model, ids, torch.full((a.rows,), PROMPT), torch.ones(a.rows, a.tokens)


def straightforward(model, ids, prompt_len, mask):
    logp = model(input_ids=ids, use_cache=False).logits[:, PROMPT - 1:-1].log_softmax(-1)
    return logp.gather(-1, ids[:, PROMPT:, None])[:, :, 0]


def ours(model, ids, prompt_len, mask):
    from hir.policies.policy import Policy
    return Policy(model)(ids, prompt_len, mask, entropy=False)[0]


def measured(a):
    "Peak of one way in MiB, with its loss and the size of its gradient; for a process of its own."
    import resource
    import torch
    case = setting(a)
    import hir.policies.policy                                                                # not to be counted
    with open('/proc/self/statm') as f: before = int(f.read().split()[1])*os.sysconf('SC_PAGE_SIZE')/2**20
    loss = -dict(ours=ours, straightforward=straightforward)[a.way](*case).mean()
    loss.backward()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**10 - before
    norm = torch.stack([p.grad.norm() for p in case[0].parameters()]).norm().item()
    return dict(peak=peak, loss=loss.item(), gradient=norm)


def main():
    a = arguments()
    if a.way: return print(json.dumps(measured(a)))
    found = {}
    for way in ('straightforward', 'ours'):
        done = subprocess.run([sys.executable, __file__, *sys.argv[1:], '--way', way], capture_output=True, text=True)
        if done.returncode: sys.exit(f'{way}: exit {done.returncode} {done.stderr[-1500:]}')
        found[way] = json.loads(done.stdout.splitlines()[-1])
        print(f'{way:16} {found[way]["peak"]:8.0f} MiB   loss {found[way]["loss"]:.6f}   |gradient| {found[way]["gradient"]:.6f}')
    ratio = found['ours']['peak']/found['straightforward']['peak']
    same = all(abs(found['ours'][k]/found['straightforward'][k] - 1) < 1e-4 for k in ('loss', 'gradient'))
    print(f'ratio {ratio:.2f} (limit {LIMIT}); results {"agree" if same else "DIFFER"}')
    sys.exit(0 if same and ratio <= LIMIT else 1)


if __name__ == '__main__':
    main()
