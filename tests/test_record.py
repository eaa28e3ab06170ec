"""Records as people hold them: one content in many shapes, read alike; what could mean two things, refused.

All records here are made up, in the shapes of the files and programs that the comments name.
"""
import csv, json, time

import pytest
from hypothesis import given, settings, strategies as st

from checkout import ROOT
from hir.constraints.constraint import Constraint
from hir.constraints.verifier import verify
from hir.files import DataError, jsonable, record_in
from hir.instructions.benchmarks import READERS, decompose, load, save, save_responses
from hir.instructions.instruction import Instruction
from hir.instructions.record import _BY_NAME, _COUNTED, answers_in, by_ids, chat_in, flattened, in_truth, stated_in
from hir.instructions.scoring import score_file, score_record

SEA = Constraint('keywords:existence', {'keywords': ['sea']})
FEW = Constraint('length_constraints:number_words', {'relation': 'less than', 'num_words': 9})
PROMPT = 'Tell me of the sea. Answer with less than 9 words.'
IDS, ARGS = [SEA.kind, FEW.kind], [SEA.args, FEW.args]
ALL = ('capital_frequency', 'end_phrase', 'keywords', 'num_words', 'relation')       # keys that a table knows

def chat(*said): return [{'role': role, 'content': text} for role, text in zip(('user', 'assistant')*9, said)]

def kept(path, *records):
    path.write_text('\n'.join(map(json.dumps, records)), encoding='utf-8')
    return path

def content(q): return q.messages, [(c.kind, c.args) for c in q.constraints]


# ---- one content, many shapes

def padded(nothing): return [dict.fromkeys(ALL, nothing) | a for a in ARGS]

IFEVAL = {'key': 3, 'prompt': PROMPT, 'instruction_id_list': IDS, 'kwargs': ARGS}
TRUTH = {'instruction_id': IDS, 'kwargs': ARGS}
FLAT = {'null': padded(None), 'NaN': padded(float('nan')), 'text': json.dumps(ARGS), 'texts': list(map(json.dumps, ARGS)), 'text of texts': json.dumps(list(map(json.dumps, ARGS))),
        'a lone keyword': [{'keywords': 'sea'}, FEW.args], 'python': repr(ARGS), 'NaN in a text': json.dumps(padded(float('nan')))}
EMPTY = {'0': [SEA.args | {'num_words': 0}, FEW.args | {'keywords': 0}], 'lists': [SEA.args | {'num_words': []}, FEW.args | {'keywords': []}], 'texts': [SEA.args | {'relation': ''}, FEW.args | {'end_phrase': ''}]}
SHAPES = {f'kwargs as {k}': ('ifeval', IFEVAL | {'kwargs': v}) for k, v in (FLAT | EMPTY).items()} | {
    'ids as text': ('ifeval', IFEVAL | {'instruction_id_list': json.dumps(IDS)}), 'prompt as chat': ('ifeval', IFEVAL | {'prompt': chat(PROMPT)}),
    'prompt in parts': ('ifeval', IFEVAL | {'prompt': [{'role': 'user', 'content': [{'type': 'text', 'text': PROMPT}]}]}),
    # lm-eval-harness, --log_samples
    'sample log': ('ifeval', {'doc_id': 0, 'doc': IFEVAL, 'target': 0, 'arguments': {'gen_args_0': {'arg_0': PROMPT}}, 'resps': [['x']], 'filtered_resps': ['x'], 'filter': 'none', 'prompt_level_strict_acc': False}),
    # verl's rows, with the truth as a text, an object, IFEval's own fields
    **{f'verl, {k}': ('iftrain', {'data_source': 'ifeval', 'prompt': chat(PROMPT), 'ability': 'if', 'reward_model': {'style': 'rule', 'ground_truth': v}, 'extra_info': {'index': 3, 'split': 'train'}})
       for k, v in {'literal': repr([TRUTH]), 'object': TRUTH, 'json of fields': json.dumps(IFEVAL)}.items()},
    # open-instruct
    'one nesting more': ('iftrain', {'messages': chat(PROMPT), 'dataset': ['ifeval'], 'ground_truth': [repr([TRUTH])]}),
    'an answer after it': ('iftrain', {'messages': chat(PROMPT, 'I will.'), 'dataset': 'ifeval', 'ground_truth': repr([TRUTH])}),
    # Multi-IF
    'first turn': ('ifeval', {'key': '3', 'turns': None, 'responses': None, 'turn_index': 1.0, 'turn_1_prompt': json.dumps(chat(PROMPT)[0]), 'turn_1_instruction_id_list': json.dumps(IDS),
                              'turn_1_kwargs': json.dumps(list(map(json.dumps, ARGS))), 'turn_2_prompt': None, 'turn_2_kwargs': None, 'turn_2_instruction_id_list': None, 'language': 'English'})}

