"`hir ask` and `hir draw`, as a user meets them."
import json

import pytest

from hir.cli import main
from hir.constraints.verifier import check
from hir.files import shipped
from hir.instructions.instruction import load_instructions
from hir.instructions.synthesize import DRAWN_KINDS, witness

TOY = ('shipped:toy/start', '--max-new-tokens', 24)


def hir(*words):
    try: return main(list(map(str, words)))
    except SystemExit as e: return e.code


def test_every_answer_has_a_mark_for_every_constraint(capsys):
    assert hir('ask', *TOY, '-m', 3, '--data', shipped('toy/heldout.jsonl'), '--nth', 4) == 0
    q, said = load_instructions(shipped('toy/heldout.jsonl'))[3], capsys.readouterr().out
    assert said.replace('\n', ' ').startswith(q.prompt) and said.count('──\n') == 3
    marks = [line for line in said.splitlines() if line[:2] in ('✓ ', '✗ ')]
    assert len(marks) == 3*len(q) and all(str(q.constraints[i % len(q)]) in line for i, line in enumerate(marks))


def test_the_same_seed_gives_the_same_answers_and_greedy_ones_are_alike(capsys):
    def said(*more): assert hir('ask', *TOY, 'tell me about rivers .', '-c', 'toy:no_comma', '-m', 2, *more) == 0; return capsys.readouterr().out
    assert said() == said() != said('--seed', 1)
    one, two = said('--temperature', 0).split('── ')[1:]
    assert one.split('\n')[1:6] == two.split('\n')[1:6]


def test_two_policies_stand_side_by_side(tmp_path, capsys, monkeypatch):
    (tmp_path/'other').symlink_to(shipped('toy/start'))
    monkeypatch.setenv('COLUMNS', '120')
    assert hir('ask', *TOY, 'tell me about rivers .', '-c', 'toy:no_comma', '-m', 2, '--beside', tmp_path/'other') == 0
    names, *answers = capsys.readouterr().out.split('── ')
    rows = [line.split(' │ ') for part in answers for line in part.splitlines() if ' │ ' in line]
    assert len(answers) == 2 and len(rows) > 4 and all(len(' │ '.join(r)) <= 120 for r in rows)
    assert all(a.strip() == b.strip() for a, b in rows) and 'shipped:toy/start' in names and '│ ' in names


@pytest.mark.parametrize('words, says', [
    ([], 'needs a task'), (['x'], 'needs a constraint'), (['x', 'y', '-c', 'toy:no_comma'], "unknown argument 'y'"), (['x', '--data', 'f'], 'needs a task'), (['x', '-c', 'no:such'], 'unknown kind'),
    (['x', '-c', 'toy:at_least {n: 3}'], 'not valid JSON'), (['x', '-c', 'toy:at_least'], "argument 'n' is missing"),
    (['--data', 'gone.jsonl'], 'gone.jsonl'), (['--data', shipped('toy/heldout.jsonl'), '--nth', '9999'], 'not 9999'),
    (['--data', shipped('toy/heldout.jsonl'), '-c', 'toy:no_comma'], 'go with a task'),
    (['x', '-c', 'judge:criterion {"criterion": "Be friendly."}'], 'judge')])
def test_what_cannot_be_asked_is_said(words, says, capsys):
    assert hir('ask', *TOY, *words) in (1, 2)
    assert says in capsys.readouterr().err


def test_an_unknown_model_is_said_before_anything_is_loaded(capsys):
    assert hir('ask', 'no/such/folder', 'x', '-c', 'toy:no_comma') == 2 and 'no/such/folder' in capsys.readouterr().err


@pytest.fixture
def tasks(tmp_path):
    path = tmp_path/'tasks.jsonl'; path.write_text(''.join(json.dumps({'task': f'Describe a {w}.'}) + '\n' for w in 'boat barn tree'.split()))
    return path


def test_instructions_are_drawn_with_a_proof(tmp_path, tasks, capsys):
    words = ['draw', tasks, '-n', 12, '--of', 'keywords:', 'punctuation:no_comma', 'length_constraints:', '--low', 2, '--high', 3]
    assert hir(*words, '-o', tmp_path/'a.jsonl') == 0 and '12 instructions' in capsys.readouterr().out
    assert hir(*words, '-o', tmp_path/'b.jsonl') == 0 and hir(*words, '-o', tmp_path/'c.jsonl', '--seed', 1) == 0
    a, b, c = ((tmp_path/f'{x}.jsonl').read_text() for x in 'abc')
    assert a == b != c
    for q in load_instructions(tmp_path/'a.jsonl'):
        assert 2 <= len(q) <= 3 and all(c.kind in DRAWN_KINDS and c.kind.startswith(('keywords:', 'punctuation:', 'length')) for c in q.constraints)
        text = witness(q.constraints); assert all(check(c, text) for c in q.constraints)
    assert hir(*words, '-o', tmp_path/'d.jsonl', '--exclude', tmp_path/'a.jsonl') == 0
    seen = {(q.task, q.constraints) for q in load_instructions(tmp_path/'a.jsonl')}
    assert not seen & {(q.task, q.constraints) for q in load_instructions(tmp_path/'d.jsonl')}


@pytest.mark.parametrize('words, says', [
    (['--of', 'keyword:existence'], "'keyword:existence'"), (['--low', '5', '--high', '2'], ''), (['--of', 'punctuation:no_comma', '--low', '2'], 'fewer'),
    (['-n', '0'], 'at least 1')])
def test_what_cannot_be_drawn_is_said(tmp_path, tasks, words, says, capsys):
    assert hir('draw', tasks, '-o', tmp_path/'out.jsonl', *words) in (1, 2)
    assert says in capsys.readouterr().err and not (tmp_path/'out.jsonl').exists()


def test_the_tasks_are_never_overwritten(tasks, capsys):
    before = tasks.read_text()
    assert hir('draw', tasks, '-o', tasks) == 2 and 'overwrite' in capsys.readouterr().err and tasks.read_text() == before


def test_shipped_tasks_are_drawn_from_again_and_again(tmp_path, capsys):
    words = ['draw', 'shipped:smollm2/tasks.jsonl', '-n', 2, '--of', 'punctuation:no_comma', 'detectable_format:title', '-o', tmp_path/'out.jsonl']
    assert hir(*words) == 0 and hir(*words) == 0, capsys.readouterr().err
    assert hir('draw', tmp_path/'none.jsonl', '-o', tmp_path/'out.jsonl') == 2 and 'none.jsonl' in capsys.readouterr().err
