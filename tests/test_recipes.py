"Recipes: every file is sound, says what it will do on a model of its architecture, and the LoRA ones take a real step."
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, CONFIG_MAPPING, PreTrainedTokenizerFast

from changed import changed
from hir.cli import main
from hir.training.config import HirConfig, read_config, rules_of
from hir.policies.lora import add_lora
from hir.policies.policy import load_policy
from hir.recipes import (_activations, _device_bytes, dims_of, dry_run, _format_of, _held, memory, _memory_lines, plan,
                         recipes, resolve, training_data)
from hir.files import shipped
from hir.training.runlog import read_log
from test_benchmarks import GOOD, written

FAMILY = {'qwen3': 'qwen3', 'qwen2.5': 'qwen2', 'llama3.2': 'llama'}
SMALL = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             head_dim=8, max_position_embeddings=4096, tie_word_embeddings=True)
SPECIAL = ['<|im_start|>', '<|im_end|>', '<|endoftext|>', '<|finetune_right_pad_id|>']
CHAT = ("{% for m in messages %}<|im_start|>{{ m['role'] }}{{ date_string | default('today') }}\n{{ m['content'] }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
RULES = {'instruction_id_list': ['punctuation:no_comma', 'keywords:word_once', 'change_case:english_lowercase'],
         'kwargs': [{}, {'keyword': 'snow'}, {}]}
ASKED = ['Use no commas.', 'Say snow once.', 'Write in lower case.']


def records(n=20):
    "Lines like those of HIR-16K: 16 with rules, 2 that need a judge, 2 that no template renders."
    plain = [dict(source='type1', prompt=f'Write {i} lines about snow.', rubrics=ASKED, ground_truth=RULES) for i in range(n - 4)]
    soft = [dict(source='type4', prompt='Greet me.', rubrics=['Be warm.'], ground_truth={'checker': [], 'functions': ['1/0']})]*2
    mixed = 'Whatever you do, use no commas, and say snow once, and also write in lower case, please.'
    return plain + soft + [dict(source='type1', prompt=mixed, rubrics=[a.rstrip('.').lower() for a in ASKED], ground_truth=RULES)]*2


def byte_tokenizer(pad):
    "A byte-level BPE as Qwen's and Llama's are, learnt from our own lines."
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer, tok.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tok.train_from_iterator([r['prompt'] for r in records()],
                            trainers.BpeTrainer(vocab_size=320, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False))
    names = dict(eos_token='<|im_end|>', **({'pad_token': '<|endoftext|>'} if pad else {}))
    return PreTrainedTokenizerFast(tokenizer_object=tok, chat_template=CHAT, **names)


@pytest.fixture(scope='module')
def places(tmp_path_factory):
    "Family → folder of a shrunken random model with a tokenizer; and a file of instructions."
    home, out = tmp_path_factory.mktemp('models'), {}
    for name, family in FAMILY.items():
        torch.manual_seed(0)
        tok = byte_tokenizer(pad=family != 'llama')
        config = CONFIG_MAPPING[family](**SMALL, vocab_size=len(tok), eos_token_id=tok.eos_token_id, bos_token_id=None)
        AutoModelForCausalLM.from_config(config).save_pretrained(home/name); tok.save_pretrained(home/name)
        out[name] = str(home/name)
    return out | {'train': str(written(home, records()))}


def of(recipe, places): return next(folder for name, folder in places.items() if recipe.startswith(name))

def shrunk(recipe, places, **settings):
    return changed(read_config(recipes()[recipe]), model=of(recipe, places), train=places['train'], engine='hf', cpu=True, **settings)


# ---- the files

REFERENCE = dict(batch=64, m=6, k=2, kl_coef=.001, clip=.2, dual_clip=3, lambda0=2, eta=.05, minibatches=2, temperature=1,
                 advantage='reinforce++', denominator='inherit', select='both', aggregate='token-mean')

@pytest.mark.parametrize('recipe', recipes())
def test_a_recipe_is_sound_and_keeps_to_the_reference(recipe):
    cfg = read_config(recipes()[recipe]); rules_of(cfg)
    assert {name: x for name, x in (vars(cfg) | cfg.method).items() if name in REFERENCE} == REFERENCE
    assert (cfg.lora_rank > 0) == recipe.endswith('-lora') and (cfg.lora_rank or cfg.lr == 1e-6)
    assert 'Ours:' in recipes()[recipe].read_text()
    assert f'# The data: hf download sastpg/HIR-16K {Path(cfg.train).name} ' in recipes()[recipe].read_text()   # told where it is missing
    assert cfg.pad_token if 'llama' in recipe else not cfg.pad_token


@pytest.mark.parametrize('recipe', recipes())
def test_dry_run_of_a_recipe(recipe, places, capsys):
    cfg = shrunk(recipe, places)
    words = ['--model', cfg.model, '--train', cfg.train, '--engine', 'hf', '--cpu', 'true']
    assert main(['train', '--config', str(recipes()[recipe]), '--dry-run', *words]) == 0
    said = capsys.readouterr().out
    assert '16 instructions; left out: 2 need a judge, 2 cannot be taken apart' in said
    assert '64 instructions × 6 responses; at most 512 rows to learn from in 2 minibatches' in said
    sampled = 64*8*cfg.max_new_tokens                              # with every slot of a replay filled by a response
    assert f'at most {sampled:,} tokens sampled' in said and f'{cfg.steps*2:,} updates' in said
    model, _ = load_policy(cfg.model, cfg.pad_token)
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in add_lora(model, cfg.lora_rank).parameters() if p.requires_grad) if cfg.lora_rank else total
    assert f'{total:,} parameters, {trained:,} in training' in said


