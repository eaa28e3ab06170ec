"The widgets in JupyterLab, in a real browser: every control is moved, no console error, screenshots are kept."
import time
from pathlib import Path
import pytest

SHOTS = Path(__file__).resolve().parents[2]/'runs'/'screenshots'


@pytest.fixture(scope='module')
def page(open_notebook):
    "The guide with the widgets."
    notebook = open_notebook('howto/play.ipynb')
    yield notebook.page
    notebook.close()


def shot(page, name): page.screenshot(path=str(SHOTS/f'{name}.png'))

def widget(page, heading):
    "The output of the first cell with a widget below a heading."
    return page.locator('.jp-Cell', has=page.locator('.jupyter-widgets')).nth(dict(lab=0, explorer=1, monitor=2)[heading])

def changes(page, box, act):
    "Do `act`; the HTML of the widget must change; seconds it took."
    before, start = box.inner_html(), time.perf_counter()
    act()
    for _ in range(200):
        if box.inner_html() != before: return time.perf_counter() - start
        page.wait_for_timeout(25)
    raise AssertionError('nothing changed')


def test_three_widgets_are_there(page):
    assert page.locator('.jp-Cell', has=page.locator('.jupyter-widgets')).count() == 3


def test_constraint_lab_answers_while_typing(page):
    box = widget(page, 'lab'); box.scroll_into_view_if_needed(); card = box.locator('.widget-html-content').last
    area = box.locator('textarea'); area.fill('')
    took = changes(page, card, lambda: area.press_sequentially('no marks, yet', delay=20))
    assert 'highlighted' in card.inner_text() or 'whole text' in card.inner_text()
    changes(page, card, lambda: box.locator('select').nth(1).select_option(index=1))        # look at another one
    changes(page, card, lambda: box.locator('select').nth(0).select_option(index=[0, 1, 2]))   # check fewer
    page.wait_for_function('e => e.querySelectorAll("tr").length == 4', arg=card.element_handle())
    shot(page, 'constraint_lab'); print(f'reaction {took*1000:.0f} ms')


def test_pasted_text_stays_text(page):
    box = widget(page, 'lab'); card = box.locator('.widget-html-content').last
    evil = '<script>window.bad=1</script><img src=x onerror="window.bad=2">'
    box.locator('textarea').fill(evil); card.get_by_text(evil).first.wait_for()
    assert card.locator('img, script').count() == 0
    assert page.evaluate('window.bad') is None


def test_a_kind_is_added_and_a_bad_argument_named(page):
    box = widget(page, 'lab'); args = box.locator('input[type=text]'); add = box.get_by_role('button', name='Add constraint')
    box.locator('select').nth(2).select_option('keywords:existence')
    args.fill('{"keywords": 3}'); args.press('Enter'); add.click()
    box.get_by_text("argument 'keywords' must be a list").wait_for(); shot(page, 'bad_argument')
    args.fill('{"keywords": ["onerror"]}'); args.press('Enter')
    add.click()
    box.locator('table', has_text='onerror').wait_for()          # drawn anew in its own time


def test_replay_explorer_moves(page):
    box = widget(page, 'explorer'); box.scroll_into_view_if_needed(); card = box.locator('.widget-html-content').last
    handles = box.locator('.noUi-handle')
    for i in range(2):                                                  # by keyboard
        handles.nth(i).focus(); changes(page, card, lambda: [page.keyboard.press('PageUp' if i == 0 else 'ArrowRight') for _ in range(3)])
    for i in range(2): changes(page, card, lambda: box.locator('select').nth(i).select_option(index=3))
    card.get_by_text('Response 1.4').wait_for(); assert 'A without' in card.inner_text()
    shot(page, 'replay_explorer')


def test_run_monitor_starts_and_stops(page):
    box = widget(page, 'monitor'); box.scroll_into_view_if_needed(); card = box.locator('.widget-html-content').last
    button = lambda name: box.get_by_role('button', name=name, exact=True)
    button('Start').click(); card.get_by_text('running').wait_for()
    page.wait_for_function('e => /step ([6-9]|\\d\\d):/.test(e.innerText)', arg=card.element_handle(), timeout=90_000)
    button('Stop').click(); card.get_by_text('stopped').wait_for()
    changes(page, card, lambda: box.locator('select').first.select_option('length'))
    box.locator('.noUi-handle').focus(); page.keyboard.press('ArrowRight'); card.get_by_text('Step 5', exact=True).wait_for()
    button('Refresh').click(); shot(page, 'run_monitor')
    assert card.locator('img').get_attribute('alt').startswith('Curves of a run.')


def test_no_console_errors(page): assert page.errors == []
