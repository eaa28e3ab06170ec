"Text from data is text wherever it is drawn: terminals, Markdown, figures, HTML."
import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import yaml

from hir.cli import main
from hir.constraints.constraint import Constraint
from hir.evaluation.plot import element, label, plot_history, show_rollout
from hir.evaluation.view import (Recorded, recorded_batch, replay_batch, show_batch, show_diff, show_explorer, show_replay, show_run,
                                 show_sample, show_tokens, show_verdicts)
from hir.export import model_card
from hir.instructions.instruction import Instruction
from hir.markup import code_block, code_span, no_math, visible
from hir.policies.rollout import Rollout
from hir.constraints.constraint import Verdict
from hir.replays.reward import original_rows
from hir.training.config import make_config, save_config
from hir.training.runlog import card, cut_cards

SLY = '\x1b[2J\x9b31m\r\x07<script>alert(1)</script>\n<!-- card of step 9 -->\n# End\n![](http://x/y.png)`|`\u202eabc'


# ---- terminals

@pytest.mark.parametrize('words', [['verify', SLY, '-o', 'x'], ['train', '--config', SLY], ['train', '--' + SLY, '1'], ['kinds', SLY], ['config', SLY],
                                   ['export', SLY, '-o', 'x'], ['eval', '--scored', SLY], ['methods', SLY.replace(':', '')]])
def test_no_control_character_of_an_argument_reaches_the_terminal(words, tmp_path):
    done = subprocess.run([sys.executable, '-m', 'hir', *words], capture_output=True, text=True, cwd=tmp_path,
                          env=dict(os.environ, PYTHONPATH=os.getcwd()))
    assert done.returncode and not re.search(r'[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]', done.stdout + done.stderr), done.stderr

def test_no_control_character_of_a_record_reaches_the_terminal(tmp_path, capsys):
    path = tmp_path/'a\x1b[31m.jsonl'
    path.write_text(json.dumps({'instruction_id_list': ['no:such\x1b[2J'], 'kwargs': [{}], 'prompt': 'x', 'response': 'y'}))
    assert main(['verify', str(path), '-o', str(tmp_path/'out\x07.jsonl')]) == 2
    out, err = capsys.readouterr()
    assert '\x1b' not in out + err and r'\x1b' in err

def test_what_scripts_need_stays(): assert visible('né\t漢字\n👩‍👧 \u200fשלום') == 'né\t漢字\n👩‍👧 \u200fשלום'


# ---- Markdown

def rows():
    q = Instruction(SLY, [Constraint('punctuation:no_comma'), Constraint('keywords:existence', {'keywords': [SLY]})])
    return original_rows([Rollout(q, SLY, (1,), (2,), (0.,), (0.,), True, 0, 0, Verdict([True, False]))])

def loose(markdown):
    "The lines of a Markdown text that are not code."
    return re.sub(r'(`+)(?!`).*?(?<!`)\1(?!`)', '', '\n'.join(l for l in markdown.split('\n') if not l.startswith('    ')))

def test_a_card_is_structure_and_text_is_code(tmp_path):
    made = card(rows(), 3)
    assert not re.search(r'<script|# End|!\[|\x1b|\r|\u202e', loose(made)) and loose(made).count('<!--') == 1
    path = tmp_path/'cards.md'; path.write_text(card(rows(), 3) + card(rows(), 5))
    cut_cards(path, 4)
    assert path.read_text() == made

@pytest.mark.parametrize('text', [SLY, '', '`', '``a`', ' x ', 'a\nb', '|', '\r<b>', '\u2028<b>', '    x', '\t\t- x'])
def test_code_stays_code(text):
    span, block = code_span(text), code_block(text)
    ticks = re.match('`+', span)[0]
    assert span.endswith(ticks) and ticks not in span[len(ticks):-len(ticks)].strip(' ').strip('`') and '\n' not in span and '|' not in span
    assert all(l.startswith('    ') for l in block.split('\n')) and not re.search('[\r\x0b\x0c\x85\u2028\u2029]', block)

def test_the_model_card_shows_settings_as_code(tmp_path):
    cfg = make_config({'model': SLY.replace('\n', ' '), 'train': SLY, 'judge': SLY, 'heldout': SLY, 'chat': json.dumps({'x': SLY})})
    save_config(cfg, tmp_path/'config.yaml')
    made = model_card(tmp_path, 'a<b>', 1)
    front, rest = made.split('---\n')[1:][0], made.split('---\n', 2)[2]
    yaml.safe_load(front)
    assert not re.search(r'<script|# End|!\[|\x1b|\r|\u202e|<b>', loose(re.sub(r'```.*?```', '', rest, flags=re.S)))


# ---- figures and HTML

def test_a_metric_may_be_called_anything():
    import matplotlib.pyplot as plt
    history = [{'step': s, 'ila': 0., 'cla': 0., r'$\bad$': s, 'kind/$x_': s} for s in (1, 2)]
    for names in (r'$\bad$', [r'$\bad$', 'kind/$x_']): plot_history(history, names).figure.canvas.draw()
    show_run(history, [], r'$\bad$'); plt.close('all')
    assert label(r'$\bad$') == no_math(r'$\bad$') == r'\$\bad\$'

def sly_batch():
    "The recorded batch, its tasks and responses written by a stranger."
    batch, tokenizer = recorded_batch()
    sly = [replace(r, response=SLY + r.response, instruction=replace(r.instruction, task=SLY + r.instruction.task)) for r in batch.rollouts]
    return Recorded(sly, batch.hindsight), tokenizer

def in_replay():
    batch, tokenizer = sly_batch(); done = replay_batch(batch, tokenizer)
    return show_replay(batch, tokenizer, done, next(iter(done.chosen), 0))

VIEWS = {'batch': lambda: show_batch(replay_batch(*sly_batch()), 0), 'replay': in_replay, 'explorer': lambda: show_explorer(*sly_batch()),
         'rollout': lambda: show_rollout(rows()[0]), 'verdicts': lambda: show_verdicts(rows()[0].rollout.instruction.constraints, SLY, 1),
         'diff': lambda: show_diff(SLY, SLY + ' x'), 'tokens': lambda: show_tokens([SLY], [1.]), 'sample': lambda: show_sample(SLY),
         'run': lambda: show_run([{'step': 1, 'ila': 0., 'cla': 0., SLY: 0.}], [], SLY)}

@pytest.mark.parametrize('view', VIEWS)
def test_html_of_a_text_is_escaped(view):
    found = VIEWS[view]()
    assert '<script' not in found._repr_html_()
    assert element('b', '<i>') == '<b>&lt;i&gt;</b>'


# ---- templates of a model

@pytest.mark.parametrize('escape', ["{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ messages.__init__.__globals__ }}", "{{ cycler.__init__.__globals__.os.system('touch hit') }}",
                                    "{{ self._TemplateReference__context }}{{ lipsum.__globals__['os'].system('touch hit') }}"])
def test_a_chat_template_stays_in_its_sandbox(tmp_path, monkeypatch, escape):
    from hir.files import shipped
    from hir.policies.policy import encode_chat, load_policy
    monkeypatch.chdir(tmp_path)
    tokenizer = load_policy(shipped('toy/start'))[1]
    tokenizer.chat_template = escape
    try: assert not encode_chat(tokenizer, 'Write.') or 'os' not in tokenizer.decode(encode_chat(tokenizer, 'Write.'))
    except Exception as e: assert 'unsafe' in str(e) or 'undefined' in str(e) or 'cannot be used' in str(e)
    assert not list(tmp_path.iterdir())
