"The task against lm-eval-harness itself: the toy answers, and the numbers are those of `hir verify`, and of the harness's own `ifeval`."
import contextlib, io, json, re, shlex, shutil, sys
from pathlib import Path

import pytest

pytest.importorskip('lm_eval', reason='not installed: see tests/adapters/lm_eval.txt')
from lm_eval import simple_evaluate
from lm_eval.api.model import LM
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from checkout import ROOT
from hir.adapters.lm_eval_task import instruction_task
from hir.constraints.constraint import Constraint
from hir.files import DataError, shipped, write_jsonl
from hir.instructions.benchmarks import load
from hir.instructions.instruction import Instruction, Message, load_instructions
from hir.instructions.scoring import score_file, score_record
from hir.policies.policy import load_policy

GUIDE = '\n'.join(''.join(c['source']) for c in json.loads((ROOT/'nbs/howto/use_lm_eval.ipynb').read_text(encoding='utf-8'))['cells'])
ASKED = shipped('toy/heldout.jsonl').read_text(encoding='utf-8').splitlines(keepends=True)[:4]
LOG = ROOT/'tests/data/samples_heldout.jsonl'      # written by the harness, with the lines of the guide
SHORT = {'until': [], 'do_sample': False, 'max_gen_toks': 32}

def blocks(language): return re.findall(rf'^```{language}\n(.*?)^```', GUIDE, re.M | re.S)

class Canned(LM):
    "Says what it was told to, in this order, and remembers what it was asked."
    def __init__(self, *said): super().__init__(); self.said, self.asked = said, []
    def generate_until(self, requests, disable_tqdm=False):
        self.asked += [r.args[0] for r in requests]
        return [self.said[r.doc_id] for r in requests]
    def apply_chat_template(self, chat, add_generation_prompt=True): return ' | '.join(f"{m['role']}: {m['content']}" for m in chat)
    @property
    def tokenizer_name(self): return 'canned'
    def loglikelihood(self, requests): raise NotImplementedError
    def loglikelihood_rolling(self, requests): raise NotImplementedError

def evaluated(lm, task, **kw):
    "(metric → value, samples)"
    found = simple_evaluate(lm, tasks=[task], task_manager=TaskManager(include_defaults=False), bootstrap_iters=0, **kw)
    (name, values), = found['results'].items()
    return {k.removesuffix(',none'): v for k, v in values.items() if k.endswith(',none') and 'stderr' not in k}, found['samples'][name]

def verified(samples, tmp_path, reading):
    "The metrics of the task, out of the report of `hir verify` on the records in a log."
    write_jsonl(tmp_path/'said.jsonl', [s['doc'] | {'response': s['resps'][0][0]} for s in samples])
    r = score_file(tmp_path/'said.jsonl', tmp_path/'scored.jsonl', reading=reading)
    return {f'{level}_level_{mode}_acc': r[mode][name] for mode in ('strict', 'loose') for level, name in (('prompt', 'ila'), ('inst', 'cla'))} | {
        kind: v['strict'] for kind, v in r['kinds'].items()}


# ---- the lines of the guide

@pytest.fixture
def here(tmp_path, monkeypatch):
    "A folder with what the guide names."
    monkeypatch.chdir(tmp_path)
    shutil.copytree(shipped('toy/start'), 'toy')
    Path('heldout.jsonl').write_text(''.join(ASKED))
    Path('tasks').mkdir(); Path('tasks/heldout.yaml').write_text(blocks('yaml')[0])
    return tmp_path

def test_its_python_prints_what_it_shows(here):
    with contextlib.redirect_stdout(io.StringIO()) as said: exec(blocks('python')[0], {})
    assert said.getvalue() == blocks('text')[0]

def test_its_command_says_the_same_and_its_log_agrees_with_hir_verify(here, monkeypatch):
    from lm_eval.__main__ import cli_evaluate
    command, = blocks('sh')[0].splitlines()
    monkeypatch.setattr(sys, 'argv', shlex.split(command)); cli_evaluate()
    found = json.loads(next(Path('out').rglob('results_*.json')).read_text())['results']['heldout']
    shown = dict(line.split() for line in blocks('text')[0].splitlines())
    assert {k: f'{found[k]:.3f}' for k in shown} == shown
    log = [json.loads(line) for line in next(Path('out').rglob('samples_*.jsonl')).read_text().splitlines()]
    assert {f'{k},none': pytest.approx(v) for k, v in verified(log, here, 'meant').items()} == {k: found[k] for k in shown}
    kept = [json.loads(line) for line in LOG.read_text(encoding='utf-8').splitlines()]
    assert log == kept                                # so the log in tests/data is what comes out


# ---- beside `hir verify`, and beside `ifeval`

def responses(): return [json.loads(line)['resps'][0][0] for line in LOG.read_text(encoding='utf-8').splitlines()]

