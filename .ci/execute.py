"""Runs notebooks anew and keeps their outputs: `python .ci/execute.py nbs/api/31_loss.ipynb …`, all without names.

Cells marked `eval: false`, `slow`, `cuda`, `vllm` or `record` keep the outputs they have; with RECORD=1 in the environment
those marked `record` are run as well."""
import os, re, sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

os.environ.pop('MPLBACKEND', None)    # a kernel told to draw elsewhere would show no figures
ROOT = Path(__file__).resolve().parent.parent
KEPT = ['eval:\\s*false', 'slow', 'cuda', 'vllm'] + ['record']*(not os.environ.get('RECORD'))
SKIP = re.compile(rf"^#\|\s*({'|'.join(KEPT)})\b", re.M)
SVG = 'image/svg+xml'
VIEW = 'application/vnd.jupyter.widget-view+json'    # dead once its kernel is gone; the HTML beside it stays


def on_one_line(svg):
    "A picture without the lines, hundreds of them, that its letters would fill in a notebook."
    return re.sub(r'\s*\n\s*', ' ', re.sub(r'<metadata>.*?</metadata>', '', svg, flags=re.S)).strip()


def execute(path):
    "Run one notebook in its own folder; it is written only if every cell ran."
    nb = nbformat.read(path, as_version=4)
    client = NotebookClient(nb, kernel_name='python3', resources={'metadata': {'path': str(path.parent)}})
    with client.setup_kernel():
        for i, cell in enumerate(nb.cells):
            if cell.cell_type == 'code' and not SKIP.search(cell.source):
                client.execute_cell(cell, i)
                for o in cell.outputs:
                    if 'text/html' in o.get('data', {}): o.data.pop(VIEW, None)
                    if SVG in o.get('data', {}): o.data[SVG] = on_one_line(o.data[SVG])
                cell.outputs = [o for o in cell.outputs if VIEW not in o.get('data', {})]
    nb.metadata.pop('widgets', None)
    nbformat.write(nb, path)


if __name__ == '__main__':
    named = [Path(p).resolve() for p in sys.argv[1:]]
    for path in named or sorted(p for p in (ROOT/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts):
        print(path.relative_to(ROOT), flush=True)
        execute(path)
