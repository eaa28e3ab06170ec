"""Builds the site: `python .ci/docs.py [--serve]`. Needs no network: fonts are the reader's, formulas become MathML, search is local.

The pages are the notebooks themselves, a reference of every public name made from the exported modules, and the
workshop's papers. Every link inside the site is checked; a broken one ends the build."""
import ast, html, json, os, re, shutil, subprocess, sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import yaml
from latex2mathml.converter import convert

from house import ROOMS, room_of

ROOT = Path(__file__).resolve().parent.parent
SRC, SITE, REPO = ROOT/'_docs'/'src', ROOT/'_docs'/'site', 'https://github.com/hir-rl/hir'
MATH = re.compile(r'(?<![\\$`\w])\$\$(.+?)\$\$|(?<![\\$`\w])\$(?!\s)([^$\n]+?)(?<!\s)\$(?![\w$])', re.S)
CODE = re.compile(r'(```.*?```|`[^`\n]*`)', re.S)
FIRST = ['replay_works', 'two_preferences', 'ratio', 'curricula', 'ready_task', 'real_model', 'study', 'gallery',                  # in reading order; what is not named follows
         'play', 'score_responses', 'add_kind', 'own_data', 'judge_soft', 'read_run', 'resume_run', 'choose', 'own_rule', 'add_method', 'add_engine', 'scale', 'run_sheet',
         'hir', 'sft', 'dpo']
PICTURES = {'image/png', 'image/svg+xml'}
TITLES = {'tutorials': 'Learn', 'explain': 'Understand', 'howto': 'Do', 'methods': 'Methods', 'api': 'Modules'}


def with_mathml(text):
    "Markdown with its formulas as MathML, but for code."
    def made(m): return convert(m[1] or m[2], display='block' if m[1] else 'inline')
    return ''.join(part if i % 2 else MATH.sub(made, part) for i, part in enumerate(CODE.split(text)))


LINK = re.compile(r'(\]\()([^)\s#]*)(#[^)\s]*)?(\))')


def relinked(text, path):
    "Markdown whose links lead to pages of the site; what is outside nbs/ is read in the repository."
    def to(m):
        if urlsplit(m[2]).scheme: return m[0]
        place = '#' + re.sub(r'[^\w-]', '', m[3].lower()) if m[3] else ''      # of a heading, as the site names it
        if not m[2]: return f'{m[1]}{place}{m[4]}'
        file = (path.parent/unquote(m[2])).resolve()
        if not file.is_relative_to(ROOT/'nbs'): return f'{m[1]}{REPO}/blob/main/{file.relative_to(ROOT)}{m[3] or ""}{m[4]}'
        return f'{m[1]}{re.sub(r"[.](ipynb|md)$", ".html", m[2])}{place}{m[4]}'
    return ''.join(part if i % 2 else LINK.sub(to, part) for i, part in enumerate(CODE.split(text)))


def title_of(path):
    "First heading of a notebook or a Markdown file."
    text = path.read_text(encoding='utf-8')
    if path.suffix == '.ipynb': text = '\n'.join(''.join(c['source']) for c in json.loads(text)['cells'][:2])
    return next((line[2:].strip() for line in text.splitlines() if line.startswith('# ')), path.stem)


def alternative(output, caption):
    "What is said of a picture to those who do not see it: its own text, or the caption below it."
    own = next((m['alt'] for m in output.get('metadata', {}).values() if isinstance(m, dict) and 'alt' in m), None)
    return own or (caption.strip('*') if caption.startswith('*') and not caption.startswith('**') else 'A figure; the text beside it says what it shows.')


TABLE = re.compile(r'((?:^\|.*\|\n?){3,})', re.M)


def as_table(output):
    "A printed table becomes a drawn one; what was printed around it stays."
    text = ''.join(output.get('text', ''))
    if output.get('name') != 'stdout' or not TABLE.search(text): return output
    parts = [part if i % 2 else f'```text\n{part}\n```' if part.strip() else '' for i, part in enumerate(TABLE.split(text))]
    return dict(output_type='display_data', metadata={}, data={'text/markdown': '\n\n'.join(parts)})