def test_the_day_of_the_run_does_not_enter_llamas_prompts(places):
    cfg = shrunk('llama3.2-3b', places)
    _, tokenizer = resolve(cfg)
    with_day = plan(cfg, tokenizer, training_data(cfg.train)[0])
    assert with_day['prompt'] > plan(replace(cfg, chat=''), tokenizer, training_data(cfg.train)[0])['prompt']   # '26 Jul 2024' for 'today'
    assert tokenizer.pad_token == '<|finetune_right_pad_id|>'


@pytest.mark.parametrize('recipe', [r for r in recipes() if r.endswith('-lora')])
def test_a_lora_recipe_takes_a_step(recipe, places, tmp_path, capsys):
    cfg = shrunk(recipe, places)
    words = dict(model=cfg.model, train=cfg.train, engine='hf', cpu='true', steps=1, batch=2, max_new_tokens=8, out=tmp_path/'run')
    assert main(['train', '--config', str(recipes()[recipe]), *(f'--{k}={v}' for k, v in words.items())]) == 0, capsys.readouterr().err
    line, = read_log(tmp_path/'run'/'history.jsonl')
    assert line['step'] == 1 and line['skipped'] == 0 and abs(line['kl']) < .05
    assert main(['export', str(tmp_path/'run'), '-o', str(tmp_path/'model')]) == 0
    model, _ = load_policy(str(tmp_path/'model'), cfg.pad_token)
    assert type(model) is type(load_policy(cfg.model, cfg.pad_token)[0])


# ---- data

@pytest.mark.parametrize('name', GOOD)
def test_every_known_format_is_recognised(name, tmp_path):
    assert _format_of(written(tmp_path, [GOOD[name]])) == {'ifbench': 'ifeval'}.get(name, name)
    assert _format_of(shipped('toy/train.jsonl')) == 'hir'


def test_what_is_left_out_depends_on_judge_and_replay(places):
    counts = {(judge, replay): (len(found), *lost.values()) for judge in (False, True) for replay in (False, True)
              for found, lost in [training_data(places['train'], judge, replay)]}
    assert counts == {(False, True): (16, 2, 2, 0), (False, False): (18, 2, 0, 0), (True, True): (18, 0, 2, 0),
                      (True, False): (20, 0, 0, 0)}
    assert all(q.template != 'verbatim' for q in training_data(places['train'])[0])


