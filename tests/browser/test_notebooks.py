"What a reader of the workshop opens, run from top to bottom in JupyterLab: no error, no warning, every figure is there."
from pathlib import Path
import pytest

NBS = Path(__file__).resolve().parents[2]/'nbs'
def light(path): return '#| record' not in path.read_text(encoding='utf-8')      # tutorial 8 would fetch a model and train it
READ = [*sorted(f'tutorials/{p.name}' for p in (NBS/'tutorials').glob('*.ipynb') if light(p)), 'howto/play.ipynb', 'howto/read_run.ipynb', 'api/evaluation/04_widgets.ipynb']


@pytest.mark.parametrize('path', READ)
def test_a_notebook_runs_in_the_browser(open_notebook, path):
    notebook = open_notebook(path)
    try:
        assert notebook.complaints() == [] and notebook.page.errors == []
        if path.startswith('tutorials'): assert notebook.page.locator('.jp-OutputArea-output img').count() >= 3
        notebook.page.screenshot(path=str(NBS.parent/'runs'/'screenshots'/f'{path.replace("/", "-").removesuffix(".ipynb")}.png'))
    finally: notebook.close()