@pytest.mark.parametrize('shape', SHAPES)
def test_every_shape_is_read_as_the_same_instruction(shape, tmp_path):
    name, record = SHAPES[shape]
    q, = load(name, kept(tmp_path/'data.jsonl', record)).instructions
    assert content(q) == (chat(PROMPT), list(zip(IDS, ARGS)))
    if 'dataset' not in record: assert q.id == '3'

@pytest.mark.parametrize('shape', SHAPES)
def test_every_shape_can_be_scored(shape, tmp_path):
    record = SHAPES[shape][1]
    record |= {'responses': 'The sea is salt.'} if 'turns' in record else {'filtered_resps': ['The sea is salt.']} if 'doc' in record else {'response': 'The sea is salt.'}
    report = score_file(kept(tmp_path/'said.jsonl', record), tmp_path/'out.jsonl')
    assert (report['records'], report['rejected'], report['strict']) == (1, 0, {'ila': 1, 'cla': 1})
    assert score_file(tmp_path/'out.jsonl', tmp_path/'again.jsonl')['strict'] == {'ila': 1, 'cla': 1}         # what we wrote, we read

@pytest.mark.parametrize('shape', [s for s in SHAPES if 'NaN' not in s])
def test_a_table_holds_them_as_well(shape, tmp_path, monkeypatch):
    datasets = pytest.importorskip('datasets', reason='the extra `data` is not installed')
    monkeypatch.setenv('HF_HOME', str(tmp_path))
    name, record = SHAPES[shape]
    if shape == 'kwargs as lists' or shape == 'kwargs as 0': pytest.skip('no table has both types in one column')
    datasets.Dataset.from_list([record]).to_parquet(tmp_path/'data.parquet')
    q, = load(name, tmp_path/'data.parquet').instructions
    assert content(q) == (chat(PROMPT), list(zip(IDS, ARGS)))

def test_rows_of_pandas_hold_arrays(tmp_path):
    pandas = pytest.importorskip('pandas')
    pytest.importorskip('pyarrow')
    record = SHAPES['verl, object'][1] | {'response': 'The sea is salt.'}
    pandas.DataFrame([record]).to_parquet(tmp_path/'data.parquet')
    row = pandas.read_parquet(tmp_path/'data.parquet').iloc[0].to_dict()
    assert type(row['prompt']).__name__ == 'ndarray'
    assert score_record(row)['strict'] == [True, True]
    assert content(READERS['iftrain'](flattened(record_in(row, 'x'), 'x'), 'x')) == (chat(PROMPT), list(zip(IDS, ARGS)))


def test_the_log_of_a_real_run_says_what_we_say(tmp_path):
    "Written by lm_eval, with its own verdicts beside the answers."
    log = ROOT/'tests'/'data'/'samples_ifeval.jsonl'
    lines = [json.loads(line) for line in log.read_text(encoding='utf-8').splitlines()]
    score_file(log, tmp_path/'out.jsonl', thinking='keep')
    ours = [json.loads(line) for line in (tmp_path/'out.jsonl').read_text(encoding='utf-8').splitlines()]
    for mode in ('strict', 'loose'): assert [r[mode] for r in ours] == [r[f'inst_level_{mode}_acc'] for r in lines]
    assert [q.prompt for q in load('ifeval', log).instructions] == [r['doc']['prompt'] for r in lines]


