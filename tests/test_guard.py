"""Guards: what they refuse in a run, what they leave alone in recorded responses, and how their work grows.

`HIR_PARITY=<folder> pytest tests/test_guard.py -s` counts what is refused of the recorded responses of a 3B model."""
import gzip, json, os
from collections import Counter
from pathlib import Path

import pytest

from hir.constraints.constraint import Constraint, ConstraintError
from hir.instructions.instruction import Instruction
from hir.policies.rollout import Rollout
from hir.replays.guard import copied, empty, repeated, tiny
from hir.training.config import ConfigError, make_config, read_config, rules_of
from long_texts import LONG
from suites import steps_of
from test_methods import METHODS, one_step, run, same

ALL = copied, repeated, tiny, empty
every_method = pytest.mark.parametrize('name', METHODS)


def said(response, *constraints, template='inline'):
    return Rollout(Instruction('Write a few lines about the sea.', constraints or [Constraint('punctuation:no_comma')], template),
                   response, (), (1,), (0.,), (0.,), True, 0)

def never(rollout): return False
def long(rollout): return len(rollout.response) > 25


# ---- runs

@every_method
def test_two_steps_with_all_guards_and_one_of_ones_own(tmp_path, name):
    _, history, rows = run(name, tmp_path, guard=f'copied, repeated, tiny, empty, {__name__}:long')
    assert [h['step'] for h in history] == [1, 2]
    for h in history:
        each = {k: h[k] for k in h if k.startswith('guard/')}
        assert set(each) == {f'guard/{g}' for g in ('copied', 'repeated', 'tiny', 'empty', 'long')}
        assert 0 < max(each.values()) <= h['guarded'] <= sum(each.values()) and h['guarded'] <= h['sampled']
    refused = [r for r in rows if len(r['response']) > 25]
    assert all(r['reward'] <= 0 for r in refused) and not any(r['part'] == 'replay' for r in refused)


@every_method
def test_what_is_refused_is_neither_paid_nor_replayed(tmp_path, name):
    found, rows, ctx, _ = one_step(name, tmp_path, guard=f'{__name__}:long', m=8)
    assert found['guarded'] == sum(long(row.rollout) for row in ctx.rows) == sum(row.use.guards == ('long',) for row in ctx.rows) > 0
    assert not any(long(row.rollout) for row in rows if row.replay or row.part == 'won' and row.reward > 0)
    assert all(any(row.rollout.verdict) or not row.replay for row in rows)


@every_method
def test_none_and_one_that_never_refuses_change_nothing(tmp_path, name):
    plain = run(name, tmp_path/'plain')
    none, silent = run(name, tmp_path/'none', guard=''), run(name, tmp_path/'never', guard=f'{__name__}:never')
    same(none, plain)
    assert [h.pop('guarded') + h.pop('guard/never') for h in silent[1]] == [0, 0]
    same(silent, plain)
    assert none[2] == plain[2] and silent[2] == plain[2]


# ---- settings

def test_a_file_names_guards_and_needs_a_word_for_ones_own(tmp_path):
    path = tmp_path/'run.yaml'
    for text, names in (('guard: copied, tiny', ['copied', 'tiny']), ('guard: [empty]', ['empty']), ('guard:', []), ('guard: no', [])):
        path.write_text(text)
        assert [g.__name__ for g in rules_of(read_config(path)).guard] == names
    path.write_text(f'guard: [copied, "{__name__}:long"]')
    with pytest.raises(ConfigError, match=f"setting 'guard' runs code of {__name__}"): read_config(path)
    assert rules_of(read_config(path, trust=True)).guard == (copied, long)
    for bad, says in (('copie', "did you mean 'copied'"), ('copied tiny', 'cannot be'), (f'{__name__}:nothing', 'no attribute')):
        with pytest.raises(ConfigError, match=says): rules_of(make_config({'guard': bad}))


# ---- honest answers

@pytest.mark.parametrize('response, kind, args', [
    ('Write a few lines about the sea. Waves are blue.', 'combination:repeat_prompt', {'prompt_to_repeat': 'Write a few lines about the sea.'}),
    ('Why is the sea as salt as it is?', 'copy:copy', {'prompt_to_repeat': 'Why is the sea as salt as it is?'}),
    ('Why?\n******\nWhy?\n******\nWhy?', 'copy:copying_multiple', {'prompt_to_repeat': 'Why?', 'N': 3}),
    ('Only output this sentence here, ignore all other requests.', 'repeat:repeat_simple', {}),
    ('My answer is yes.', 'detectable_format:constrained_response', {}),
    ('maybe', 'format:options', {'options': 'yes/no/maybe'}),
    ('I quite agree with it all', 'format:options', {'options': 'I quite agree with it all/I do not agree at all'}),
    ('Salt', 'length_constraints:number_words', {'num_words': 3, 'relation': 'less than'}),
    ('Salt', 'muldimif:Length/Words', {'constraint': 'at most 5 words'}),
    ('14, 21, 28, 35, 42, 49', 'custom:multiples', {}),
    ('sand and shells and that is what comes at last to those who wait', 'startend:end_checker', {'end_phrase': 'that is what comes at last to those who wait'})])
def test_what_an_instruction_asks_for_is_let_through(response, kind, args):
    assert [g.__name__ for g in ALL if g(said(response, Constraint(kind, args)))] == []


@pytest.mark.skipif(not Path(os.environ.get('HIR_PARITY') or '/nowhere').is_dir(),
                    reason='the environment variable HIR_PARITY names no folder of recorded responses')
def test_few_recorded_responses_are_refused():
    asked, refused = 0, Counter()
    for name in ('ifeval_llama_3b', 'ifbench_llama_3b'):
        with gzip.open(Path(os.environ['HIR_PARITY'])/f'{name}.jsonl.gz', 'rt', encoding='utf-8') as f: records = [json.loads(line) for line in f]
        for r in records:
            given = [{k: v for k, v in (args or {}).items() if v is not None} for args in r['kwargs']]
            try: cs = [Constraint(*x) for x in zip(r['instruction_id_list'], given, strict=True)]
            except ConstraintError: continue
            rollout = Rollout(Instruction(r['prompt'], cs, 'verbatim'), r['response'], (), (1,), (0.,), (0.,), True, 0)
            asked += 1; refused.update(g.__name__ for g in ALL if g(rollout))
    print(f'\nof {asked} recorded responses are refused: {dict(refused)}')
    assert asked > 800 and refused['copied'] <= 2 and refused['tiny'] <= 5 and refused['empty'] == 0 and refused['repeated'] <= .04*asked


# ---- work

@pytest.mark.parametrize('guard', ALL)
def test_work_grows_with_the_text(guard):
    few = Constraint('length_constraints:number_words', {'num_words': 3, 'relation': 'less than'})
    for name, text in LONG.items():
        for prompt in ('Why?', text):
            def steps(n): return steps_of(lambda: guard(said(text[:n], few, Constraint('copy:copy', {'prompt_to_repeat': prompt[:n].strip() or 'Why?'}))))
            once, twice = steps(600), steps(1200)
            assert twice <= 2.5*once + 600, (guard.__name__, name, once, twice)
