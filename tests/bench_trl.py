"""How long does a step take beside TRL's GRPOTrainer? Processor seconds of one thread, same model, same work, one run.

    python -m venv /elsewhere/trl && /elsewhere/trl/bin/pip install "trl==1.16.*" "torch==2.13.0" -c constraints.txt
    python tests/bench_trl.py /elsewhere/trl/bin/python [rounds]

A step reads 48 prompts of 48 tokens, samples 8 responses of 32 tokens to each, rewards them, and makes one update of all
weights. TRL, `hir` and a loop written by hand for this one case (below, `bare`) are processes of their own and take
turns step by step, so that a busy machine slows all three; what a process waits does not count. The first steps are left
out. Nobody can stop early: the end token of the tokenizer is none of the model's. Without a second Python, TRL is left out.

TRL gets what is fastest for it here: no checkpointing of activations, no reference model, float32, no logs, one batch of
all rows. Both trainers report entropies, so both compute them; the bare loop does not.
"""
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from types import SimpleNamespace

os.environ.update(OMP_NUM_THREADS='1', MKL_NUM_THREADS='1', TOKENIZERS_PARALLELISM='false', HF_HUB_OFFLINE='1')

PROMPTS, SAMPLES, ASKED, ANSWERED, WORDS, WARM = 48, 8, 48, 32, 512, 2


# ---- the same for all

def model():
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=WORDS, hidden_size=128, intermediate_size=296, num_hidden_layers=4, num_attention_heads=4,
        max_position_embeddings=256, tie_word_embeddings=False, bos_token_id=None, eos_token_id=None, pad_token_id=0))


def tokenizer():
    "One token a word; the end token has an id that the model cannot draw."
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    core = Tokenizer(models.WordLevel({f'w{i}': i for i in range(WORDS)} | {'</s>': WORDS}, unk_token='w0'))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token='w0', unk_token='w0', eos_token='</s>',
                                   chat_template="{{ messages[0]['content'] }}", padding_side='left')


def prompts(steps):
    import random
    rng = random.Random(0)
    return [' '.join(f'w{rng.randrange(1, WORDS)}' for _ in range(ASKED)) for _ in range(PROMPTS*steps)]


def rewarded(text): return int(text.split()[0][1:]) % 2 == 0 if text.split() else True    # about half of all responses


# ---- the three; each runs a step whenever `turn` returns

def theirs(turn, steps):
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    class Turns(TrainerCallback):
        def on_step_end(self, *args, **kw): turn()

    config = GRPOConfig(
        output_dir=tempfile.mkdtemp(), use_cpu=True, bf16=False, gradient_checkpointing=False, max_steps=steps,
        per_device_train_batch_size=PROMPTS*SAMPLES, gradient_accumulation_steps=1, steps_per_generation=1, num_iterations=1,
        num_generations=SAMPLES, max_completion_length=ANSWERED, temperature=1., beta=0., learning_rate=1e-6,
        logging_strategy='no', save_strategy='no', report_to='none', disable_tqdm=True, dataloader_pin_memory=False)
    trainer = GRPOTrainer(model(), lambda completions, **kw: [float(rewarded(c)) for c in completions], args=config,
                          train_dataset=Dataset.from_dict({'prompt': prompts(steps)}), processing_class=tokenizer(),
                          callbacks=[Turns()])
    turn()
    trainer.train()


def ours(turn, steps):
    import hir.training.context
    import hir.training.step
    from hir.training.config import HirConfig, rules_of, settings_with
    from hir.constraints.constraint import Constraint, kind
    from hir.instructions.instruction import Instruction
    from hir.training.trainer import _prepare_job, _train_step

    hir.training.context.time = hir.training.step.time = SimpleNamespace(perf_counter=time.process_time)    # phases are timed in processor seconds too
    kind('bench:even', 'Begin with an even word.')(lambda response: rewarded(response))
    asked = [Instruction(p, [Constraint('bench:even')], 'verbatim') for p in prompts(steps)]
    config = HirConfig(out=tempfile.mkdtemp(), batch=PROMPTS, m=SAMPLES, steps=steps,
                       method=settings_with({'name': 'hir', 'k': 0, 'advantage': 'grpo', 'kl_coef': 0.}), minibatches=1, micro=PROMPTS*SAMPLES, sample_rows=PROMPTS*SAMPLES, max_new_tokens=ANSWERED, cpu=True)
    parts, rules = _prepare_job(config, model(), tokenizer()), rules_of(config)
    turn()
    for _ in range(steps):
        metrics, _ = _train_step(config, parts, asked, rules)
        assert metrics['truncated'] == 1 and metrics['length'] == ANSWERED, 'a response ended early'
        turn({k: v for k, v in metrics.items() if k.startswith('time/')})


