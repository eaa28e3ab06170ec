"""Data sets of the field: every format read and written, every bad record named, prompts taken apart with proof.

All records here are made up. Prompts of the real benchmarks are measured where HIR_PARITY names their folder.
"""
import builtins, gzip, json, os, sys, types
from pathlib import Path

import pytest
from hypothesis import assume, given, settings, strategies as st

import hir.constraints.suites.ifbench, hir.constraints.suites.ifeval, hir.constraints.suites.iftrain  # noqa: F401  register their kinds
from hir.instructions.benchmarks import (_HUB, READERS, DataError, Loaded, decompose, load, _read_hir16k, save,
                                         save_responses, _spaced, survival)
from hir.constraints.constraint import Constraint, ConstraintError, describe
from hir.instructions.instruction import TEMPLATES, Instruction
from hir.constraints.verifier import check, verify

QUICK = settings(max_examples=60, deadline=None)
FOLDER = os.environ.get('HIR_PARITY', '')

IFEVAL = {'key': 31, 'prompt': 'Write about rain. Use no commas.', 'instruction_id_list': ['punctuation:no_comma', 'length_constraints:number_words'],
          'kwargs': [{'num_words': None}, {'num_words': 40, 'relation': 'at least', 'keyword': None}]}
IFBENCH = {'key': '5', 'prompt': 'Why is fog grey? Every 3rd word of your response must be in Japanese.',
           'instruction_id_list': ['count:words_japanese'], 'kwargs': [{'N': 3.0, 'min_words': None}]}
IFTRAIN = {'key': 'a', 'messages': [{'role': 'user', 'content': 'Name a tree.'}], 'dataset': 'ifeval', 'constraint_type': 'multi',
           'constraint': 'No dots.', 'ground_truth': "[{'instruction_id': ['punctuation:punctuation_dot', 'keywords:word_once'], 'kwargs': [None, {'keyword': 'oak'}]}]"}
MULDIMIF = {'id': '9', 'conversations': [{'role': 'user', 'content': 'Name two rivers. The answer must be at most 20 words. The answer must end with a period.'}],
            'constraints': [['Length', 'Words', 'The answer must be at most 20 words'], ['Content', 'Punctuation', 'The answer must end with a period']],
            'constraint_pattern': 'Incorporation', 'difficulty': 'Level 1'}
CFBENCH = {'idx': 3, 'prompt': 'Greet a guest.', 'isanswer': '否', 'gold': '', 'doamin': '', 'split': 'easy',
           'criteria': [['The guest is welcomed.', '主需', '内容约束', ''], ['It is short.', '次需', '', '']]}
HIR16K = {'id': 2, 'source': 'type1', 'question': 'Write about snow.', 'criteria': ['Use no commas.', 'Say snow once.'],
          'ground_truth': {'instruction_id_list': ['punctuation:no_comma', 'keywords:word_once'], 'kwargs': [{}, {'keyword': 'snow'}]}}
GOOD = {'ifeval': IFEVAL, 'ifbench': IFBENCH, 'iftrain': IFTRAIN, 'muldimif': MULDIMIF, 'cfbench': CFBENCH, 'hir16k': HIR16K}


def written(folder, records, ending='jsonl'):
    path = folder/f'data.{ending}'
    path.write_text(json.dumps(records) if ending == 'json' else '\n'.join(map(json.dumps, records)), encoding='utf-8')
    return path


# ---- reading

@pytest.mark.parametrize('ending', ['json', 'jsonl'])
@pytest.mark.parametrize('name', GOOD)
def test_every_format_is_read_from_both_kinds_of_file(name, ending, tmp_path):
    data = load(name, written(tmp_path, [GOOD[name]]*2, ending))          # a key may come twice
    assert data.instructions[0] == data.instructions[1] and data.records == [GOOD[name]]*2
    assert len(data.instructions[0]) == (1 if name == 'ifbench' else 2)
    assert f'{name}: 2 instructions' in str(data)


