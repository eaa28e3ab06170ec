"""What is it worth to read a shared prompt once? Processor seconds of one update with sharing over without, taken in turns.

    python tests/bench_share.py [rounds]

The case of `bench_trl.py`: a Llama of 0.8 M parameters, 48 prompts × 8 samples, 48-token prompts, 32-token completions, one
optimiser step on all rows, one thread. The two policies take turns, so that a busy machine slows both; the lowest of several
rounds counts. Then the same for prompts four times as long; and the tokens that each way computes.
"""
import os
import sys
import time
from copy import deepcopy

os.environ.update(OMP_NUM_THREADS='1', MKL_NUM_THREADS='1')

PROMPTS, SAMPLES, ANSWERED = 48, 8, 32


def case(asked):
    "Batch of one step with prompts of `asked` tokens and random advantages; old log-probabilities are the model's own."
    import torch
    from hir.training.batch import Batch, PerToken
    from hir.policies.policy import pad_rows
    torch.manual_seed(0)
    rows = PROMPTS*SAMPLES
    ids, length, mask = pad_rows([(prompt, torch.randint(1, 512, (ANSWERED,)).tolist())
                                  for prompt in torch.randint(1, 512, (PROMPTS, asked)).tolist() for _ in range(SAMPLES)], 0)
    old, adv, replay = mask*-6.2, torch.randn(rows, 1).expand_as(mask).contiguous(), torch.zeros(rows, dtype=torch.bool)
    return Batch(ids, length, torch.full((rows,), ANSWERED), mask, mask, torch.zeros(rows), torch.arange(rows)//SAMPLES,
                 torch.arange(rows), ~replay, dict(old=PerToken(old), adv=PerToken(adv), replay=replay))


def updates(model, batch):
    "share → function that makes one update with it; the weights stay close, so every round does the same work."
    import torch
    from accelerate import Accelerator
    from hir.policies.policy import Policy
    from hir.methods.hir import hir
    from hir.training.method import Parts, Sizes
    from hir.training.step import update
    method, sizes = hir(k=0, kl_coef=0.), Sizes(minibatches=1, micro=len(batch))

    def built(share):
        policy = Policy(deepcopy(model), share=share)
        assert policy.share == share
        optimizer = torch.optim.AdamW(policy.parameters(), 1e-6)
        parts = Parts(Accelerator(cpu=True), policy, optimizer, None, None)
        return lambda: update(method, parts, batch, sizes)
    return {share: built(share) for share in (True, False)}


def seconds(work):
    start = time.process_time()
    work()
    return time.process_time() - start


def main(rounds):
    import torch
    from bench_trl import model
    torch.set_num_threads(1)
    for asked in (48, 192):
        work = updates(model(), case(asked))
        for f in work.values(): f()                                             # warm
        took = [{share: seconds(f) for share, f in work.items()} for _ in range(rounds)]
        on, off = (min(t[share] for t in took) for share in (True, False))
        answers = PROMPTS*SAMPLES*ANSWERED
        tokens = (PROMPTS*asked + answers)/(PROMPTS*SAMPLES*asked + answers)
        print(f'prompts of {asked:3} tokens: shared {on:.3f} s, plain {off:.3f} s, ratio {on/off:.2f}; tokens computed, ratio {tokens:.2f}', flush=True)


if __name__ == '__main__':
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 4)
