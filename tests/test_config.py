"Settings that are sound alone and not together, and engines that cannot be made: who is to blame is said."
import math
import warnings

import pytest

from changed import dotted
from hir.training.config import ConfigError, ENGINES, engine_of, make_config, read_config, rules_of
from hir.instructions.instruction import load_instructions
from hir.policies.policy import load_policy
from hir.policies.engines.hf import HFEngine
from hir.files import shipped
from hir.training.trainer import fit
from hir.constraints.verifier import cla


# ---- engines

class Broken(HFEngine):
    "An engine with an error of its own."
    def __init__(self, *args, **kw): super().__init__(*args, **kw); self.rows + 'a row'

class Narrow:
    "An engine that does not take what every engine is given."
    def __init__(self, model, tokenizer, max_new_tokens): pass


def test_an_error_inside_an_engine_comes_through():
    with pytest.raises(TypeError, match='unsupported operand'):
        engine_of(make_config(dict(engine=f'{__name__}:Broken')), None, None)


@pytest.mark.parametrize('settings, says', [
    (dict(engine_options='{"progres": true}'), "hf got an unexpected keyword argument 'progres'"),
    (dict(engine_options='{"model": 1}'), "multiple values for argument 'model'"),
    (dict(engine=f'{__name__}:Narrow'), "Narrow got an unexpected keyword argument 'rows'"),
    (dict(engine_options='{"autocast": true}'), "'autocast' has a setting of its own")])
def test_a_call_that_does_not_fit_is_blamed_on_the_settings(settings, says):
    with pytest.raises(ConfigError, match=says) as e: engine_of(make_config(settings), None, None)
    assert 'engine_options' in str(e.value)


# ---- together

@pytest.mark.parametrize('engine', [e for e in ENGINES if e.startswith('vllm')])
@pytest.mark.parametrize('settings', [dict(k=0, weigh='explore'), dict(k=2), dict(k=1, weigh='explore')])
def test_entropies_that_nobody_gives_are_missed_at_the_start(engine, settings, tmp_path):
    model, tokenizer = load_policy(shipped('toy/start'))
    train = load_instructions(shipped('toy/train.jsonl'))[:4]
    cfg = make_config(dotted(engine=engine, old='engine', out=str(tmp_path/'run'), cpu=True, **settings))
    with pytest.raises(ConfigError, match=f'entropies, which {engine} does not give; with auto'):
        fit(cfg, model, tokenizer, train, progress=False)
    assert not (tmp_path/'run').exists()
    for old in ('auto', 'recompute'): rules_of(make_config(dict(old=old), base=cfg))


class Mute(HFEngine):
    "Like vLLM, gives no entropies."
    exact = False
    def generate(self, *args, **kw):
        from dataclasses import replace
        return [replace(r, entropies=(math.nan,)*len(r.ids)) for r in super().generate(*args, **kw)]

def test_an_explorer_has_entropies_computed(tmp_path):
    model, tokenizer = load_policy(shipped('toy/start'))
    cfg = make_config(dotted(engine=f'{__name__}:Mute', weigh='explore', k=0, steps=1, batch=4, m=4, kl_coef=0, lr=1e-4, cpu=True,
                           max_new_tokens=16, out=str(tmp_path/'run')))
    log = []
    fit(cfg, model, tokenizer, load_instructions(shipped('toy/train.jsonl'))[:4], progress=False,
        on_step=lambda metrics, rows: log.append(metrics))
    assert math.isfinite(log[0]['loss']) and not log[0]['skipped']


def warned(**settings):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter('always')
        rules_of(make_config(settings))
    return [str(w.message) for w in found]

def test_weights_in_16_bits_that_are_trained_whole_are_warned_of():
    for dtype in ('bfloat16', 'float16'):
        said, = warned(dtype=dtype)
        assert dtype in said and 'mixed_precision: bf16' in said and 'rounded away' in said
    assert not warned(dtype='bfloat16', lora_rank=8) and not warned(mixed_precision='bf16') and not warned()


def test_the_warning_is_true():
    "Steps of 1e-5 leave almost all weights in bfloat16 as they are, and move those in float32."
    import torch
    moved = {}
    for dtype in ('bfloat16', 'float32'):
        model, _ = load_policy(shipped('toy/start'), dtype=dtype)
        before = [p.detach().clone() for p in model.parameters()]
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.)
        model(torch.arange(1, 60)[None]).logits.float().log_softmax(-1)[..., 5].mean().backward(); optimizer.step()
        moved[dtype] = sum((p != b).sum().item() for p, b in zip(model.parameters(), before))/sum(b.numel() for b in before)
    assert moved['bfloat16'] < .2 < .9 < moved['float32'], moved


# ---- values as YAML gives them

@pytest.mark.parametrize('text, name, value', [
    ('chat: {"enable_thinking": false}', 'chat', '{"enable_thinking": false}'), ('chat:\n  enable_thinking: no', 'chat', '{"enable_thinking": false}'),
    ('engine_options: {progress: true}', 'engine_options', '{"progress": true}'), ('lora_targets: [q_proj, v_proj]', 'lora_targets', 'q_proj,v_proj'),
    ('trackers: [tensorboard]', 'trackers', 'tensorboard'), ('kinds: [mine, yours]', 'kinds', 'mine,yours'), ('trackers: []', 'trackers', ''),
    ('out: 3', 'out', '3'), ('resume: no', 'resume', 'no'), ('trackers:', 'trackers', '')])
def test_what_is_natural_in_yaml_is_read(text, name, value, tmp_path):
    (tmp_path/'run.yaml').write_text(text)
    assert getattr(read_config(tmp_path/'run.yaml', trust=True), name) == value

@pytest.mark.parametrize('name, value, says', [
    ('train', ['mine.jsonl'], "setting 'train' must be text, not ['mine.jsonl']"), ('chat', [1], "'chat' must be text or a mapping"),
    ('trackers', [['a']], "'trackers' must be text or a list of texts"), ('model', {'a': 1}, 'must be text'), ('resume', True, 'must be text'),
    ('reward', cla, "name a function as 'module:function'")])
def test_what_is_no_text_is_refused(name, value, says):
    with pytest.raises(ConfigError) as e: make_config({name: value})
    assert says in str(e.value) and '0x' not in str(e.value), e.value

@pytest.mark.parametrize('key', ['on', "'on'"])
def test_a_key_is_the_word_that_stands_there(key, tmp_path):
    "YAML reads the word `on` as a yes; it is the setting of a method."
    (tmp_path/'run.yaml').write_text(f'method: {{name: sft, {key}: hindsight}}')
    assert read_config(tmp_path/'run.yaml').method == {'name': 'sft', 'on': 'hindsight'}

def test_paths_are_text(tmp_path): assert make_config(dict(out=tmp_path)).out == str(tmp_path)

def test_a_file_that_is_not_utf8(tmp_path):
    (tmp_path/'run.yaml').write_bytes('out: läufe'.encode('latin-1'))
    with pytest.raises(ConfigError, match='run.yaml: is not UTF-8'): read_config(tmp_path/'run.yaml')

def test_a_setting_near_none_is_not_answered_with_all():
    with pytest.raises(ConfigError, match='hir train --help') as e: make_config(dict(zzzzz=1))
    assert len(str(e.value)) < 120
