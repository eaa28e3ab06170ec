"The widgets in JupyterLab, in a real browser: every control is moved, no console error, screenshots are kept."
import os, re, shutil, socket, subprocess, sys, time, urllib.request
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not os.environ.get('HIR_BROWSER'), reason='HIR_BROWSER is not set; `make test-browser` sets it')
SHOTS = ROOT/'runs'/'screenshots'
CHROMIUM = ('--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
            '--disable-component-update', '--disable-sync')
HARMLESS = re.compile(r'favicon|Failed to load resource.*(workspaces|lsp|extensions|themes)|ResizeObserver')


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    "JupyterLab on a copy of nbs/, with all cells drawn; its address."
    home = tmp_path_factory.mktemp('lab'); shutil.copytree(ROOT/'nbs', home/'nbs')
    (home/'hir').symlink_to(ROOT/'hir'); (home/'data').symlink_to(ROOT/'data')       # guides read ../../data
    settings = home/'settings'/'@jupyterlab'
    for name, text in {'notebook-extension/tracker': '{"windowingMode": "none"}',
                       'apputils-extension/notification': '{"fetchNews": "false", "checkForUpdates": false}'}.items():
        path = settings/f'{name}.jupyterlab-settings'; path.parent.mkdir(parents=True, exist_ok=True); path.write_text(text)
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]
    env = os.environ | dict(JUPYTERLAB_SETTINGS_DIR=str(home/'settings'), JUPYTER_CONFIG_DIR=str(home/'config'), OMP_NUM_THREADS='1',
                            JUPYTER_DATA_DIR=str(home/'data'), JUPYTERLAB_WORKSPACES_DIR=str(home/'workspaces'))
    with open(home/'log.txt', 'w') as log:
        server = subprocess.Popen([sys.executable, '-m', 'jupyterlab', '--no-browser', '--allow-root', '--ip=127.0.0.1', f'--port={port}',
                                   '--IdentityProvider.token=', f'--ServerApp.root_dir={home/"nbs"}'], stdout=log, stderr=log, env=env)
    url = f'http://127.0.0.1:{port}'
    try:
        for _ in range(120):
            try: urllib.request.urlopen(f'{url}/api/status', timeout=2); break
            except OSError: time.sleep(.5)
            assert server.poll() is None, (home/'log.txt').read_text()
        yield url
    finally: server.terminate(); server.wait(20)


@pytest.fixture(scope='module')
def page(lab):
    "The guide with the widgets, opened and run from top to bottom; its console errors in `page.errors`."
    api = pytest.importorskip('playwright.sync_api')
    found = os.environ.get('CHROMIUM') or next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
    assert found, 'no Chromium; install it, or name it in CHROMIUM'
    SHOTS.mkdir(parents=True, exist_ok=True)
    with api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=found, args=list(CHROMIUM))
        page = browser.new_page(viewport=dict(width=1500, height=1400)); page.set_default_timeout(30_000)
        page.errors = []
        page.on('console', lambda m: page.errors.append(m.text) if m.type == 'error' and not HARMLESS.search(m.text) else None)
        page.on('pageerror', lambda e: page.errors.append(str(e)))
        page.on('dialog', lambda d: (page.errors.append(f'dialog: {d.message}'), d.dismiss()))
        page.goto(f'{lab}/lab/tree/howto/play.ipynb?reset')
        page.wait_for_selector('.jp-Notebook .jp-CodeCell')
        page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]', state='attached')
        page.click('.jp-Notebook .jp-CodeCell'); page.keyboard.press('Escape')
        page.locator('.lm-MenuBar-item', has_text='Run').click(); page.locator('[data-command="runmenu:run-all"]').click()
        page.wait_for_function('''() => {const cells = [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map(e => e.innerText);
            return cells.length && cells.every(t => /\\[\\d+\\]/.test(t))}''', timeout=180_000)
        yield page
        browser.close()


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


def test_every_cell_runs(page):
    assert page.locator('.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.stderr"]').count() == 0
    assert page.locator('.jp-Cell', has=page.locator('.jupyter-widgets')).count() == 3


def test_constraint_lab_answers_while_typing(page):
    box = widget(page, 'lab'); box.scroll_into_view_if_needed(); card = box.locator('.widget-html-content').last
    area = box.locator('textarea'); area.fill('')
    took = changes(page, card, lambda: area.press_sequentially('no marks, yet', delay=20))
    assert 'highlighted' in card.inner_text() or 'whole text' in card.inner_text()
    changes(page, card, lambda: box.locator('select').nth(1).select_option(index=1))        # look at another one
    changes(page, card, lambda: box.locator('select').nth(0).select_option(index=[0, 1, 2]))   # check fewer
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
    changes(page, box.locator('.widget-html-content').last, add.click)
    assert 'onerror' in box.locator('table').inner_text()


def test_replay_explorer_moves(page):
    box = widget(page, 'explorer'); box.scroll_into_view_if_needed(); card = box.locator('.widget-html-content').last
    handles = box.locator('.noUi-handle')
    for i in range(2):                                                  # by keyboard
        handles.nth(i).focus(); changes(page, card, lambda: [page.keyboard.press('PageUp' if i == 0 else 'ArrowRight') for _ in range(3)])
    for i in range(2): changes(page, card, lambda: box.locator('select').nth(i).select_option(index=3))
    assert 'A without' in card.inner_text()
    shot(page, 'replay_explorer')


def test_run_monitor_starts_and_stops(page):
    box = widget(page, 'monitor'); box.scroll_into_view_if_needed(); card = box.locator('.widget-html-content').last
    button = lambda name: box.get_by_role('button', name=name, exact=True)
    button('Start').click(); card.get_by_text('running').wait_for()
    page.wait_for_function('e => /step [3-9]:/.test(e.innerText)', arg=card.element_handle(), timeout=90_000)
    button('Stop').click(); card.get_by_text('stopped').wait_for()
    changes(page, card, lambda: box.locator('select').first.select_option('length'))
    button('Refresh').click(); shot(page, 'run_monitor')
    assert card.locator('img').get_attribute('alt').startswith('Curves of a run.')


def test_no_console_errors(page): assert page.errors == []
