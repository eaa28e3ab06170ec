"""Two readings, official and meant, and the answer behind the thinking, wherever a verdict is given: a function, a file, a
step, an evaluation, a command. `test_meant_….py` has the kinds."""
import json
from dataclasses import replace

import pytest

from hir.cli import main
from hir.constraints.constraint import Constraint, ConstraintError, kinds, meant
from hir.constraints.verifier import check, check_loose, departures, split_thinking, verify, verify_both
from hir.evaluation.evaluate import evaluate, evaluation_text
from hir.evaluation.suite import differences, read_scored
from hir.files import DataError, shipped
from hir.instructions.instruction import Instruction, load_instructions
from hir.instructions.scoring import score_record
from hir.policies.engines.hf import HFEngine
from hir.policies.policy import load_policy
from hir.policies.rollout import load_rollouts, save_rollouts, without_trace
from hir.recipes import training_data
from hir.replays.reward import score
from hir.replays.rewrite import achieved, hindsight, replay
from hir.training.config import ConfigError, make_config
from test_methods import one_step, settings

CAPITALS = Constraint('change_case:english_capital')                # official: a guess of the language, too
SHOUTED = 'ON MONDAY I MET DR. OTTO BAUER IN BERLIN.'
SMILE = Constraint('keywords:existence', {'keywords': [':)']})      # official: a pattern, and none


def record(response, *constraints, **more):
    return dict(prompt='Say it.', response=response, instruction_id_list=[c.kind for c in constraints],
                kwargs=[c.args for c in constraints], **more)


def lines(path, *records): path.write_text(''.join(json.dumps(r) + '\n' for r in records)); return path


def hir(*words):
    try: return main(list(map(str, words)))
    except SystemExit as e: return e.code


# ---- one verdict

def test_official_is_the_default_of_every_function():
    assert not check(CAPITALS, SHOUTED) and check(CAPITALS, SHOUTED, 'meant')
    assert not check_loose(CAPITALS, SHOUTED) and check_loose(CAPITALS, SHOUTED, 'meant')
    assert verify([CAPITALS], SHOUTED).ok == (False,) and verify([CAPITALS], SHOUTED, reading='meant').ok == (True,)
    assert [v.ok for v in verify_both([CAPITALS], SHOUTED, 'meant')] == [(True,), (True,)]
    assert score_record(record(SHOUTED, CAPITALS))['strict'] == [False]
    assert score_record(record(SHOUTED, CAPITALS), 'meant') | {'reading': 'x'} == score_record(
        record(SHOUTED, CAPITALS)) | {'strict': [True], 'loose': [True], 'reading': 'x'}


def test_what_official_code_cannot_run_is_refused_there_and_read_as_text_otherwise():
    with pytest.raises(ConstraintError, match=r"keywords:existence.*':\)'.*reading 'meant'"): check(SMILE, 'hi :)')
    assert check(SMILE, 'hi :)', 'meant') and not check(SMILE, 'hi', 'meant')
    with pytest.raises(DataError, match='the record: keywords:existence'): score_record(record('hi', SMILE))
    assert score_record(record('hi :)', SMILE), 'meant')['strict'] == [True]


def test_every_departure_parts_the_readings():
    rows = departures()
    assert len(rows) > 20 and {row[0] for row in rows} <= set(kinds())
    for id, what, text, args, official, other in rows: assert official != other, (id, what, text)
    for id, k in kinds().items(): assert bool(k.meant) == bool(k.departs), id


def test_a_second_check_has_the_arguments_of_the_first():
    with pytest.raises(ConstraintError, match='second check takes'): meant('keywords:existence', ('x', 'y'))(lambda response: True)


# ---- thinking

TRACES = {'<think>a, b</think>c': 'c', '\n<think>\na, b\n</think>\n\nc': 'c', 'a, b</think>c': 'c', '<think></think>c': 'c',
          '<think>a</think><think>, b</think>c': 'c', '<think>a, b': '', '<think>a, b</think>': '', 'c': 'c', '': '',
          'c <think>d</think>': 'c <think>d</think>', '<think>a <think>, </think>c': 'c'}


@pytest.mark.parametrize('text', TRACES)
def test_the_answer_is_what_comes_after_the_trace(text):
    assert split_thinking(text)[1] == TRACES[text] and split_thinking(text, 'keep') == ('', text, True)
    comma, short = Constraint('punctuation:no_comma'), Constraint('muldimif:Length/Words', {'constraint': 'at most 3 words'})
    for reading in ('official', 'meant'):
        assert verify([comma], text, reading=reading).ok == (bool(TRACES[text]),)
        if text[:6] == '<think' and not TRACES[text] and '</' not in text:
            assert verify([short], text, reading=reading).ok == (False,)         # no answer at all, not a blank one
        for v, c in zip(verify_both([comma, short], text, reading), (check, check_loose)):
            assert v == verify([comma, short], text, c, reading)


