"Instructions of several messages, from the file to the row that is learned."
from dataclasses import replace

import pytest
from hypothesis import given, settings, strategies as st

from changed import dotted
from hir.cli import main
from hir.constraints.constraint import Constraint
from hir.files import shipped
from hir.instructions.instruction import TEMPLATES, Instruction, Message, load_instructions, save_instructions
from hir.policies.engines.hf import HFEngine
from hir.policies.policy import PolicyError, encode_chat, load_policy
from hir.policies.rollout import Prompt, load_rollouts, save_rollouts
from hir.replays.guard import copied
from hir.replays.reward import original_rows, score
from hir.replays.rewrite import RewriteError, hindsight, replay
from hir.training.config import make_config
from hir.training.runlog import read_log
from hir.training.trainer import TrainingError, check_data, fit

HEARD = [Message('system', 'be kind .'), Message('user', 'write about rain .'), Message('assistant', 'rain falls .')]
SAID = load_instructions(shipped('toy/train.jsonl'))


def talks(n=4):
    "Toy instructions whose first constraint is the system's and whose second was said in an earlier turn."
    return [replace(q, earlier=HEARD, constraints=[replace(c, turn=i if i < 2 else None) for i, c in enumerate(q.constraints)])
            for q in SAID if len(q) > 2][:n]


@pytest.fixture(scope='module')
def toy(): return load_policy(shipped('toy/start'))


# ---- worded, rewritten, kept

@settings(deadline=None)
@given(st.integers(0, 3), st.sampled_from(sorted(set(TEMPLATES) - {'verbatim'})), st.data())
def test_a_demand_leaves_the_message_it_stands_in_and_no_other(nth, template, data):
    q = talks()[nth]
    turns = data.draw(st.lists(st.sampled_from([None, 0, 1]), min_size=len(q), max_size=len(q)))
    q = replace(q, template=template, earlier=[replace(m, template=template) for m in HEARD],
                constraints=[replace(c, turn=t, text=f'demand {i} .') for i, (c, t) in enumerate(zip(q.constraints, turns))])
    keep = data.draw(st.lists(st.booleans(), min_size=len(q), max_size=len(q)))
    new = hindsight(q, 'x', keep, check=lambda c, r: True)
    assert (new is None) == (not any(keep))
    if new is None: return
    for i, (ok, turn) in enumerate(zip(keep, turns)):
        held = [f'demand {i} .' in m['content'] for m in new.messages]
        assert held == [ok and at == (3 if turn is None else turn) for at in range(4)]
    assert [m['role'] for m in new.messages] == [m['role'] for m in q.messages]


def test_a_file_keeps_what_was_said_before(tmp_path):
    save_instructions(tmp_path/'q.jsonl', talks())
    assert load_instructions(tmp_path/'q.jsonl') == talks()


def test_a_message_that_cannot_be_taken_apart_stops_the_rewrite():
    q = replace(talks()[0], earlier=[replace(HEARD[0], template='verbatim'), *HEARD[1:]])
    with pytest.raises(RewriteError, match='system: be kind'): hindsight(q, 'x', [True]*len(q))
    free = replace(q, constraints=[c for c in q.constraints if c.turn != 0])      # it holds none: nothing to take out
    assert hindsight(free, 'x', [True]*len(free)).messages == free.messages
    cfg = make_config(dotted(model=str(shipped('toy/start'))))
    with pytest.raises(TrainingError, match='verbatim'): check_data(cfg, [q])


# ---- sampled, verified, replayed

def test_the_model_reads_the_chat_and_a_replay_the_rewritten_one(toy, tmp_path):
    model, tokenizer = toy
    drawn = score(HFEngine(model, tokenizer, max_new_tokens=8).generate(talks(), m=4, seeds=0))
    for r in drawn: assert list(r.prompt_ids) == encode_chat(tokenizer, r.instruction.messages)
    save_rollouts(tmp_path/'r.jsonl', drawn)
    assert load_rollouts(tmp_path/'r.jsonl') == drawn
    partial = [row for row in original_rows(drawn) if row.rollout.verdict.partial]
    assert partial
    for row in partial:
        new = replay(row, tokenizer).rollout
        assert list(new.prompt_ids) == encode_chat(tokenizer, new.instruction.messages) and all(new.verdict)
        assert [m['role'] for m in new.instruction.messages] == ['system', 'user', 'assistant', 'user']


