"""nbs/index.ipynb as README.md: `python .ci/readme.py` writes it, tests/test_readme.py compares it."""
import posixpath, re
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parent.parent


def from_root(target):
    "A link relative to nbs/ as a link relative to the checkout; others stay."
    return target if re.match(r'[a-z]+:|[#/]', target) else posixpath.normpath(f'nbs/{target}')


def relink(text):
    "Markdown with its links and images made relative to the checkout, code left alone."
    parts = re.split(r'(^```.*?^```|`[^`\n]+`)', text, flags=re.M | re.S)
    link = re.compile(r'(\]\(|\b(?:src|href)=")([^)"\s]+)')
    return ''.join(p if p.startswith('`') else link.sub(lambda m: m[1] + from_root(m[2]), p) for p in parts)


def shown(cell):
    "The cell as a reader sees it: nothing if it is hidden, else without its directives."
    if re.search(r'^#\|\s*(hide|default_exp)', cell.source, re.M): return None
    cell.source = re.sub(r'^#\|.*\n?', '', cell.source, flags=re.M).strip('\n').replace("'../", "'")   # files, seen from the checkout
    return cell


def readme(notebook=ROOT / 'nbs' / 'index.ipynb'):
    "The text of README.md."
    nb = nbformat.read(notebook, as_version=4)
    nb.cells = [c for c in nb.cells if c.cell_type == 'markdown' or shown(c)]
    nb.metadata['language_info'] = {'name': 'python'}    # nbdev_clean drops it; it names the code fences
    text, resources = MarkdownExporter().from_notebook_node(nb)
    if resources.get('outputs'):
        raise ValueError(f'{notebook.name}: a cell shows a picture, which README.md cannot hold; '
                         'save it in nbs/images/ and link it from a markdown cell')
    return relink(re.sub(r'\n{3,}', '\n\n', text)).strip() + '\n'


if __name__ == '__main__':
    (ROOT / 'README.md').write_text(readme(), encoding='utf-8')