# ---- what is padding, and what is not

@pytest.mark.parametrize('args, says', [
    ({'keywords': []}, "'kwargs[0]': keywords:existence: argument 'keywords' must be a list of at least one"), ({'keywords': None}, "argument 'keywords' is missing"),
    ({'keywords': float('nan')}, "argument 'keywords' is missing"), ({'keywords': 0}, "argument 'keywords' must be a list"), ({'keywords': ['sea'], 'num_words': 3}, "no argument 'num_words'"),
    ({'keywords': ['sea'], 'num_words': '0'}, "no argument 'num_words'"), ({'keywords': 'sea, salt'}, 'may be one text or several; write a list'), ({'keywords': "['sea']"}, 'may be one text or several')])
def test_a_value_is_no_padding(args, says, tmp_path):
    with pytest.raises(DataError) as e: load('ifeval', kept(tmp_path/'x.jsonl', IFEVAL | {'kwargs': [args, FEW.args]}))
    assert 'x.jsonl:1: ' in str(e.value) and says in str(e.value)

def test_nan_is_let_through_within_kwargs_alone():
    for line in ('{"a": NaN}', '{"a": {"b": [NaN]}}', '{"kwargs": [{"n": Infinity}]}', '{"kwargs": [], "n": -Infinity}'):
        with pytest.raises(DataError, match='x:1: not valid JSON'): record_in(line, 'x:1')
    assert record_in('{"kwargs": [{"n": NaN, "m": {"k": NaN}}], "a": "NaN"}', 'x:1') == {'kwargs': [{'n': None, 'm': {'k': None}}], 'a': 'NaN'}
    assert jsonable({'kwargs': [{'n': float('nan')}]}) == {'kwargs': [{'n': None}]}
    deep = {}
    for _ in range(5000): deep = {'a': deep}
    with pytest.raises(DataError, match='nested too deeply'): record_in(deep, 'x:1')

def test_two_meanings_are_refused(tmp_path):
    one, log = SHAPES['verl, literal'][1], SHAPES['sample log'][1]
    for name, record, says in [('iftrain', one | {'ground_truth': repr([TRUTH | {'kwargs': [SEA.args, FEW.args | {'num_words': 4}]}])}, "a 'ground_truth' of its own"), ('ifeval', log | {'instruction_id_list': IDS}, 'keep one'),
                               ('iftrain', {'messages': chat(PROMPT), 'ground_truth': [repr([TRUTH])]*2}, 'must be one object, or a list of one'), ('iftrain', {'messages': chat(PROMPT), 'ground_truth': [TRUTH, TRUTH]}, 'one object'),
                               ('ifeval', IFEVAL | {'messages': chat('Something else.')}, "'messages' and 'prompt' ask different things"), ('ifeval', IFEVAL | {'kwargs': '[{"keywords": ["a"], "keywords": ["b"]}, {}]'}, 'is there twice'),
                               ('ifeval', IFEVAL | {'ground_truth': repr([TRUTH])}, "both 'instruction_id_list' and 'ground_truth'")]:
        with pytest.raises(DataError) as e: load(name, kept(tmp_path/'x.jsonl', record))
        assert 'x.jsonl:1: ' in str(e.value) and says in str(e.value), e.value
    for record, says in [({'response': 'a', 'output': 'b'}, 'which differ; keep one'), ({'output': {'text': 'a'}}, "'output' must be a text")]:
        with pytest.raises(DataError, match=says): answers_in(IFEVAL | record, 'x:1')

def test_a_truth_both_rows_share_is_one(tmp_path):
    record = SHAPES['verl, literal'][1]
    assert load('iftrain', kept(tmp_path/'x.jsonl', record | {'ground_truth': repr([TRUTH])})).instructions == load('iftrain', kept(tmp_path/'y.jsonl', record)).instructions


junk = st.recursive(st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=8) | st.sampled_from(['[]', '{}', '[{}]', '["a"]', PROMPT]),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
                        ['role', 'content', 'instruction_id', 'instruction_id_list', 'kwargs', 'N', 'constraints', 'func_name', 'ground_truth', 'doc', 'resps']), inner, max_size=3), max_leaves=6)