def copy_notebook(path):
    "A notebook for the site: hidden cells and directives left out, formulas as MathML; the texts of its pictures."
    nb = json.loads(path.read_text(encoding='utf-8'))
    shown, said = [], []
    for cell, after in zip(nb['cells'], nb['cells'][1:] + [{}]):
        source, caption = ''.join(cell['source']), ''.join(after.get('source', ''))
        if cell['cell_type'] == 'markdown': source = with_mathml(relinked(source, path))
        elif re.search(r'^#\|\s*(hide|default_exp)\b', source, re.M): continue
        else: source = re.sub(r'^#\|.*\n?', '', source, flags=re.M)
        for output in cell.get('outputs', []):
            if PICTURES & set(output.get('data', {})): said.append(alternative(output, caption))
        if cell.get('outputs'): cell = cell | {'outputs': list(map(as_table, cell['outputs']))}
        shown.append(cell | {'source': source})
    to = SRC/path.relative_to(ROOT/'nbs'); to.parent.mkdir(parents=True, exist_ok=True)
    to.write_text(json.dumps(nb | {'cells': shown}), encoding='utf-8')
    return said


def notebook_of(module):
    "The notebook that a module was exported from."
    found = re.search(r'File to edit: (?:\.\./)+(nbs/\S+?)\.ipynb', module.read_text(encoding='utf-8'))
    return found[1] if found else None


def entry(node, lines, source, notebook):
    "The reference of one function or class."
    last = node.body[0].lineno - 1 if isinstance(node, ast.FunctionDef) else node.lineno
    if isinstance(node, ast.ClassDef) and any(isinstance(n, ast.AnnAssign) for n in node.body):
        last = max(n.end_lineno for n in node.body if isinstance(n, ast.AnnAssign))
    head = '\n'.join(lines[node.lineno - 1:max(last, node.lineno)])
    doc = ast.get_docstring(node) or ''
    links = f'[source]({REPO}/blob/main/{source}#L{node.lineno})' + (f' · [notebook](../{notebook}.html)' if notebook else '')
    return f'### `{node.name}`\n\n{doc}\n\n```python\n{head}\n```\n\n{links}\n'


def place_of(module):
    "Number of a module's room, from the top of the house."
    name = module.relative_to(ROOT).as_posix()
    return ROOMS.index(room_of(name)) if name.count('/') > 1 or module.stem in ROOMS else -1


def reference():
    "One page per module: its public names with signature, parameter notes and docstring."
    pages = []
    for module in sorted((ROOT/'hir').rglob('*.py'), key=lambda m: (place_of(m), m)):
        if module.stem.startswith('_'): continue
        text = module.read_text(encoding='utf-8'); tree, lines = ast.parse(text), text.splitlines()
        name = '.'.join(module.relative_to(ROOT).with_suffix('').parts)
        notebook = notebook_of(module)
        nodes = [n for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and not n.name.startswith('_')]
        if not nodes: continue
        body = [entry(n, lines, str(module.relative_to(ROOT)), notebook and notebook.removeprefix('nbs/')) for n in nodes]
        page = SRC/'reference'/f'{name}.md'; page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(f'# {name}\n\n{ast.get_docstring(tree) or ""}\n\n' + '\n'.join(body), encoding='utf-8')
        pages.append({name: f'reference/{name}.md'})
    return pages


def nav(pages):
    "The order of the site; the tutorials' solutions are pages that only their exercises lead to."
    def group(folder):
        found = [*(SRC/folder).glob('*.ipynb'), *(SRC/folder).glob('*.md')]
        found.sort(key=lambda p: (FIRST.index(p.stem) if p.stem in FIRST else len(FIRST), p.name))
        return [{title_of(p): str(p.relative_to(SRC))} for p in found]
    def rooms():
        "Room by room; one that is a single module is its page."
        loose = {p.stem.partition('_')[2]: p for p in (SRC/'api').glob('*.ipynb')}
        for room in ROOMS:
            page = loose.get(room.strip('_'))
            if page: yield {title_of(page): str(page.relative_to(SRC))}
            elif (SRC/'api'/room).is_dir(): yield {room: group(f'api/{room}')}
    out = [{'hir': 'index.ipynb'}] + [{t: list(rooms()) if f == 'api' else group(f)} for f, t in TITLES.items() if (SRC/f).is_dir()]
    loose = sorted(p for p in SRC.glob('*.ipynb') if p.stem != 'index')
    return out + [{title_of(p): p.name} for p in loose] + ([{'Workshop': group('workshop')}] if (SRC/'workshop').is_dir() else []) + [{'Reference': pages}]


CSS = """.md-grid { max-width: 76rem }
.jp-OutputArea-output { overflow-x: auto }
.jp-RenderedMarkdown table { font-size: 85% }
.jp-RenderedMarkdown th, .jp-RenderedMarkdown td { min-width: 0 !important; padding: .4em .7em !important }
"""