@pytest.mark.parametrize('reading', ['meant', 'official'])
def test_a_model_object_and_both_readings(reading, tmp_path):
    model, tokenizer = load_policy(shipped('toy/start'))
    task = instruction_task('toy', load_instructions(shipped('toy/heldout.jsonl'))[:8], reading, generation_kwargs=SHORT)
    found, samples = evaluated(HFLM(model, tokenizer=tokenizer, device='cpu'), task, apply_chat_template=True)
    assert len(samples) == 8 and [s['resps'][0][0] for s in samples][:4] == responses()
    assert found == {k: pytest.approx(v) for k, v in verified(samples, tmp_path, reading).items()}

RECORDS = [{'key': 1, 'prompt': 'Greet a sailor without commas, in less than 4 words.', 'instruction_id_list': ['punctuation:no_comma', 'length_constraints:number_words'],
            'kwargs': [{}, {'relation': 'less than', 'num_words': 4}]},
           {'key': 2, 'prompt': 'Shout. End with Ahoy!', 'instruction_id_list': ['change_case:english_capital', 'startend:end_checker'], 'kwargs': [{}, {'end_phrase': 'Ahoy!'}]},
           {'key': 3, 'prompt': 'Name a bird in a title.', 'instruction_id_list': ['detectable_format:title'], 'kwargs': [{}]},
           {'key': 4, 'prompt': 'Use the word sea.', 'instruction_id_list': ['keywords:existence'], 'kwargs': [{'keywords': ['sea']}]}]
SAID = ['Ahoy, sailor', 'Sure, here it is:\nWELCOME ABOARD MY DEAR FRIEND, I HOPE THAT THE SEA WAS KIND TO YOU AND THE WIND WAS FAIR. AHOY!', '<<*Gull*>>', 'The *sea*.']

def test_the_four_numbers_are_those_of_ifeval(tmp_path):
    "The harness's own task, from its own file, on the same responses."
    pytest.importorskip('nltk', reason='lm-eval[ifeval] is not installed')
    try: __import__('nltk').data.find('tokenizers/punkt_tab')
    except LookupError: pytest.skip('no punkt_tab, which ifeval loads; NLTK_DATA names the folder it is in')
    from lm_eval.tasks._yaml_loader import load_yaml
    import lm_eval.tasks
    write_jsonl(tmp_path/'prompts.jsonl', RECORDS)
    theirs = load_yaml(Path(lm_eval.tasks.__file__).parent/'ifeval/ifeval.yaml') | {
        'dataset_path': 'json', 'dataset_kwargs': {'data_files': {'train': str(tmp_path/'prompts.jsonl')}, 'cache_dir': str(tmp_path/'cache')}}
    qs = load('ifeval', tmp_path/'prompts.jsonl').instructions
    expected, logged = evaluated(Canned(*SAID), ConfigurableTask(config=theirs))
    found, samples = evaluated(Canned(*SAID), instruction_task('ours', qs, 'official'))
    assert expected == {k: found[k] for k in expected} and len(expected) == 4 and len(set(expected.values())) > 2
    for a, b in zip(logged, samples, strict=True): assert {k: a[k] for k in expected} == {k: b[k] for k in expected}

def test_system_prompt_and_earlier_turns_go_through_the_template():
    plain = Constraint('punctuation:no_comma')
    chat = Instruction('Greet me.', [plain], earlier=[Message('system', 'Be brief.'), Message('user', 'Hi'), Message('assistant', 'Yes?')])
    lm = Canned('Ahoy', 'Well, ahoy')
    found, _ = evaluated(lm, instruction_task('chats', [chat, Instruction('Greet.', [plain])]), apply_chat_template=True)
    assert lm.asked == [' | '.join(f"{m['role']}: {m['content']}" for m in q) for q in (chat.messages, Instruction('Greet.', [plain]).messages)]
    assert found['punctuation:no_comma'] == .5
    with pytest.raises(DataError, match='--apply_chat_template'): evaluated(Canned('Ahoy'), instruction_task('chats', [chat]))

def test_limits_and_a_kind_that_is_left_out_by_them():
    found, samples = evaluated(Canned('<<Ahoy>>'), instruction_task('few', [Instruction(r['prompt'], [Constraint(i, k) for i, k in zip(r['instruction_id_list'], r['kwargs'])])
                                                                      for r in RECORDS]), limit=1)
    assert len(samples) == 1 and 'keywords:existence' not in found and found['punctuation:no_comma'] == 1.

def test_what_rules_cannot_score_is_refused_before_anything_is_asked():
    with pytest.raises(DataError, match='instruction 0: .*judge'):
        instruction_task('soft', [Instruction('Greet.', [Constraint('judge:criterion', {'criterion': 'Be kind.'})])])

def test_the_log_of_its_own_ifeval_holds_our_verdicts():
    "tests/data/samples_ifeval.jsonl: the harness's task `ifeval` with the toy, on three prompts of ours."
    for line in (ROOT/'tests/data/samples_ifeval.jsonl').read_text(encoding='utf-8').splitlines():
        s = json.loads(line)
        scored = score_record(s['doc'] | {'response': s['resps'][0][0]}, 'official')
        assert (scored['strict'], scored['loose']) == (s['inst_level_strict_acc'], s['inst_level_loose_acc'])