def test_a_bad_line_is_named(tmp_path):
    bad = records()[0] | {'ground_truth': {'instruction_id_list': ['punctuation:no_comma'], 'kwargs': [{}]}}
    with pytest.raises(Exception, match=r'data\.jsonl:2.*as many constraints as there are rubrics, 3'):
        training_data(written(tmp_path, [records()[0], bad]))


# ---- the estimate

def kept(model, rows, tokens):
    "Bytes that a backward pass through the body keeps, weights left out."
    weights, seen = {p.untyped_storage().data_ptr() for p in model.parameters()}, {}
    def note(t): seen[t.untyped_storage().data_ptr()] = t; return t
    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        model.get_decoder()(input_ids=torch.randint(5, 50, (rows, tokens)), use_cache=False).last_hidden_state
    return sum(t.untyped_storage().nbytes() for at, t in seen.items() if at not in weights)


@pytest.mark.parametrize('checkpointing', [False, True])
@pytest.mark.parametrize('rank', [0, 8])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('family', FAMILY.values())
def test_activations_per_layer_are_estimated_within_a_third(family, dtype, rank, checkpointing):
    cfg, found, guess = HirConfig(dtype=dtype, lora_rank=rank, gradient_checkpointing=checkpointing), [], []
    for layers in (2, 4):
        small = SMALL | dict(hidden_size=128, intermediate_size=352, head_dim=32, num_hidden_layers=layers)
        model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[family](**small, vocab_size=64), dtype=dtype)
        dims = dims_of(model, cfg)
        if rank: model = add_lora(model, rank)
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={'use_reentrant': False}); model.train()
        found.append(kept(model, 8, 64)); guess.append(_activations(cfg, dims, 512))
    assert 3/4 < (guess[1] - guess[0])/(found[1] - found[0]) < 4/3


def test_the_estimate_counts_what_it_says(places):
    cfg = shrunk('qwen3-4b', places, dtype='bfloat16', mixed_precision='no')
    model, _ = resolve(cfg)
    d, P = dims_of(model, cfg), sum(p.numel() for p in model.parameters())
    assert _held(cfg, d) == dict(weights=2*P, reference=2*P, gradients=2*P, optimizer=4*P)
    assert _held(changed(cfg, kl_coef=0), d)['reference'] == 0
    assert _held(replace(cfg, optimizer='adamw8bit'), d)['optimizer'] == 2*P
    lora = replace(cfg, lora_rank=4); dl = dims_of(model, lora); n = dl.trained
    assert _held(lora, dl) == dict(weights=2*P + 4*n, reference=0, gradients=4*n, optimizer=8*n)
    one, four = memory(cfg, d, 50), memory(cfg, d, 50, shards=4)
    assert four['weights'] == one['weights']//4 and four['KV cache'] == one['KV cache'] and four['peak'] < one['peak']
    assert memory(replace(cfg, micro=16), d, 50)['activations'] == 2*one['activations']
    assert (one['gathered'], four['gathered'], one['16-bit copy']) == (0, 2*P, 0)
    assert memory(replace(cfg, dtype='float32', mixed_precision='bf16'), d, 50)['16-bit copy'] == 2*P


