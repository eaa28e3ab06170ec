"Chromium, JupyterLab on a copy of nbs/, and how a notebook is opened and run there."
import json, os, re, shutil, socket, subprocess, sys, time, urllib.request
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parents[2]
SHOTS = ROOT/'runs'/'screenshots'
CHROMIUM = ('--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
            '--disable-component-update', '--disable-sync')
HARMLESS = re.compile(r'favicon|Failed to load resource.*(workspaces|lsp|extensions|themes)|ResizeObserver')


def pytest_collection_modifyitems(items):
    if os.environ.get('HIR_BROWSER'): return
    skip = pytest.mark.skip(reason='HIR_BROWSER is not set; `make test-browser` sets it')
    for item in items:
        if Path(__file__).parent in item.path.parents: item.add_marker(skip)


@pytest.fixture(scope='session')
def chromium():
    api = pytest.importorskip('playwright.sync_api')
    found = os.environ.get('CHROMIUM') or next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
    assert found, 'no Chromium; install it, or name it in CHROMIUM'
    SHOTS.mkdir(parents=True, exist_ok=True)
    with api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=found, args=list(CHROMIUM))
        yield browser
        browser.close()


@pytest.fixture(scope='session')
def lab(tmp_path_factory):
    "JupyterLab on a copy of nbs/, with all cells drawn; its address."
    home = tmp_path_factory.mktemp('lab')
    for name in ('nbs', 'hir'): shutil.copytree(ROOT/name, home/name)                # api notebooks end with an export
    for name in ('settings.ini', 'pyproject.toml', 'setup.py'): shutil.copy(ROOT/name, home)
    (home/'data').symlink_to(ROOT/'data')                                            # guides read ../../data
    settings = home/'settings'/'@jupyterlab'
    for name, text in {'notebook-extension/tracker': '{"windowingMode": "none"}',
                       'apputils-extension/notification': '{"fetchNews": "false", "checkForUpdates": false}'}.items():
        path = settings/f'{name}.jupyterlab-settings'; path.parent.mkdir(parents=True, exist_ok=True); path.write_text(text)
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]
    env = os.environ | dict(JUPYTERLAB_SETTINGS_DIR=str(home/'settings'), JUPYTER_CONFIG_DIR=str(home/'config'), OMP_NUM_THREADS='1',
                            JUPYTER_DATA_DIR=str(home/'jupyter'), JUPYTERLAB_WORKSPACES_DIR=str(home/'workspaces'))
    env.pop('MPLBACKEND', None)                                                      # a reader's figures stand in the notebook
    with open(home/'log.txt', 'w') as log:
        server = subprocess.Popen([sys.executable, '-m', 'jupyterlab', '--no-browser', '--allow-root', '--ip=127.0.0.1', f'--port={port}',
                                   '--IdentityProvider.token=', '--ServerApp.disable_check_xsrf=True',
                                   f'--ServerApp.root_dir={home/"nbs"}'], stdout=log, stderr=log, env=env)
    url = f'http://127.0.0.1:{port}'
    try:
        for _ in range(120):
            try: urllib.request.urlopen(f'{url}/api/status', timeout=2); break
            except OSError: time.sleep(.5)
            assert server.poll() is None, (home/'log.txt').read_text()
        yield url
    finally: server.terminate(); server.wait(20)


PROMPTS = """() => [...document.querySelectorAll('.jp-CodeCell')].filter(c => c.querySelector('.cm-content').innerText.trim())
                .map(c => c.querySelector('.jp-InputPrompt').innerText.trim())"""


class Stalled(AssertionError): "No cell has come to its end for a long time; says how far the notebook came."