def test_padding_goes_and_floats_are_cast(tmp_path):
    q = load('ifeval', written(tmp_path, [IFEVAL])).instructions[0]
    assert [c.args for c in q.constraints] == [{}, {'num_words': 40, 'relation': 'at least'}]
    assert (q.prompt, q.template, q.id) == (IFEVAL['prompt'], 'verbatim', '31')
    q = load('ifbench', written(tmp_path, [IFBENCH])).instructions[0]
    assert q.constraints[0].args == {'N': 3} and isinstance(q.constraints[0].args['N'], int)


def test_two_nestings_of_the_ground_truth(tmp_path):
    truth = {'instruction_id': ['punctuation:punctuation_dot'], 'kwargs': [None]}
    for text in (repr([truth]), json.dumps([truth]), repr([json.dumps(truth)]), json.dumps([json.dumps(truth)])):
        q = load('iftrain', written(tmp_path, [IFTRAIN | {'ground_truth': text}])).instructions[0]
        assert q.constraints == (Constraint('punctuation:punctuation_dot'),)


def test_an_answer_in_the_conversation_is_no_part_of_the_prompt(tmp_path):
    turns = [*MULDIMIF['conversations'], {'role': 'assistant', 'content': 'Two rivers.'}]
    q = load('muldimif', written(tmp_path, [MULDIMIF | {'conversations': turns}])).instructions[0]
    assert q.prompt == MULDIMIF['conversations'][0]['content']


BAD = [('ifeval', {'prompt': None}, "'prompt' must be a text or chat messages"), ('ifeval', {'kwargs': [{}]}, 'must be a list of 2, one per id'),
       ('ifeval', {'instruction_id_list': 'x'}, "'instruction_id_list' must be JSON"), ('ifeval', {'instruction_id_list': [], 'kwargs': []}, 'at least one'),
       ('ifeval', {'instruction_id_list': ['punctuation:no_coma', 'keywords:word_once']}, "unknown kind 'punctuation:no_coma'; did you mean"),
       ('ifeval', {'kwargs': [{}, {'num_words': '40', 'relation': 'at least'}]}, "'kwargs[1]': length_constraints:number_words: argument 'num_words'"),
       ('ifbench', {'kwargs': [{'N': 2.5}]}, "argument 'N' must be int"), ('ifbench', {'kwargs': [7]}, "'kwargs[0]' must be an object"),
       ('ifbench', {'prompt': ' \n'}, 'the prompt is blank'), ('ifbench', {'kwargs': [{'n': 3}]}, "no argument 'n'"),
       ('iftrain', {'ground_truth': '[1 + 1]'}, 'must be JSON or a Python literal'), ('iftrain', {'ground_truth': '('*300}, 'must be JSON or a Python literal'),
       ('iftrain', {'ground_truth': '[]'}, 'must be one object, or a list of one'), ('iftrain', {'ground_truth': '{"func_name": "x"}'}, "no function 'x'"),
       ('iftrain', {'ground_truth': "[{'instruction_id_list': [], 'kwargs': []}]"}, "'instruction_id_list' must be a list of at least one"),
       ('iftrain', {'messages': []}, "ends with the user's turn"), ('iftrain', {'messages': ['Go.']}, "'messages[0]' must be a message"),
       ('iftrain', {'messages': [{'role': 'system', 'content': 'a'}]}, "ends with the user's turn"),
       ('iftrain', {'messages': [{'role': 'user', 'content': None}]}, "'messages[0]': 'content' must be a text"),
       ('muldimif', {'constraints': [['Length', 'Words']]}, "'constraints[0]' must be [category, subcategory, sentence]"),
       ('muldimif', {'constraints': [['Length', 'Words', 'Shimmer softly']]}, 'Shimmer softly'), ('muldimif', {'constraints': []}, 'a list of at least one'),
       ('muldimif', {'constraints': [['Mood', 'Joy', 'Be glad']]}, "no category 'Mood'"),
       ('cfbench', {'prompt': ''}, 'the prompt is blank'), ('cfbench', {'criteria': [[' ']]}, "'criteria[0]'"), ('cfbench', {'criteria': [7]}, "'criteria[0]' must be a text"),
       ('hir16k', {'source': 'type5'}, 'must be type1 to type4'), ('hir16k', {'criteria': ['Use no commas.']}, 'as many constraints as there are rubrics'),
       ('hir16k', {'criteria': [{'text': 'x'}, 'y']}, "'criteria[0]' must be a text"), ('hir16k', {'ground_truth': '__import__("os")'}, 'must be JSON'),
       ('hir16k', {'ground_truth': '[]'}, 'must be an object')]