@settings(max_examples=250, deadline=None)
@given(data=st.data(), shape=st.sampled_from(sorted(SHAPES)), turn=st.sampled_from([None, None, 1, 2]))
def test_whatever_stands_anywhere_the_answer_is_an_instruction_or_says_where(data, shape, turn):
    name, record = SHAPES[shape]
    record = record | {data.draw(st.sampled_from([*sorted(record), 'response', 'messages', 'reward_model', 'turn_1_prompt', 'turn_index'])): data.draw(junk)}
    for read in (lambda: READERS[name](flattened(record, 'here', turn), 'here'), lambda: stated_in(flattened(record, 'here', turn), 'here'), lambda: answers_in(flattened(record, 'here', turn), 'here')):
        try: found = read()
        except DataError as e: assert str(e).startswith('here')
        else: assert isinstance(found, (Instruction, list))

@pytest.mark.parametrize('text', ['['*50_000, '('*100_000, '['*50_000 + ']'*50_000, '{"a":'*20_000, '"'*100_000, '1,'*50_000, "{'a': 1, "*10_000, ' '*100_000, '\\'*100_000, '-'*100_000, '9'*100_000])
def test_long_texts_cost_little(text):
    "Processor seconds, the least of three: a busy machine does not decide."
    def spent():
        begun = time.process_time()
        for read in (lambda: by_ids(text, None, 'x'), lambda: by_ids([SEA.kind], text, 'x'), lambda: in_truth(text, 'x'), lambda: chat_in({'messages': text}, 'x')):
            try: read()
            except DataError as e: assert len(str(e)) < 1000
        return time.process_time() - begun
    assert any(spent() < 2 for _ in range(3))


# ---- chats of several messages

SAID = [{'role': 'system', 'content': 'You are a sailor. Include the keywords sea in your response.'}, *chat('Hello!', 'Ahoy!', PROMPT)]

@pytest.mark.parametrize('name, field', [('iftrain', 'messages'), ('muldimif', 'conversations'), ('ifeval', 'prompt')])
def test_earlier_messages_come_along(name, field, tmp_path):
    record = {field: SAID} | ({'constraints': [['Length', 'Words', 'At most 8 words']]} if name == 'muldimif' else {'ground_truth': repr([TRUTH])} if name == 'iftrain' else {'instruction_id_list': IDS, 'kwargs': ARGS})
    q, = load(name, kept(tmp_path/'x.jsonl', record)).instructions
    assert (q.messages, q.task, q.template, len(q.earlier)) == (SAID, PROMPT, 'verbatim', 3)
    answered, = load(name, kept(tmp_path/'y.jsonl', record | {field: [*SAID, {'role': 'assistant', 'content': 'Salt sea.'}]})).instructions
    assert answered == q

def test_what_a_message_carries_is_kept_and_its_padding_is_not():
    call = {'role': 'assistant', 'content': None, 'tool_calls': [{'id': 'a'}], 'name': None}
    q = READERS['ifeval']({'prompt': [SAID[1], call, {'role': 'tool', 'content': '12', 'tool_call_id': 'a'}, SAID[3]], 'instruction_id_list': IDS, 'kwargs': ARGS}, 'x')
    assert q.messages[1:3] == [{'role': 'assistant', 'content': '', 'tool_calls': [{'id': 'a'}]}, {'role': 'tool', 'content': '12', 'tool_call_id': 'a'}]

def test_a_chat_comes_apart_message_by_message():
    q = decompose(SAID, [FEW, SEA])
    assert (q.messages, [(c.kind, c.turn) for c in q.constraints]) == (SAID, [(SEA.kind, 0), (FEW.kind, None)]) and q.rewritable
    assert (q.earlier[0].text, q.task) == ('You are a sailor.', 'Tell me of the sea.')
    assert decompose([SAID[0], *chat(f'{PROMPT} Include the keywords sea in your response.')], [FEW, SEA]).template == 'verbatim'      # worded twice
    assert decompose(chat('Hello!', 'Answer with less than 9 words.', 'Go on.'), [FEW]).template == 'verbatim'                       # by the assistant alone
    assert decompose(PROMPT, [FEW]) == decompose(chat(PROMPT), [FEW])

