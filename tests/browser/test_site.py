"The built site, read in Chromium without a network."
import functools, http.server, threading
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT/'_docs'/'site'
pytestmark = pytest.mark.skipif(not SITE.is_dir(), reason='the site is not built; `make docs` builds it')
PAGES = ['index', 'tutorials/5_one_step', 'explain/two_preferences', 'api/evaluation/03_view', 'howto/play', 'reference/hir.replays.select']


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args): pass


@pytest.fixture(scope='module')
def site():
    "The address of the site."
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=str(SITE)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()


@pytest.fixture
def page(chromium, site):
    "A page; its console errors in `errors`, requests to other places in `outside`."
    page = chromium.new_page(viewport=dict(width=1300, height=1000)); page.errors, page.outside = [], []
    page.on('console', lambda m: page.errors.append(m.text) if m.type == 'error' else None)
    page.on('pageerror', lambda e: page.errors.append(str(e)))
    page.on('request', lambda r: None if r.url.startswith((site, 'data:', 'blob:')) else page.outside.append(r.url))
    yield page
    page.close()


@pytest.mark.parametrize('name', PAGES)
def test_a_page_is_whole_and_asks_nobody(page, site, name):
    page.goto(f'{site}/{name}.html'); page.wait_for_load_state('networkidle')
    assert page.locator('h1').first.inner_text().strip() and page.errors == [] and page.outside == []
    assert page.locator('img:not([alt]), img[alt=""]').count() == 0
    if name.startswith(('tutorials', 'explain')): assert page.locator('img[alt^="No description"]').count() == 0
    shots = ROOT/'runs'/'screenshots'; shots.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(shots/f'site-{name.replace("/", "-")}.png'))


def test_formulas_are_drawn(page, site):
    page.goto(f'{site}/explain/two_preferences.html')
    assert page.locator('math').count() > 5 and page.locator('math').first.bounding_box()['width'] > 5
    assert '\\frac' not in page.locator('main').inner_text()


def test_search_finds_a_function(page, site):
    page.goto(f'{site}/index.html')
    page.locator('.md-search__input').click()
    page.locator('.md-search__input').press_sequentially('reinforce_pp', delay=30)
    page.locator('.md-search-result__link').first.wait_for(timeout=20_000)