@pytest.mark.parametrize('name,change,says', BAD)
def test_a_bad_record_is_named_or_skipped_and_counted(name, change, says, tmp_path):
    path = written(tmp_path, [GOOD[name], GOOD[name] | change])
    with pytest.raises(DataError) as e: load(name, path)
    assert str(e.value).startswith(f'{path}:2: ') and says in str(e.value) and 'correct the record' in str(e.value)
    data = load(name, path, skip_bad=True)
    assert len(data.instructions) == len(data.records) == len(data.rejects) == 1 and says in data.rejects[0]
    assert '1 bad records skipped' in str(data)


@pytest.mark.parametrize('name,field', [(name, field) for name in GOOD for field in GOOD[name]])
def test_a_missing_field_is_named(name, field, tmp_path):
    needed = {'prompt', 'instruction_id_list', 'kwargs', 'messages', 'ground_truth', 'conversations', 'constraints', 'criteria', 'source', 'question'}
    path = written(tmp_path, [{k: v for k, v in GOOD[name].items() if k != field}])
    if field not in needed: assert load(name, path).instructions
    else:
        with pytest.raises(DataError, match='is missing'): load(name, path)


def test_broken_files(tmp_path):
    path = written(tmp_path, [IFEVAL])
    path.write_bytes(path.read_bytes() + b'\n{"key": \n\n"text"\n\xff\xfe\n' + json.dumps(IFEVAL).encode())
    data = load('ifeval', path, skip_bad=True)
    assert len(data.instructions) == 2
    assert [r.split(': ')[0].rsplit(':')[-1] for r in data.rejects] == ['2', '4', '5']
    with pytest.raises(DataError, match=':2: not valid JSON'): load('ifeval', path)
    (tmp_path/'x.json').write_text('{"a": 1}\n{"a": 2}')                        # lines, whatever the name
    with pytest.raises(DataError, match="x.json:1: field 'criteria' is missing"): load('cfbench', tmp_path/'x.json')
    (tmp_path/'x.json').write_text('{\n"data": []}')
    with pytest.raises(DataError, match='must hold a list of records, or a record in each line'): load('cfbench', tmp_path/'x.json')
    with pytest.raises(DataError, match='no such file'): load('cfbench', tmp_path/'nowhere.json')
    with pytest.raises(DataError, match='no data set'): load('ifeval3', path)
    with pytest.raises(DataError, match='holds no instructions'): load('ifeval', written(tmp_path, [{}]), skip_bad=True)


junk = st.recursive(st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=8),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
                        ['role', 'content', 'instruction_id', 'kwargs', 'N', 'description', 'constraints', 'func_name']), inner, max_size=3), max_leaves=6)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), name=st.sampled_from(sorted(GOOD)))
def test_whatever_a_field_holds_the_answer_is_an_instruction_or_a_data_error(data, name):
    record = GOOD[name] | {data.draw(st.sampled_from(sorted(GOOD[name]))): data.draw(junk)}
    try: q = READERS[name](record, 'here')
    except DataError as e: assert str(e).startswith('here')
    else: assert isinstance(q, Instruction) and q.prompt.strip()


# ---- code in data