def bare(turn, steps):
    "What this case needs and nothing else: no seeds, no masks, no records; prompts read once per group."
    import torch
    from transformers import DynamicCache
    policy, words = model(), tokenizer()
    optimizer, asked = torch.optim.AdamW(policy.parameters(), 1e-6, weight_decay=0., fused=True), prompts(steps)
    decoder, head = policy.get_decoder(), policy.get_output_embeddings()
    turn()
    for s in range(steps):
        ids = torch.tensor(words(asked[s*PROMPTS:(s + 1)*PROMPTS])['input_ids'])
        drawn = drawn_from(policy, ids)
        texts = words.batch_decode(drawn)
        reward = torch.tensor([float(rewarded(t)) for t in texts]).view(PROMPTS, SAMPLES)
        adv = ((reward - reward.mean(1, keepdim=True))/(reward.std(1, keepdim=True) + 1e-4)).view(-1, 1)
        cache = DynamicCache(config=policy.config)
        last = decoder(input_ids=ids, past_key_values=cache, use_cache=True).last_hidden_state[:, -1:]
        cache.batch_repeat_interleave(SAMPLES)
        rest = decoder(input_ids=drawn[:, :-1], past_key_values=cache, use_cache=True).last_hidden_state
        logits = head(torch.cat([last.repeat_interleave(SAMPLES, 0), rest], 1))
        logp = -torch.nn.functional.cross_entropy(logits.flatten(0, 1), drawn.flatten(), reduction='none').view(drawn.shape)
        loss = -((logp - logp.detach()).exp()*adv).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.)
        optimizer.step()
        optimizer.zero_grad()
        turn()


def drawn_from(policy, ids):
    "SAMPLES responses per prompt; the cache has room for all of their tokens from the start."
    import torch
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    class Room(DynamicLayer):
        def update(self, keys, values, *args, **kw):
            if not self.get_seq_length(): return super().update(keys, values)
            if not hasattr(self, 'all'):
                self.all = [x.new_empty(*x.shape[:2], ASKED + ANSWERED, x.shape[-1]) for x in (self.keys, self.values)]
                for room, x in zip(self.all, (self.keys, self.values)): room[:, :, :ASKED] = x
            n = self.get_seq_length()
            for room, new in zip(self.all, (keys, values)): room[:, :, n:n + 1] = new
            self.keys, self.values = (room[:, :, :n + 1] for room in self.all)
            return self.keys, self.values

    def picked(logits, u): return (logits.softmax(-1).cumsum(-1) < u).sum(-1).clamp(max=WORDS - 1)[:, None]

    cache, u = DynamicCache(config=policy.config), torch.rand(ANSWERED, PROMPTS*SAMPLES, 1)
    cache.layers = [Room() for _ in cache.layers]
    with torch.no_grad():
        logits = policy(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
        cache.batch_repeat_interleave(SAMPLES)
        out = [picked(logits.repeat_interleave(SAMPLES, 0), u[0])]
        for t in range(1, ANSWERED):
            logits = policy(input_ids=out[-1], past_key_values=cache, use_cache=True).logits[:, -1]
            out.append(picked(logits, u[t]))
    return torch.cat(out, 1)


# ---- taking turns

def serve(work, steps):
    "A process: a step for every line on standard input, its processor seconds on standard output."
    start = 0.

    def turn(parts=()):
        nonlocal start
        print(json.dumps(['step', time.process_time() - start, dict(parts)]), flush=True)
        if not sys.stdin.readline(): os._exit(0)
        start = time.process_time()
    work(turn, steps)


def started(python, name, steps):
    return subprocess.Popen([python, __file__, '--serve', name, str(steps)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def answer(process):
    while line := process.stdout.readline():
        if line.startswith('["step"'): return json.loads(line)[1:]     # not what a library prints
    raise SystemExit('a process ended early; its message is above')


def step(process):
    process.stdin.write('\n')
    process.stdin.flush()
    return answer(process)


def main(pythons, rounds):
    workers = {name: started(python, name, WARM + rounds + 1) for name, python in pythons.items()}
    for p in workers.values(): answer(p)                                # ready
    for _ in range(WARM): [step(p) for p in workers.values()]
    took = [{name: step(p) for name, p in workers.items()} for _ in range(rounds)]
    for p in workers.values():
        p.stdin.close()
        p.wait()
    middle = {name: statistics.median(t[name][0] for t in took) for name in workers}
    print(f'processor seconds of a step, one thread, median [lowest] of {rounds} steps taken in turns\n')
    for name in workers: print(f'{name:6}{middle[name]:8.3f}  [{min(t[name][0] for t in took):.3f}]')
    print('\nof which, in hir: ' + ', '.join(f'{k[5:]} {statistics.median(t["hir"][1][k] for t in took):.3f}' for k in took[0]['hir'][1]))
    if 'TRL' in middle: print(f'\nTRL/hir   {middle["TRL"]/middle["hir"]:.2f}   wanted: at least 1.9')
    print(f'hir/bare  {middle["hir"]/middle["bare"]:.2f}   wanted: at most 1.15')


WORK = {'TRL': theirs, 'hir': ours, 'bare': bare}

if __name__ == '__main__':
    if sys.argv[1:2] == ['--serve']: serve(WORK[sys.argv[2]], int(sys.argv[3]))
    elif sys.argv[1:2] in (['-h'], ['--help']): print(__doc__)
    else:
        rest, rounds = [a for a in sys.argv[1:] if not a.isdigit()], [int(a) for a in sys.argv[1:] if a.isdigit()]
        main({'TRL': a for a in rest} | {'hir': sys.executable, 'bare': sys.executable}, (rounds or [12])[0])