def config(pages):
    "Settings of mkdocs."
    palette = [dict(scheme='default', primary='indigo', media='(prefers-color-scheme: light)', toggle=dict(icon='material/weather-night', name='dark')),
               dict(scheme='slate', primary='indigo', media='(prefers-color-scheme: dark)', toggle=dict(icon='material/weather-sunny', name='light'))]
    theme = dict(name='material', font=False, palette=palette, features=['navigation.tabs', 'navigation.indexes', 'search.highlight', 'content.code.copy'])
    return dict(site_name='hir', site_url='https://hir-rl.github.io/hir/', docs_dir=str(SRC), site_dir=str(SITE), theme=theme, nav=nav(pages), use_directory_urls=False,
                extra_css=['extra.css'],
                plugins=['search', {'mkdocs-jupyter': dict(include_source=True, ignore_h1_titles=True)}],
                extra=dict(social=[dict(icon='fontawesome/brands/github', link=REPO, name='source')]),
                markdown_extensions=['tables', 'md_in_html', 'pymdownx.superfences', 'pymdownx.highlight', 'toc'],
                validation=dict(links=dict(not_found='warn')))


def number_headings(page):
    "Give the second heading of a name the id that the table of contents has for it."
    seen = {}
    def named(m):
        n = seen[m[2]] = seen.get(m[2], -1) + 1
        return m[0] if not n else f'{m[1]}{m[2]}_{n}"'
    page.write_text(re.sub(r'(<h[1-6][^>]*? id=")([^"]+)"', named, page.read_text(encoding='utf-8')), encoding='utf-8')


def describe_pictures(page, said):
    "Put the texts of a notebook's pictures where the converter had none."
    said = iter(said)
    text = re.sub(r'alt="No description[^"]*"', lambda m: f'alt="{html.escape(next(said, "A figure."))}"', page.read_text(encoding='utf-8'))
    page.write_text(text, encoding='utf-8')


class Links(HTMLParser):
    "Collects targets and anchors of a page."
    def __init__(self): super().__init__(); self.targets, self.anchors = [], set()
    def handle_starttag(self, tag, attrs):
        for key, value in attrs:
            if key == 'id' and value: self.anchors.add(value)
            if key in ('href', 'src') and value: self.targets.append(value)


def broken():
    "Links inside the site that lead nowhere."
    pages = {}
    for page in SITE.rglob('*.html'):
        pages[page] = Links(); pages[page].feed(page.read_text(encoding='utf-8'))
    bad = []
    for page, found in pages.items():
        if page.name == '404.html': continue
        for target in found.targets:
            url = urlsplit(target)
            if url.scheme or url.netloc or target.startswith(('#__', 'data:')): continue
            to = (page.parent/unquote(url.path)).resolve() if url.path else page
            if to.is_dir(): to = to/'index.html'
            if not to.exists(): bad.append(f'{page.relative_to(SITE)}: {target}')
            elif url.fragment and to in pages and unquote(url.fragment) not in pages[to].anchors: bad.append(f'{page.relative_to(SITE)}: {target} (no such heading)')
    return sorted(set(bad))


def main():
    shutil.rmtree(ROOT/'_docs', ignore_errors=True); SRC.mkdir(parents=True); said = {}
    (SRC/'extra.css').write_text(CSS)
    for path in sorted((ROOT/'nbs').rglob('*.ipynb')):
        if '.ipynb_checkpoints' not in path.parts: said[(SITE/path.relative_to(ROOT/'nbs')).with_suffix('.html')] = copy_notebook(path)
    for path in sorted(p for p in (ROOT/'nbs').rglob('*') if p.suffix in ('.png', '.svg', '.md') and '.ipynb_checkpoints' not in p.parts):
        to = SRC/path.relative_to(ROOT/'nbs'); to.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == '.md': to.write_text(with_mathml(relinked(path.read_text(encoding='utf-8'), path)), encoding='utf-8')
        else: shutil.copy(path, to)
    made = ROOT/'_docs'/'mkdocs.yml'; made.write_text(yaml.safe_dump(config(reference()), sort_keys=False), encoding='utf-8')
    status = subprocess.run([sys.executable, '-m', 'mkdocs', 'build', '--quiet', '-f', str(made)], env=os.environ | {'NO_MKDOCS_2_WARNING': '1'}).returncode
    if status: return status
    for page in SITE.rglob('*.html'): number_headings(page); describe_pictures(page, said.get(page, []))
    if bad := broken(): print('links that lead nowhere:', *bad, sep='\n  '); return 1
    print(f'{sum(1 for _ in SITE.rglob("*.html"))} pages in {SITE.relative_to(ROOT)}, all links inside it lead somewhere')
    if '--serve' in sys.argv: return subprocess.run([sys.executable, '-m', 'http.server', '-d', str(SITE), '--bind', '127.0.0.1', '8000']).returncode


if __name__ == '__main__': sys.exit(main())
