"""What share of a step is the method itself? Verify, select, rewrite and re-tokenise, in processor seconds of one thread.

    python tests/bench_hir.py [steps]

A step samples m = 6 responses per instruction, checks every constraint of each, selects partial failures, rewrites their
instructions and tokenises them anew (k = 2 replays per instruction), and updates the policy. `hir.training.step` times its phases;
here its clock is the processor's, so that a busy machine does not count. Of two kinds of work:

  wide   the 0.5M model of `hir.toy.wide`, untrained, on 48 of its instructions: 7 or 8 constraints, 64 tokens at most
  long   a small Qwen2 of random weights on 8 synthesised instructions with 2 to 5 constraints of IFEval's kinds: 192 tokens

Smaller models make the share larger: what the method does costs the same, whatever it trains. There is no reference model
here (kl_coef 0), which would make the step longer and the share smaller.
"""
import os
import sys
import tempfile
import time
from types import SimpleNamespace

os.environ.update(OMP_NUM_THREADS='1', MKL_NUM_THREADS='1', TOKENIZERS_PARALLELISM='false', HF_HUB_OFFLINE='1')

OURS = {'verify': 'verify', 'rewrite': 'select, rewrite, re-tokenise'}     # phases of a step that are HiR's own
WARM = 1


def wide(steps):
    from hir.toy.warmstart import toy_model
    from hir.toy.wide import _SIZES, wide_instructions, _wide_tokenizer
    tokenizer = _wide_tokenizer()
    return toy_model(tokenizer, **_SIZES['0.5M']), tokenizer, wide_instructions(48*steps, 0), dict(batch=48, max_new_tokens=64)


def long(steps):
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
    from hir.instructions.synthesize import draw, load_tasks, witness
    from hir.files import shipped
    asked = draw(load_tasks(shipped('tasks/tasks.jsonl')), 8*steps, 0, low=2, high=5)
    core = Tokenizer(models.BPE())
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    said = [text for q in asked for text in (q.prompt, witness(q.constraints) or '')]
    core.train_from_iterator(said, trainers.BpeTrainer(vocab_size=4096, special_tokens=['<pad>', '<end>'], show_progress=False))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token='<pad>', eos_token='<end>', chat_template=
                                        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}assistant: ")
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=192, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=2048, tie_word_embeddings=True, pad_token_id=0, eos_token_id=1, bos_token_id=None))
    return model, tokenizer, asked, dict(batch=8, max_new_tokens=192)


def measure(work, steps):
    import torch
    import hir.training.context
    import hir.training.step
    from hir.training.config import HirConfig, rules_of, settings_with
    from hir.training.trainer import _prepare_job, _train_step
    torch.set_num_threads(1)
    hir.training.context.time = hir.training.step.time = SimpleNamespace(perf_counter=time.process_time)
    model, tokenizer, instructions, settings = work(WARM + steps)
    config = HirConfig(out=tempfile.mkdtemp(), m=6, method=settings_with({'name': 'hir', 'kl_coef': 0.}), cpu=True, steps=WARM + steps, **settings)
    parts, rules, took = _prepare_job(config, model, tokenizer), rules_of(config), []
    for _ in range(WARM + steps):
        start = time.process_time()
        metrics, _ = _train_step(config, parts, instructions, rules)
        took.append((time.process_time() - start, metrics))
    return sum(p.numel() for p in model.parameters()), took[WARM:]


def main(steps):
    for work in (wide, long):
        size, took = measure(work, steps)
        whole, mean = sum(t for t, _ in took), lambda key: sum(m[key] for _, m in took)/len(took)
        print(f'{work.__name__}: {size/1e6:.2f}M parameters, per step {mean("sampled"):.0f} responses of {mean("length"):.0f} tokens, '
              f'{mean("replays"):.0f} replays, {whole/steps:.2f} s')
        share = {name: sum(m[f'time/{name}'] for _, m in took)/whole for name in [k[5:] for k in took[0][1] if k.startswith('time/')]}
        for name, part in share.items(): print(f'  {OURS.get(name, name):32}{100*part:7.2f} %')
        print(f'  {"HiR’s own":32}{100*sum(share[name] for name in OURS):7.2f} %   wanted: at most 3 %\n', flush=True)


if __name__ == '__main__':
    if sys.argv[1:2] in (['-h'], ['--help']): print(__doc__)
    else: main(int((sys.argv[1:] or [4])[0]))