pieces = st.lists(st.sampled_from(['Go on.', 'Be kind.', *map(str, (FEW, SEA)), '\n', '1.', '-', 'and']), min_size=1, max_size=5).map(' '.join).filter(str.strip)

@settings(max_examples=150, deadline=None)
@given(texts=st.lists(pieces, min_size=1, max_size=4), system=st.booleans(), cs=st.lists(st.sampled_from([FEW, SEA]), min_size=1, max_size=2, unique_by=lambda c: c.kind))
def test_a_split_chat_always_composes_back(texts, system, cs):
    said = [{'role': 'system', 'content': 'You are a sailor. ' + texts[0]}]*system + chat(*texts[:len(texts) - 1 + len(texts) % 2] or texts)
    q = decompose(said, cs, 'k')
    assert [(m['role'], ' '.join(m['content'].split())) for m in q.messages] == [(m['role'], ' '.join(m['content'].split())) for m in said]
    assert sorted(c.kind for c in q.constraints) == sorted(c.kind for c in cs) and q.id == 'k'
    if q.rewritable:                                            # nobody else asks for what goes
        left = ' '.join(m['content'] for m in ({'role': e.role, 'content': e.text} for e in q.earlier) if m['role'] != 'assistant') + q.task
        assert not any(str(c) in left for c in cs)

def test_chats_are_saved_where_there_is_room(tmp_path):
    q = decompose(SAID, [FEW, SEA])
    for name in ('iftrain', 'hir16k'):
        save(name, tmp_path/'x.jsonl', [q])
        assert content(load(name, tmp_path/'x.jsonl').instructions[0]) == content(q)
    words = Instruction('Go.', [Constraint('muldimif:Length/Words', {'constraint': 'At most 8 words'})], 'inline', earlier=q.earlier[1:])
    save('muldimif', tmp_path/'x.json', [words])
    assert content(load('muldimif', tmp_path/'x.json').instructions[0]) == content(words)
    for name in ('ifeval', 'ifbench'):
        with pytest.raises(DataError, match='room for one message, not for 4|has no kind'): save(name, tmp_path/'no.jsonl', [q])
    with pytest.raises(DataError, match='reads a prompt of one message, not of 4'):
        save_responses(tmp_path/'no.jsonl', load('ifeval', kept(tmp_path/'y.jsonl', IFEVAL | {'prompt': SAID})), ['x'])
    assert not (tmp_path/'no.jsonl').exists()


# ---- Multi-IF

def turns_of(*prompts): return {f'turn_{i}_{k}': v for i, p in enumerate(prompts, 1) for k, v in (('prompt', json.dumps(chat(p)[0])), ('instruction_id_list', json.dumps(IDS[:i])), ('kwargs', json.dumps(list(map(json.dumps, ARGS[:i])))))}