class Notebook:
    "A notebook that was opened in the lab; console errors in `page.errors`."
    def __init__(self, chromium, lab):
        self.lab, self.page = lab, chromium.new_page(viewport=dict(width=1500, height=1400))
        page = self.page; page.set_default_timeout(120_000); page.errors, page.told = [], []
        page.on('console', lambda m: page.errors.append(m.text) if m.type == 'error' and not HARMLESS.search(m.text) else None)
        page.on('pageerror', lambda e: page.errors.append(str(e)))
        page.on('dialog', lambda d: (page.errors.append(f'dialog: {d.message}'), d.dismiss()))

    def open(self, path):
        "Show the notebook, and wait until its kernel is there."
        page = self.page
        self.start_kernel(path)
        page.goto(f'{self.lab}/lab/tree/{path}?reset')
        page.wait_for_selector('.jp-Notebook .jp-CodeCell')
        page.wait_for_selector('.jp-Toolbar-kernelName:has-text("Python 3")')
        page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]', state='attached')

    def start_kernel(self, path):
        "Start the notebook's kernel before the page is there: of a slow one the lab asks which, cell by cell."
        wanted = dict(path=path, name=Path(path).name, type='notebook', kernel=dict(name='python3'))
        urllib.request.urlopen(urllib.request.Request(f'{self.lab}/api/sessions', json.dumps(wanted).encode(), {'Content-Type': 'application/json'}))

    def run_all(self):
        "Ask for all cells; a busy lab may not hear the first time."
        from playwright.sync_api import TimeoutError as Covered
        for _ in range(8):
            self.close_dialogs()
            try: self.page.click('.jp-Notebook .jp-CodeCell', timeout=8_000)
            except Covered: continue                                           # the lab began to ask just now
            self.page.keyboard.press('Escape')
            self.page.locator('.lm-MenuBar-item', has_text='Run').click()
            self.page.locator('[data-command="runmenu:run-all"]').click()
            for _ in range(40):
                if any(p.strip(':') != '[ ]' for p in self.page.evaluate(PROMPTS)): return
                self.page.wait_for_timeout(250)

    def close_dialogs(self):
        "Accept what the lab asks before it lets anybody in, such as which kernel, where one was slow to start."
        for dialog in self.page.locator('dialog.jp-Dialog').all():
            self.page.told.append(dialog.inner_text()); dialog.locator('.jp-mod-accept').last.click()

    def wait_for_all(self, patience=180):
        "Until every cell has a number; `patience`: seconds without any cell coming to its end."
        done, since = -1, time.monotonic()
        while True:
            prompts = self.page.evaluate(PROMPTS); now = sum(bool(re.fullmatch(r'\[\d+\]:?', p)) for p in prompts)
            if prompts and now == len(prompts): return
            if now != done: done, since = now, time.monotonic()
            if time.monotonic() - since > patience:
                kernel = self.page.locator('.jp-Notebook-ExecutionIndicator').first.get_attribute('data-status')
                raise Stalled(f'{now} of {len(prompts)} cells done, kernel {kernel}, prompts {prompts}, console {self.page.errors}, dialogs {self.page.told}')
            self.page.wait_for_timeout(250)

    def complaints(self):
        "Errors and warnings below the cells; a progress bar is neither."
        said = self.page.locator('.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.stderr"], .jp-OutputArea-output[data-mime-type="application/vnd.jupyter.error"]')
        return [t for t in said.all_inner_texts() if '%|' not in t]

    def close(self):
        self.page.close()
        for session in json.load(urllib.request.urlopen(f'{self.lab}/api/sessions')):
            urllib.request.urlopen(urllib.request.Request(f'{self.lab}/api/sessions/{session["id"]}', method='DELETE'))


@pytest.fixture(scope='session')
def open_notebook(chromium, lab):
    "Open a notebook below nbs/ and run it; where a busy lab lost it, once more."
    from playwright.sync_api import TimeoutError as Late
    def run(path):
        notebook = Notebook(chromium, lab)
        try: notebook.open(path); notebook.run_all(); notebook.wait_for_all()
        except (Late, Stalled): notebook.close(); raise
        return notebook
    def opened(path):
        try: return run(path)
        except (Late, Stalled) as e: print(f'{path}, once more after: {e}')
        return run(path)
    return opened