def test_source_code_in_data_is_never_run(tmp_path, monkeypatch):
    gone = tmp_path/'gone'
    code = f'open({str(gone)!r}, "w")\ndef check_following(instruction, response): return True'
    four = HIR16K | {'source': 'type4', 'ground_truth': {'checker': ['[rule] a', '[llm] b'], 'functions': [code, code]}}
    truth = IFTRAIN | {'ground_truth': f'[open({str(gone)!r}, "w")]'}
    path, other = written(tmp_path, [four, HIR16K]), written(tmp_path, [truth, IFTRAIN], 'json')
    for name in ('exec', 'eval'): monkeypatch.setattr(builtins, name, lambda *a, **k: pytest.fail('code was run'))
    data = load('hir16k', path)
    assert [c.kind for c in data.instructions[0].constraints] == ['judge:criterion']*2
    assert data.instructions[0].prompt == 'Write about snow. Use no commas. Say snow once.'
    dropped = load('hir16k', path, type4='drop')
    assert (len(dropped.instructions), len(dropped.dropped), dropped.rejects) == (1, 1, []) and '1 dropped' in str(dropped)
    assert len(load('iftrain', other, skip_bad=True).rejects) == 1
    assert not gone.exists()


# ---- HIR-16K

def test_bare_questions_get_their_rubrics_and_whole_prompts_keep_them():
    bare = _read_hir16k(HIR16K, 'here')
    assert (bare.template, bare.prompt) == ('inline', 'Write about snow. Use no commas. Say snow once.')
    whole = {k: v for k, v in HIR16K.items() if k not in ('question', 'criteria')} | {
        'messages': [{'role': 'user', 'content': 'Write about snow.\nUse no commas. Say snow once.'}],
        'rubrics': [{'description': r} for r in HIR16K['criteria']], 'ground_truth': json.dumps(HIR16K['ground_truth'])}
    q = _read_hir16k(whole, 'here')
    assert (q.template, q.prompt) == ('verbatim', whole['messages'][0]['content'])
    apart = decompose(q.prompt, q.constraints, q.id)
    assert (apart.template, apart.task, apart.id) == ('line', 'Write about snow.', '2')


def test_types_2_and_3_and_kinds_without_a_rule():
    two = HIR16K | {'source': 'type2', 'ground_truth': {'instruction_id_list': ['punctuation:no_comma', 'chat:warm'], 'kwargs': [{}, {'x': 1}]}}
    assert [c.kind for c in _read_hir16k(two, 'here').constraints] == ['punctuation:no_comma', 'judge:criterion']
    triples = [['Length', 'Words', 'At most 20 words'], ['Content', 'Punctuation', 'The answer must end with a period']]
    three = HIR16K | {'source': 'type3', 'ground_truth': {'constraints': triples}}
    q = _read_hir16k(three, 'here')
    assert [c.kind for c in q.constraints] == ['muldimif:Length/Words', 'muldimif:Content/Punctuation']
    assert [describe(c) for c in q.constraints] == HIR16K['criteria']         # the rubric is the wording
    assert check(q.constraints[0], 'one two') and q.constraints[0].args == {'constraint': 'At most 20 words'}


# ---- the hub

def test_without_datasets_the_remedy_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, 'datasets', None)
    with pytest.raises(DataError, match=r'google/IFEval: needs the package `datasets`: pip install .hir\[data\]'): load('ifeval')
    (tmp_path/'x.parquet').write_bytes(b'')
    with pytest.raises(DataError, match='needs the package `datasets`'): load('ifeval', tmp_path/'x.parquet')
    for name in ('muldimif', 'cfbench'):
        with pytest.raises(DataError, match='is not on the hub; pass the path of'): load(name)