def test_the_turns_that_the_script_wrote(tmp_path):
    published = {'key': '1:1:en', **turns_of('Tell me of the sea.', 'Shorter.', 'Again.'), 'language': 'English'} | {'turn_3_instruction_id_list': json.dumps(IDS), 'turn_3_kwargs': json.dumps(list(map(json.dumps, ARGS)))}
    said = ['The sea is salt, and it is wide, and it is deep.', 'Salt sea.', 'Sea.']
    steps = [published | {'turn_index': str(n), 'turns': json.dumps(chat(*[t for pair in zip(('Tell me of the sea.', 'Shorter.', 'Again.'), said) for t in pair][:2*n - 1])), 'responses': said[n - 1]} for n in (1, 2, 3)]
    for n, step in enumerate(steps, 1):
        q, = load('ifeval', kept(tmp_path/'x.jsonl', step)).instructions
        assert (len(q.messages), len(q.constraints), q.id) == (2*n - 1, min(n, 2), '1:1:en')
        assert score_record(step)['response'] == said[n - 1] and score_record(step)['strict'] == [True]*min(n, 2)
        if n < 3: assert load('ifeval', kept(tmp_path/'x.jsonl', step), turn=n + 1).instructions == load('ifeval', kept(tmp_path/'y.jsonl', steps[n])).instructions
    assert load('ifeval', kept(tmp_path/'x.jsonl', published), turn=1).instructions[0].messages == chat('Tell me of the sea.')
    for at in (2, 2.0, '2', '2.0'): assert load('ifeval', kept(tmp_path/'x.jsonl', steps[1] | {'turn_index': at})).instructions[0].task == 'Shorter.'
    for record, turn, says in ((published | {'turn_index': 'second'}, None, "'turn_index' must be a number"), (published, 2, 'holds no answers to the turns before turn 2; read the file'), (steps[0], 3, 'no answers'), (steps[2], 2, 'no answers'), (steps[1], 4, "'turn_4_prompt' must be a message")):
        with pytest.raises(DataError, match=says): load('ifeval', kept(tmp_path/'x.jsonl', record), turn=turn)
    with pytest.raises(DataError, match='has no turns.*leave out turn=2'): load('ifeval', kept(tmp_path/'x.jsonl', IFEVAL), turn=2)


def test_the_script_writes_tables_of_cells(tmp_path):
    record = {'key': '1:1:en', **turns_of('Tell me of the sea, please.', 'Shorter.'), 'turn_3_prompt': '', 'language': 'English', 'turn_index': '1', 'turns': json.dumps(chat('Tell me of the sea, please.')), 'responses': 'The sea,\nit is salt.'}
    with open(tmp_path/'step_1.csv', 'w', encoding='utf-8', newline='') as f:
        table = csv.DictWriter(f, list(record)); table.writeheader(); table.writerow(record)
    assert load('ifeval', tmp_path/'step_1.csv', turn=2).instructions == load('ifeval', kept(tmp_path/'x.jsonl', record), turn=2).instructions
    assert score_file(tmp_path/'step_1.csv', tmp_path/'out.jsonl')['strict'] == {'ila': 1, 'cla': 1}
    with pytest.raises(DataError, match="step_1.csv: row 0: field 'turn_3_prompt' must be a message; the record has fewer turns"): load('ifeval', tmp_path/'step_1.csv', turn=3)


# ---- RLVR-IFeval

UNUSED = dict.fromkeys(['N', 'quantifier', 'end_phrase', 'keyword_list', 'word', 'forbidden_words', 'letter', 'i', 'first_word', 'postscript_marker', 'options', 'section_splitter', 'original_prompt'])
GIVEN = {'N': 3, 'keyword_list': ['sea'], 'forbidden_words': ['sand'], 'word': 'sea', 'letter': 's', 'language': 'en', 'i': 1, 'first_word': 'sea', 'postscript_marker': 'P.S.', 'section_splitter': 'Part', 'original_prompt': 'Go.', 'end_phrase': 'The end'}

@pytest.mark.parametrize('func', [*_BY_NAME, *_COUNTED])
def test_every_function_is_read_and_scored(func, tmp_path):
    truth = UNUSED | GIVEN | {'func_name': func} | ({'quantifier': 'at least'} if func in _COUNTED and 'verify_k' not in func and 'letter' not in func else {})
    record = {'messages': chat('Go.'), 'ground_truth': json.dumps(truth), 'dataset': 'ifeval', 'constraint_type': 'x', 'constraint': 'x'}
    q, = load('iftrain', kept(tmp_path/'x.jsonl', record)).instructions
    assert {c.kind for c in q.constraints} == {(_BY_NAME | _COUNTED)[func][0]}
    assert len(score_record(record | {'response': 'Sea.'})['strict']) == len(q.constraints)

def test_exactly_is_neither_more_nor_fewer():
    found = in_truth(UNUSED | {'func_name': 'verify_keyword_frequency', 'word': 'sea', 'N': 2}, 'x')
    assert [all(verify(found, ' '.join(['sea']*n) + ' x')) for n in range(5)] == [False, False, True, False, False]