def test_what_vllm_takes_is_counted(places):
    "Its share of a GPU, given back during an update; on a CPU a copy as wide as the weights and a GiB, all the time."
    cfg = replace(shrunk('qwen3-4b', places, dtype='float32', mixed_precision='no', kl_coef=0), engine='vllm')
    d, gpu = dims_of(resolve(cfg)[0], cfg), 10**9
    always, (gpu_parts, cpu_parts, own) = 12*d.params, (memory(c, d, 50, gpu=g) for c, g in (
        (cfg, gpu), (cfg, 0), (replace(cfg, engine='vllm-server'), gpu)))
    update = sum(gpu_parts[p] for p in ('gradients', 'activations', 'logits'))
    assert gpu_parts["engine's copy"] == 2*d.params and gpu_parts["engine's copy"] + gpu_parts['KV cache'] == .4*gpu
    assert gpu_parts['peak'] == always + max(update, .4*gpu)
    assert (cpu_parts["engine's copy"], cpu_parts['KV cache']) == (4*d.params, 1 << 30)
    assert cpu_parts['peak'] == always + update + 4*d.params + (1 << 30) + cpu_parts['program'] and not gpu_parts['program']
    assert (own["engine's copy"], own['KV cache'], own['peak']) == (0, 0, always + update)
    half = replace(cfg, engine_options='{"gpu_memory_utilization": 0.5, "enable_sleep_mode": false}')
    assert memory(half, d, 50, gpu=gpu)['peak'] == always + update + .5*gpu
    two = memory(cfg, d, 50, 2, gpu=gpu)
    assert two['peak'] == always//2 + max(update - two['gradients'], 4*d.params + .4*gpu)  # sent whole, while vLLM is awake


def test_what_sampling_and_small_batches_take_is_counted(places):
    "A second copy of the matrices where `generate` lays them out anew, and no more rows than there are."
    cfg = shrunk('qwen3-4b', places, dtype='float32', mixed_precision='no', kl_coef=0, minibatches=1)
    d = replace(dims_of(resolve(cfg)[0], cfg), linear=2**25)
    copy = lambda cfg, **kw: memory(cfg, d, 50, **kw)["engine's copy"]
    assert copy(cfg) == 4*2**25*torch.backends.mkl.is_available()
    assert copy(cfg, gpu=10**9) == copy(replace(cfg, mixed_precision='bf16')) == copy(replace(cfg, dtype='bfloat16')) == 0
    many, few = (memory(changed(cfg, micro=64, batch=b), d, 50) for b in (64, 2))      # 2 × 8 rows are all there are
    assert many['activations'] == 4*few['activations'] and many['KV cache'] > 5*few['KV cache']


def test_the_dry_run_tells_of_vllm_and_of_gathered_weights(places):
    cfg = shrunk('qwen3-4b', places)
    d = dims_of(resolve(cfg)[0], cfg)
    lines = lambda cfg, gpu: '\n'.join(_memory_lines(cfg, d, 50, 10**11, gpu))
    assert 'are gathered for sampling' in lines(cfg, 0) and 'vLLM' not in lines(cfg, 0)
    said = lines(replace(cfg, engine='vllm'), 8*10**10)
    assert "are gathered to be sent to the engine's copy" in said and 'vLLM      32.0 GB while it samples' in said and 'WARNING' not in said
    assert 'all the time' in lines(replace(cfg, engine='vllm'), 0)
    assert 'does not hold one response' in lines(replace(cfg, engine='vllm'), 10**6)
    assert 'while it samples' not in lines(replace(cfg, engine='vllm-server'), 8*10**10)


def test_a_run_too_large_is_told(places):
    cfg = shrunk('qwen3-4b', places, batch=8, max_new_tokens=512)
    instructions, lost = training_data(cfg.train)
    said = dry_run(cfg, instructions, lost, device=1000)
    assert 'WARNING: the estimate exceeds' in said and 'sharded' not in said.split('WARNING')[1]
    assert 'WARNING' not in dry_run(cfg, instructions, lost, device=10**15)
    assert _device_bytes(cpu=True) > 10**8


@pytest.mark.parametrize('settings, says', [
    (dict(model='./nowhere'), 'nowhere'), (dict(engine='vlm'), "cannot be 'vlm'"),
    (dict(lora_rank=4, lora_targets='query'), "no linear layer is called 'query'")])
def test_what_cannot_be_resolved_is_an_error(settings, says, places, capsys):
    cfg = shrunk('qwen3-4b', places)
    words = dict(model=cfg.model, train=cfg.train, engine='hf') | settings
    assert main(['train', '--config', str(recipes()['qwen3-4b']), '--dry-run', *(f'--{k}={v}' for k, v in words.items())]) == 2
    assert says in capsys.readouterr().err