def test_without_a_network_the_remedy_is_named(monkeypatch):
    def load_dataset(*args, **kwargs): raise ConnectionError('no route')
    monkeypatch.setitem(sys.modules, 'datasets', types.SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(DataError, match='could not be read .*no route.*downloaded elsewhere'): load('iftrain')


def test_rows_of_the_hub_are_read_like_files(monkeypatch):
    asked = []
    def load_dataset(repo, **options):
        asked.append((repo, options))
        return [{'text': json.dumps(HIR16K)}] if repo == 'text' else [IFBENCH, IFBENCH | {'prompt': ''}]
    monkeypatch.setitem(sys.modules, 'datasets', types.SimpleNamespace(load_dataset=load_dataset))
    data = load('ifbench', skip_bad=True)
    assert len(data.instructions) == 1 and data.rejects[0].startswith('allenai/IFBench_test: row 1: the prompt is blank')
    assert len(load('hir16k').instructions) == 1
    assert [repo for repo, _ in asked] == [_HUB['ifbench'][0], 'text'] and asked[1][1]['data_files'].startswith('hf://')


@pytest.mark.parametrize('name', ['ifeval', 'ifbench', 'iftrain'])
def test_parquet_with_the_real_package(name, tmp_path, monkeypatch):
    datasets = pytest.importorskip('datasets', reason='the extra `data` is not installed')
    monkeypatch.setenv('HF_HOME', str(tmp_path))
    if name == 'ifeval': records = [IFEVAL | {'kwargs': [{'num_words': None, 'relation': None}, {'num_words': 40, 'relation': 'at least'}]}]
    else: records = [GOOD[name]]
    datasets.Dataset.from_list(records).to_parquet(tmp_path/'data.parquet')
    assert load(name, tmp_path/'data.parquet').instructions == load(name, written(tmp_path, records)).instructions


# ---- writing

def content(q): return q.prompt, [(c.kind, c.args) for c in q.constraints], q.id

@pytest.mark.parametrize('ending', ['json', 'jsonl'])
@pytest.mark.parametrize('name', GOOD)
def test_saved_records_come_back(name, ending, tmp_path):
    first, path = load(name, written(tmp_path, [GOOD[name]])).instructions, tmp_path/f'back.{ending}'
    save(name, path, first)
    assert list(map(content, load(name, path).instructions)) == list(map(content, first))
    (record,) = json.loads(path.read_text()) if ending == 'json' else map(json.loads, path.read_text().splitlines())
    key = next(iter(GOOD[name].keys() & {'key', 'id', 'idx'}))
    assert record[key] == GOOD[name][key] and None not in [v for kw in record.get('kwargs', []) for v in kw.values()]


def test_saved_records_have_the_fields_of_the_data_set(tmp_path):
    "What the readers of others ask for, by hand: shapes of the published files."
    def one(name, *constraints, task='Name a river.', template='inline'):
        save(name, tmp_path/'one.jsonl', [Instruction(task, constraints, template)])
        return json.loads((tmp_path/'one.jsonl').read_text())
    words = Constraint('muldimif:Length/Words', {'constraint': 'The answer must be at most 20 words'})
    calm, comma = Constraint('judge:criterion', {'criterion': 'It is calm.'}), Constraint('punctuation:no_comma')
    record = one('muldimif', words)
    assert record['constraints'] == [['Length', 'Words', 'The answer must be at most 20 words']] and record['id'] == '0'
    assert record['conversations'] == [{'role': 'user', 'content': 'Name a river. The answer must be at most 20 words.'}]
    assert one('cfbench', calm) == {'idx': 0, 'prompt': 'Name a river. It is calm.', 'criteria': [['It is calm.', '主需', '', '']]}
    for constraints, source, truth in [([comma], 'type1', {'instruction_id_list': [comma.kind], 'kwargs': [{}]}),
                                       ([words], 'type3', {'constraints': [['Length', 'Words', words.args['constraint']]]}),
                                       ([comma, calm], 'type2', {'instruction_id_list': [comma.kind, calm.kind], 'kwargs': [{}, calm.args]}),
                                       ([words, calm], 'type2', {'instruction_id_list': [words.kind, calm.kind], 'kwargs': [words.args, calm.args]})]:
        record = one('hir16k', *constraints)
        assert (record['source'], json.loads(record['ground_truth'])) == (source, truth)
        assert record['rubrics'] == [describe(c) for c in constraints] and record['messages'] == [{'role': 'user', 'content': record['prompt']}]


def test_what_a_registry_does_not_have_is_refused(tmp_path):
    q = load('ifbench', written(tmp_path, [IFBENCH])).instructions
    for name in ('ifeval', 'iftrain', 'muldimif', 'cfbench'):
        with pytest.raises(DataError, match="has no kind 'count:words_japanese'"): save(name, tmp_path/'no.jsonl', q)
    with pytest.raises(DataError, match='cannot write records of'): save('toy', tmp_path/'no.jsonl', q)
    assert not (tmp_path/'no.jsonl').exists()


def test_what_would_be_read_back_otherwise_is_refused(tmp_path):
    "No rubric stands in the prompt: a reader would add them."
    q = Instruction('Please avoid the comma.', [Constraint('punctuation:no_comma')], 'verbatim')
    with pytest.raises(DataError, match='instruction 0: hir16k would read it back'): save('hir16k', tmp_path/'no.jsonl', [q])
    with pytest.raises(ConstraintError, match='the task is blank'): Instruction(' ', q.constraints, 'verbatim')
    assert not (tmp_path/'no.jsonl').exists()


def test_responses_go_where_the_scripts_look(tmp_path):
    said = {name: f'answer to {name}' for name in GOOD}
    for name in ('ifeval', 'ifbench', 'muldimif', 'cfbench'):
        save_responses(tmp_path/name, load(name, written(tmp_path, [GOOD[name]])), [said[name]])
    for name in ('ifeval', 'ifbench'):
        assert [json.loads(line) for line in (tmp_path/name).read_text().splitlines()] == [{'prompt': GOOD[name]['prompt'], 'response': said[name]}]
    (record,) = json.loads((tmp_path/'muldimif').read_text())
    assert record['conversations'] == [*MULDIMIF['conversations'], {'role': 'assistant', 'content': said['muldimif']}]
    assert {k: v for k, v in record.items() if k != 'conversations'} == {k: v for k, v in MULDIMIF.items() if k != 'conversations'}
    assert json.loads((tmp_path/'cfbench').read_text()) == [CFBENCH | {'response': said['cfbench']}]
    for name in ('iftrain', 'hir16k'):
        with pytest.raises(DataError, match='no official script'): save_responses(tmp_path/'x', Loaded(name), [])


def test_a_prompt_with_two_responses_is_refused(tmp_path):
    data = load('ifeval', written(tmp_path, [IFEVAL]*2))
    save_responses(tmp_path/'x', data, ['a', 'a'])
    with pytest.raises(DataError, match='record 0 has another response to the same prompt'): save_responses(tmp_path/'y', data, ['a', 'b'])
    with pytest.raises(ValueError): save_responses(tmp_path/'y', data, ['a'])
    assert not (tmp_path/'y').exists()


# ---- taking prompts apart

A, B, C = (Constraint('punctuation:no_comma'), Constraint('words:start_verb'), Constraint('count:numbers', {'N': 3}))
tasks = st.sampled_from(['Write about the sea.', 'why is salt white?', 'List: apples, pears.\n\nKeep the order.', 'Say "go"', 'Tell me about 1984.'])


@QUICK
@given(task=tasks, cs=st.permutations([A, B, C]), k=st.integers(1, 3), template=st.sampled_from(sorted(set(TEMPLATES) - {'verbatim'})), order=st.permutations(range(3)))
def test_what_a_template_joined_comes_apart(task, cs, k, template, order):
    q = Instruction(task, cs[:k], template)
    known = [cs[i] for i in order if i < k]                      # the order of the data need not be that of the prompt
    apart = decompose(q.prompt, known)
    assert _spaced(apart.prompt) == _spaced(q.prompt) and apart.template != 'verbatim'
    assert _spaced(apart.task).rstrip('.') == _spaced(task).rstrip('.')
    assert [(c.kind, c.args) for c in apart.constraints] == [(c.kind, c.args) for c in q.constraints]
    for i in range(len(apart)):                                 # a dropped constraint leaves no trace
        if len(apart) == 1: break
        rest = Instruction(apart.task, apart.constraints[:i] + apart.constraints[i+1:], apart.template)
        assert describe(known[0]) not in rest.prompt or known[0].kind in [c.kind for c in rest.constraints]


pieces = st.lists(st.sampled_from(['Write about fog.', 'and', ',', '\n', '1.', '2.', '-', 'Additionally,', 'the answer', 'Go', 'no', *map(describe, (A, B, C)),
                                   describe(A).lower(), describe(C).rstrip('.'), 'The output must follow the following rules:']), min_size=1, max_size=9)


@settings(max_examples=150, deadline=None)
@given(pieces=pieces, cs=st.lists(st.sampled_from([A, B, C]), min_size=1, max_size=3))
def test_a_split_always_composes_back(pieces, cs):
    prompt = ' '.join(pieces)
    assume(prompt.strip())                                     # a blank one is no instruction
    q = decompose(prompt, cs, 'k')
    assert _spaced(q.prompt) == _spaced(prompt) and q.id == 'k'
    assert sorted((c.kind for c in q.constraints)) == sorted(c.kind for c in cs)
    if q.template == 'verbatim': assert q == Instruction(prompt, cs, 'verbatim', 'k')
    else: assert q.task in prompt and all(c.text in prompt for c in q.constraints) and describe(cs[0]).lower() not in q.task.lower()


@pytest.mark.parametrize('prompt', ['Go, and in your entire response, refrain from the use of any commas', 'Go. {0} Then stop.', '{0} Go. {0}', '{0}',
                                    'Go.\nThe output must follow the following rules:\n1. Be brief.\n2. {0}', 'Go on', 'Name some. 1. {0}'])
def test_what_stays_whole(prompt):
    prompt = prompt.format(describe(A))
    assert decompose(prompt, [A]) == Instruction(prompt, [A], 'verbatim')


def test_lead_ins_belong_to_their_sentence():
    words = Constraint('muldimif:Length/Words', {'constraint': 'must be at most 20 words'})
    q = decompose('Name a river. Additionally, the answer must be at most 20 words.', [words])
    assert (q.task, q.constraints[0].text) == ('Name a river.', 'Additionally, the answer must be at most 20 words.')
    assert decompose('Name a river whose answer must be at most 20 words.', [words]).template == 'verbatim'


def test_verdicts_do_not_change(tmp_path):
    "Taking apart changes the wording that is kept, never what is checked."
    for name in ('ifeval', 'ifbench', 'muldimif'):
        q = load(name, written(tmp_path, [GOOD[name]])).instructions[0]
        apart = decompose(q.prompt, q.constraints)
        by_kind = dict(zip([c.kind for c in apart.constraints], verify(apart.constraints, 'Rain falls on two rivers.')))
        assert [by_kind[c.kind] for c in q.constraints] == list(verify(q.constraints, 'Rain falls on two rivers.'))


def test_survival_counts():
    whole = [Instruction(f'Go on. {describe(A)} {describe(B)}', [A, B], 'verbatim'), Instruction('Go on.', [A], 'verbatim')]
    assert survival(whole) == {'prompts': 2, 'apart': 1, 'share': .5, 'two or more': 1}


LEAST = {'ifeval': .01, 'ifbench': .9, 'Listing': .85, 'Incorporation': .15, 'Example': 0}  # share that comes apart


@pytest.mark.skipif(not Path(FOLDER or '/nowhere').is_dir(), reason='the environment variable HIR_PARITY names no folder of benchmark prompts')
@pytest.mark.parametrize('label', LEAST)
def test_survival_of_the_real_prompts(label, tmp_path):
    name = label if label in READERS else 'muldimif'
    file = 'muldimif_borrowed_llama_3b' if name == 'muldimif' else f'{name}_llama_3b'
    with gzip.open(Path(FOLDER)/f'{file}.jsonl.gz', 'rt', encoding='utf-8') as f: records = [json.loads(line) for line in f]
    if name == 'muldimif':
        records = [{'id': r['key'], 'conversations': [{'role': 'user', 'content': r['prompt']}],
                    'constraints': [[*k.split('_', 1), a['constraint']] for k, a in zip(r['instruction_id_list'], r['kwargs'])]}
                   for r in records if r['constraint_pattern'] == label]
    data = load(name, written(tmp_path, records), skip_bad=True)
    found = survival(data.instructions)
    print(f'\n{label}: {found}, {len(data.rejects)} unreadable')
    assert found['share'] >= LEAST[label] and len(data.rejects) <= .01*len(records)
