"""How fast does a processor sample and learn? Tokens per processor second, beside `transformers`, and the share of the float32 peak.

    python tests/bench_cpu.py [rounds] [folder of a model]

One thread. Without a folder: a model of the shape of SmolLM2-135M with random weights, which costs the same. Sampling: 8 prompts
of 34 to 41 tokens, 6 samples each, 64 tokens, at temperature 1, beside `model.generate` on the same 48 rows. Update: forward and
backward pass of 4 prompts × 6 responses of 64 tokens, beside those of the plain model on the padded rows; both in float32 and in
bfloat16 autocast. The competitors and the peak (a product of matrices of 2048 × 2048) take turns; medians of processor time count.
The share of the peak is 2 × weights × sampled tokens for sampling, 6 × weights × tokens computed for an update.
"""
import os
import sys
import time
from statistics import median

os.environ.update(OMP_NUM_THREADS='1', MKL_NUM_THREADS='1', TOKENIZERS_PARALLELISM='false', HF_HUB_OFFLINE='1')

LENGTHS, M, NEW, PAD, SIDE = (38, 40, 34, 41, 38, 41, 36, 38), 6, 64, 2, 2048


def model_of(folder):
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig
    if folder: return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
        max_position_embeddings=8192, tie_word_embeddings=True, pad_token_id=PAD, eos_token_id=PAD, bos_token_id=1)).eval()


def samplers(model, prompts):
    "name → a function that samples 48 responses of full length."
    import torch
    from hir.policies.generate import generate
    width = max(LENGTHS)
    ids = torch.tensor([[PAD]*(width - len(p)) + p for p in prompts for _ in range(M)])
    mask = torch.tensor([[0]*(width - len(p)) + [1]*len(p) for p in prompts for _ in range(M)])

    def ours(bf16=False):
        with torch.autocast('cpu', torch.bfloat16, bf16):
            generate(model, prompts, m=M, max_new_tokens=NEW, pad=PAD, generator=list(range(M*len(prompts))))

    def theirs():
        with torch.no_grad():
            model.generate(input_ids=ids, attention_mask=mask, do_sample=True, temperature=1., top_k=0, top_p=1., pad_token_id=PAD,
                           max_new_tokens=NEW, min_new_tokens=NEW)
    return {'hir': ours, 'hir in bf16': lambda: ours(True), 'transformers': theirs}


def updates(model, prompts):
    "name → (a function that makes a forward and a backward pass, tokens that it computes)."
    import torch
    from hir.policies.policy import Policy, pad_rows
    policy, g = Policy(model), torch.Generator().manual_seed(0)
    rows = [(p, torch.randint(5, 49000, (NEW,), generator=g).tolist()) for p in prompts[:4] for _ in range(M)]
    ids, prompt_len, mask = pad_rows(rows, PAD)

    def ours(bf16=False):
        with torch.autocast('cpu', torch.bfloat16, bf16): logp = policy(ids, prompt_len, mask, 1., False)[0]
        (-logp*mask).sum().backward(); model.zero_grad()

    def plain(bf16=False):
        with torch.autocast('cpu', torch.bfloat16, bf16): logits = model(input_ids=ids, use_cache=False).logits
        logits[:, :-1].float().log_softmax(-1).gather(-1, ids[:, 1:, None]).sum().backward(); model.zero_grad()
    once = sum(map(len, prompts[:4])) + len(rows)*NEW
    return {'hir': (ours, once), 'hir in bf16': (lambda: ours(True), once), 'plain': (plain, ids.numel()),
            'plain in bf16': (lambda: plain(True), ids.numel())}


def seconds(work):
    start = time.process_time()
    work()
    return time.process_time() - start


def main(rounds, folder):
    import torch
    torch.set_num_threads(1)
    model, g = model_of(folder), torch.Generator().manual_seed(0)
    prompts = [torch.randint(5, 49000, (n,), generator=g).tolist() for n in LENGTHS]
    square, size = torch.randn(SIDE, SIDE, generator=g), sum(p.numel() for p in model.parameters())
    half, sampling, learning = square.bfloat16(), samplers(model, prompts), updates(model, prompts)
    work = {('peak', 'float32'): lambda: square@square, ('peak', 'bfloat16'): lambda: half@half}
    work |= {('sampling', name): f for name, f in sampling.items()} | {('update', name): f for name, (f, _) in learning.items()}
    for key in work:
        if key[0] == 'peak': work[key]()                                                 # warm
    took = {key: [] for key in work}
    for _ in range(rounds):
        for key, f in work.items(): took[key].append(seconds(f))
    took = {key: median(x) for key, x in took.items()}
    peak, half = (2*SIDE**3/took['peak', dtype]/1e9 for dtype in ('float32', 'bfloat16'))
    print(f'{size/1e6:.1f}M weights; peak {peak:.0f} GFLOP/s in float32, {half:.0f} in bfloat16; median of {rounds}, one thread')
    tokens = len(prompts)*M*NEW
    for name in sampling: _say('sampling', name, tokens, 2*size*tokens, took, peak, 'transformers')
    for name, (_, computed) in learning.items(): _say('update', name, 4*M*NEW, 6*size*computed, took, peak, 'plain')


def _say(what, name, tokens, flops, took, peak, other):
    t = took[what, name]
    print(f'{what:9} {name:14} {tokens/t:7.1f} tokens/s   {flops/t/1e9:6.1f} GFLOP/s, {100*flops/t/1e9/peak:3.0f} % of the peak'
          f'   {took[what, other]/t:5.2f} × {other}', flush=True)


if __name__ == '__main__':
    if sys.argv[1:2] in (['-h'], ['--help']): print(__doc__)
    else: main(int((sys.argv[1:] or [3])[0]), (sys.argv[2:] or [''])[0])