def test_a_prompt_of_its_own_messages_is_told_from_the_instruction():
    q = talks()[0]
    assert Prompt(q).messages == q.messages and Prompt(q, [{'role': 'user', 'content': 'x'}]).messages != q.messages


def test_copying_the_system_prompt_is_copying(toy):
    long = Message('system', 'You are a kind and careful helper who answers in plain words about the sea and its ships.')
    q = Instruction('Write.', [Constraint('punctuation:no_comma')], earlier=[long])
    r = HFEngine(*toy, max_new_tokens=2).generate([q], m=1, seeds=0)[0]
    assert copied(replace(r, response=long.text)) and not copied(replace(r, response='The sea is wide and nobody knows its end.'))


def test_a_judge_reads_what_was_said_before():
    asked = []
    class Judged: ok = [True]
    soft = Instruction('And tea?', [Constraint('judge:criterion', {'criterion': 'Be friendly.'}, turn=0)], earlier=[Message('system', 'Be brief.')])
    from hir.policies.rollout import Rollout
    r = Rollout(soft, 'Hello.', (1,), (2,), (-1.,), (1.,), True, 0)
    score([r], judge=lambda items: asked.extend(items) or Judged)
    assert [task for task, _, _ in asked] == ['system: Be brief.\n\nuser: And tea?']


# ---- trained, by every method

PROMPTING = ['coh', 'dpo', 'herl', 'hir', 'leti', 'phf', 'sdpo', 'sft', 'xpo']     # that word prompts, and some that do not


@pytest.mark.parametrize('method', PROMPTING)
def test_methods_learn_from_conversations(method, tmp_path, toy):
    model, tokenizer = load_policy(shipped('toy/start'))
    cfg = make_config(dotted(model=str(shipped('toy/start')), out=str(tmp_path), batch=2, m=4, steps=2, max_new_tokens=8,
                             method=method, cpu=True, lr=1e-3))
    before = model.get_input_embeddings().weight.detach().clone()
    fit(cfg, model, tokenizer, talks(), progress=False)
    assert not model.get_input_embeddings().weight.equal(before)
    logged = read_log(tmp_path/'rollouts.jsonl')
    assert logged and all(x['prompt'].startswith('system: be kind .') for x in logged)
    for x in logged:
        if x['replay']: assert x['replay']['prompt'].startswith('system: be kind .')


def test_a_template_that_refuses_a_system_prompt_says_so_before_the_run(tmp_path):
    model, tokenizer = load_policy(shipped('toy/start'))
    tokenizer.chat_template = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}x"
    cfg = make_config(dotted(model=str(shipped('toy/start')), out=str(tmp_path/'run'), batch=2, m=2, steps=1, max_new_tokens=4, cpu=True))
    with pytest.raises(PolicyError, match='for roles system, user, assistant, user: System role not supported'):
        fit(cfg, model, tokenizer, [*SAID[:40], talks()[0]], progress=False)       # one among many short ones


# ---- seen

def test_ask_takes_a_system_prompt(capsys, tmp_path):
    start = str(shipped('toy/start'))
    main(['ask', start, 'write about cats .', '-c', 'punctuation:no_comma', '--system', 'be kind .', '-m', '1', '--max-new-tokens', '4', '--cpu'])
    assert capsys.readouterr().out.startswith('system: be kind .\n\nuser: write about cats . ')
    save_instructions(tmp_path/'q.jsonl', talks())
    main(['ask', start, '--data', str(tmp_path/'q.jsonl'), '-m', '1', '--max-new-tokens', '4', '--cpu'])
    said = capsys.readouterr().out
    assert 'assistant: rain falls .' in said and said.count('✓') + said.count('✗') >= len(talks()[0])
    assert main(['ask', start, '--data', str(tmp_path/'q.jsonl'), '--system', 'x', '--cpu'])
    assert '--constraint and --system go with a task' in capsys.readouterr().err