def test_long_traces_take_linear_time():
    for piece in ('<think>', '</think>', '<think></think>', '<think>a</think> ', 'a</think>', '<think', ' '):
        text = piece*(100_000//len(piece))
        assert ''.join(split_thinking(text)[:2]).replace(' ', '') == text.replace(' ', '')


@pytest.mark.parametrize('bad', ['', ',', 'a,,b', 'a b c', '[T] [/T], '])
def test_odd_tags_are_refused_everywhere(bad, capsys):
    with pytest.raises(ValueError, match='thinking'): verify([CAPITALS], 'x', thinking=bad)
    with pytest.raises(ConfigError, match='thinking'): make_config({'thinking': bad})
    assert hir('verify', 'x', '-o', 'y', '--thinking', bad) == 2 and 'cut, keep' in capsys.readouterr().err


# ---- rollouts, rewards, replays

@pytest.fixture(scope='module')
def toy(): return load_policy(shipped('toy/start'))


@pytest.fixture(scope='module')
def rollout(toy):
    q = Instruction('Shout.', [CAPITALS, Constraint('length_constraints:number_words', {'num_words': 50, 'relation': 'at least'})])
    drawn = HFEngine(*toy, max_new_tokens=8).generate(load_instructions(shipped('toy/heldout.jsonl'))[:1], 1, seeds=0)[0]
    return replace(drawn, instruction=q, response=SHOUTED)


def test_a_reward_is_by_meaning_and_a_replay_by_the_reading_of_its_verdict(toy, rollout):
    (ours,), (theirs,) = score([rollout]), score([rollout], reading='official')
    assert (ours.verdict.ok, ours.reading, theirs.verdict.ok, theirs.reading) == ((True, False), 'meant', (False, False), 'official')
    from hir.replays.reward import original_rows
    (again,) = [replay(row, toy[1]) for row in original_rows([ours])]
    assert list(again.rollout.instruction.constraints) == [CAPITALS] and again.rollout.verdict.ok == (True,)
    assert replay(original_rows([theirs])[0], toy[1]) is None
    assert hindsight(ours.instruction, SHOUTED, ours.verdict) is not None


def test_what_was_achieved_is_found_by_the_same_reading(toy):
    "Official code counts a contraction as two words."
    at_least = Constraint('length_constraints:number_words', {'num_words': 9, 'relation': 'at least'})
    by_meaning = achieved(at_least, "don't go", lambda c, text: check(c, text, 'meant'))
    assert (by_meaning.args['num_words'], achieved(at_least, "don't go").args['num_words']) == (2, 3)


def test_the_trace_stays_beside_the_answer_and_in_the_tokens(tmp_path, rollout):
    thought = replace(rollout, response=f'<think>Loud, then.</think>\n{SHOUTED}')
    (found,) = score([thought])
    assert (found.response, found.trace, found.ids, found.stopped) == (SHOUTED, '<think>Loud, then.</think>', thought.ids, thought.stopped)
    assert score([thought], thinking='keep')[0].response == thought.response
    assert without_trace(found) is found
    unended = score([replace(thought, response='<think>LOUD', stopped=True)])[0]
    assert (unended.response, unended.stopped, unended.verdict.ok) == ('', False, (False, False))
    save_rollouts(tmp_path/'r.jsonl', [found, rollout])
    assert load_rollouts(tmp_path/'r.jsonl') == [found, rollout]
    assert 'trace' not in json.loads((tmp_path/'r.jsonl').read_text().splitlines()[1])


class Thinking(HFEngine):
    "Thinks aloud, with commas, before it answers; every third thought never ends."
    def generate(self, *a, **k):
        return [replace(r, response=f'<think>, {r.response}' + ('</think>' + r.response)*bool(i % 3))
                for i, r in enumerate(super().generate(*a, **k))]


def test_a_step_sees_the_answer_alone(tmp_path):
    found, rows, ctx, _ = one_step('hir', tmp_path, engine=Thinking, m=6)
    lost = [row for row in ctx.rows if not row.rollout.response]
    assert len(lost) >= len(ctx.rows)/3 and all(not any(row.rollout.verdict) and not row.rollout.stopped for row in lost)
    assert all('<think>' not in row.rollout.response and row.rollout.trace for row in ctx.rows)
    assert found['truncated'] >= 1/3 and found['cla'] > .1
    kept, *_ = one_step('hir', tmp_path, engine=Thinking, m=6, thinking='keep')
    assert kept['kind/toy:no_comma'] == 0 < found['kind/toy:no_comma'] and kept['truncated'] < 1/3


def test_an_evaluation_sees_the_answer_alone_and_says_the_reading(toy):
    qs = load_instructions(shipped('toy/heldout.jsonl'))[:4]
    plain, thinks = (evaluate(make(*toy, max_new_tokens=24), qs, 3, greedy=False) for make in (HFEngine, Thinking))
    both = [(a.verdict, b.verdict) for a, b in zip(plain.rollouts, thinks.rollouts)]
    assert all(a == b for i, (a, b) in enumerate(both) if i % 3) and not any(any(b) for _, b in both[::3])
    assert 'reading: meant' in evaluation_text(plain)
    assert 'reading: official' in evaluation_text(evaluate(HFEngine(*toy, max_new_tokens=8), qs, 1, greedy=False, reading='official'))


# ---- files, commands, runs

def test_verify_says_the_reading_and_eval_does_not_mix_them(tmp_path, capsys):
    data = lines(tmp_path/'in.jsonl', record(SHOUTED, CAPITALS), record(f'<think>x</think>{SHOUTED}', CAPITALS, key=2))
    for reading, share in (('official', 0.), ('meant', 1.)):
        words = () if reading == 'official' else ('--reading', reading)
        assert hir('verify', data, '-o', tmp_path/f'{reading}.jsonl', '--report', tmp_path/'r.json', '--workers', 2, *words) == 0
        assert f'reading: {reading}' in capsys.readouterr().out
        report = json.loads((tmp_path/'r.json').read_text())
        assert (report['reading'], report['strict']['ila']) == (reading, share)
        assert {json.loads(l)['reading'] for l in open(tmp_path/f'{reading}.jsonl')} == {reading}
    scored = [read_scored(tmp_path/f'{r}.jsonl') for r in ('official', 'meant')]
    assert [s.reading for s in scored] == ['official', 'meant']
    with pytest.raises(DataError, match='official.*meant'): differences(*scored)
    assert hir('eval', '--scored', tmp_path/'official.jsonl', tmp_path/'meant.jsonl') == 2
    both = tmp_path/'both.jsonl'; both.write_text((tmp_path/'official.jsonl').read_text() + (tmp_path/'meant.jsonl').read_text())
    with pytest.raises(DataError, match='both.jsonl:3: is by another reading'): read_scored(both)


def test_a_refused_record_is_named_with_its_line(tmp_path, capsys):
    data = lines(tmp_path/'in.jsonl', record('hi', CAPITALS), record('hi :)', SMILE, key=2))
    assert hir('verify', data, '-o', tmp_path/'out.jsonl') == 2
    said = capsys.readouterr().err
    assert 'in.jsonl:2' in said and 'keywords:existence' in said and "'meant'" in said and not (tmp_path/'out.jsonl').exists()
    assert hir('verify', data, '-o', tmp_path/'out.jsonl', '--reading', 'meant') == 0


def test_a_run_is_by_meaning_unless_it_says_otherwise(tmp_path):
    cfg = settings('hir', tmp_path, cpu=True)
    assert (cfg.reading, cfg.thinking) == ('meant', 'cut')
    with pytest.raises(ConfigError, match="reading"): make_config({'reading': 'loose'})
    own = tmp_path/'own.jsonl'
    lines(own, {'task': 'Smile.', 'constraints': [{'kind': SMILE.kind, 'args': SMILE.args}]})
    assert len(training_data(own)[0]) == 1
    with pytest.raises(DataError, match='own.jsonl: instruction 1: keywords:existence.*reading: meant'): training_data(own, reading='official')


def test_the_logs_of_a_run_name_the_reading(tmp_path):
    found, rows, ctx, _ = one_step('hir', tmp_path, reading='official')
    assert {row.rollout.reading for row in rows} == {'official'}
    from hir.training.runlog import records_of_rows
    from hir.training.batch import collate
    assert {r['reading'] for r in records_of_rows(rows, 1, collate(rows, 0))} == {'official'}


def test_hir_kinds_says_where_the_official_check_departs(capsys):
    assert hir('kinds', 'change_case:english_capital') == 0
    said = capsys.readouterr().out
    assert 'departs' in said and 'official ✗, meant ✓' in said