@pytest.mark.parametrize('func, said, says', [
    ('verify_keywords', '{"keyword_list": "sea, boat"}', 'write a list'),
    ('verify_keyword_frequency', '{"word": "sea", "N": 1e999}', "'N'"),
    ('verify_keyword_frequency', '{"word": "sea", "N": NaN}', "'N'"),
    ('verify_keyword_frequency', '{"word": "sea", "N": true}', "'N'")])
def test_a_wrong_argument_of_a_function_says_where(func, said, says):
    with pytest.raises(DataError) as e: in_truth(json.loads(said) | {'func_name': func}, 'x.jsonl:3')
    assert says in str(e.value) and str(e.value).startswith("x.jsonl:3: field 'ground_truth'")


def test_what_no_kind_says_is_refused(tmp_path):
    for func in ('verify_paragraph_count', 'validate_choice'):
        record = {'messages': chat('Go.'), 'ground_truth': json.dumps(UNUSED | {'func_name': func, 'N': 2, 'options': ['a']}), 'dataset': 'ifeval'}
        with pytest.raises(DataError, match=f"x.jsonl:1: field 'ground_truth': '{func}' .*leave the record out"): load('iftrain', kept(tmp_path/'x.jsonl', record))


# ---- answers

@pytest.mark.parametrize('name', ['ifeval', 'ifbench', 'muldimif'])
def test_what_is_saved_for_the_scripts_is_verified(name, tmp_path):
    kinds = {'ifeval': [FEW], 'ifbench': [Constraint('count:numbers', {'N': 0})], 'muldimif': [Constraint('muldimif:Length/Words', {'constraint': 'At most 8 words'})]}
    save(name, tmp_path/'asked.jsonl', [Instruction('Tell me of the sea.', kinds[name]), Instruction('And of the sand.', kinds[name])])
    data, out = load(name, tmp_path/'asked.jsonl'), tmp_path/'said.jsonl'
    save_responses(out, data, ['The sea is salt.', 'Sand is dry.'])
    report = score_file(out, tmp_path/'scored.jsonl') if name == 'muldimif' else score_file(tmp_path/'asked.jsonl', tmp_path/'scored.jsonl', responses=out)
    assert (report['records'], report['strict']) == (2, {'ila': 1, 'cla': 1})

def test_criteria_are_for_a_judge(tmp_path):
    save('cfbench', tmp_path/'asked.json', [Instruction('Greet.', [Constraint('judge:criterion', {'criterion': 'It is kind.'})])])
    save_responses(tmp_path/'said.json', load('cfbench', tmp_path/'asked.json'), ['Hello!'])
    with pytest.raises(DataError, match="said.json: record 0: field 'criteria' holds criteria in words, which no rule decides; ask a judge"): score_file(tmp_path/'said.json', tmp_path/'out.jsonl')

@pytest.mark.parametrize('record, found', [({'output': 'a'}, ['a']), ({'responses': ['a', 'b']}, ['a', 'b']), ({'conversations': chat('x', 'a')}, ['a']), ({'messages': chat('x')}, []), ({'response': None}, [None]),
                                           ({'doc': IFEVAL, 'resps': [['a'], ['b']]}, ['a', 'b']), ({'doc': IFEVAL, 'resps': [['raw']], 'filtered_resps': [['a', 'b']]}, ['a', 'b'])])
def test_answers_stand_in_many_places(record, found): assert answers_in(flattened(record, 'x'), 'x') == found

@settings(max_examples=60, deadline=None)
@given(st.text(min_size=1, max_size=40), st.integers(0, 2))
def test_a_line_with_a_list_of_records_is_a_file_as_well(text, n):
    import tempfile, pathlib
    path = pathlib.Path(tempfile.mkdtemp())/'x.jsonl'
    path.write_text('\n'*n + json.dumps([IFEVAL | {'response': text}]), encoding='utf-8')
    assert score_file(path, path.with_suffix('.out'))['records'] == 1
