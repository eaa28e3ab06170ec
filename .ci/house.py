"""Draws the house: `python .ci/house.py` writes nbs/images/house.svg from the imports of hir/, and for each module a
picture of where it sits, nbs/images/modules/NAME.svg.

Rooms from top to bottom; an arrow leads from a room to one that imports it. Where others lead there as well, it is faint."""
import ast, re
from functools import lru_cache
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PICTURE = 'nbs/images/house.svg'
FOR = {'schema': 'settings from signatures', 'files': 'JSON Lines, safe writes', 'progress': 'bars where one watches',
       'markup': 'text stays text', 'trust': 'what a file may ask for', 'pattern': 'what a regular expression may cost',
       'fetch': 'a model and prompts, brought here once', 'gguf': 'what a .gguf file says of itself',
       'constraints': 'what can be asked of a response, and how it is checked',
       'instructions': 'a task with its constraints; data sets, read and written',
       'policies': 'models that write responses, and the engines that sample',
       'replays': 'what a response earns, and what it did right after all',
       'training': 'one step for any method; losses, settings, logs, checkpoints',
       'methods': 'what is learned, from which responses, by which loss',
       'evaluation': 'how good it became: scores, plots, widgets',
       'adapters': 'what other packages need of us',
       'toy': 'a world small enough for a laptop; demo and study',
       'recipes': 'settings for real models; the dry run', 'export': 'a run as a model for others',
       'sweep': 'many runs from one file', 'cli': 'the command hir', '__main__': 'python -m hir'}      # from the top of the house to its ground floor
ROOMS = list(FOR)
LIGHT = ROOMS[:ROOMS.index('policies')]                               # these load without torch


# ---- reading

def modules():
    "Files of the modules, relative to the root."
    found = (f.relative_to(ROOT).as_posix() for f in (ROOT/'hir').rglob('*.py'))
    return sorted(f for f in found if not f.endswith(('__init__.py', '_modidx.py')))

def name_of(module): return module[:-len('.py')].replace('/', '.')

def room_of(module): return name_of(module).split('.')[1]

@lru_cache(maxsize=None)
def tree(module): return ast.parse((ROOT/module).read_text(encoding='utf-8'))

def imported(module):
    "Dotted names of all modules that a module imports, wherever in the file it does."
    package = name_of(module).split('.')[:-1]
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import): yield from (a.name for a in node.names)
        if isinstance(node, ast.ImportFrom):
            base = package[:len(package) - node.level + 1] if node.level else []
            base = '.'.join(base + ([node.module] if node.module else []))
            yield base
            yield from (f'{base}.{a.name}' for a in node.names)   # `from hir import text` names a module too

def project_imports(module):
    "Modules of hir that a module imports."
    known = {name_of(m): m for m in modules()}
    return {known[n] for n in imported(module) if n in known}

def arrows():
    "(room, room that imports it) -> number of imports."
    found = {}
    for m in modules():
        for other in project_imports(m):
            pair = room_of(other), room_of(m)
            if pair[0] != pair[1]: found[pair] = found.get(pair, 0) + 1
    return dict(sorted(found.items(), key=lambda x: [ROOMS.index(room) for room in x[0]]))

def needed(pairs):
    "The pairs without those that follow from others."
    def leads(a, b, without): return any(x == a and (x, y) != without and (y == b or leads(y, b, without)) for x, y in pairs)
    return {p for p in pairs if not leads(*p, without=p)}


# ---- drawing

WIDTH, LEFT, RIGHT, TOP, GAP = 1000, 150, 150, 138, 30
INK, QUIET, LINE, PAPER = '#1f2933', '#5b6875', '#3b5b92', '#ffffff'
FILLS = {'light': '#e8f3ec', 'middle': '#e9eefb', 'ground': '#fbf1e3'}

def floors(there, pairs):
    "Rows of rooms; single modules that do not know each other share one."
    rows = []
    for room, n in there.items():
        together = rows and n == 1 and all(there[r] == 1 and (r, room) not in pairs for r in rows[-1])
        if together: rows[-1].append(room)
        else: rows.append([room])
    return rows

def places(rows, there):
    "Room -> (x, y, width, height, row)."
    out, y = {}, TOP
    for i, row in enumerate(rows):
        wide = (WIDTH - LEFT - RIGHT - 14*(len(row) - 1))/len(row)
        tall = 46 if there[row[0]] == 1 else 62
        for j, room in enumerate(row): out[room] = LEFT + j*(wide + 14), y, wide, tall, i
        y += tall + GAP
    return out, y

def text(x, y, words, size=15, colour=INK, **more):
    more = ''.join(f' {n.replace("_", "-")}="{v}"' for n, v in more.items())
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{colour}"{more}>{escape(words)}</text>'

def box(room, place, names):
    "A room: its name, what it is for, its modules."
    x, y, w, h, _ = place
    kind = 'light' if room in LIGHT else 'ground' if ROOMS.index(room) > ROOMS.index('adapters') else 'middle'
    out = [f'<rect class="room" x="{x:g}" y="{y:g}" width="{w:g}" height="{h}" rx="8" fill="{FILLS[kind]}" stroke="{LINE}"/>']
    if w < 400: return out + [text(x + 14, y + 20, room, 15, font_weight='bold'), text(x + 14, y + 37, FOR[room], 13, QUIET)]
    many = f'{len(names)} module' + 's'*(len(names) > 1)
    out += [text(x + 16, y + 28, room, 17, font_weight='bold'), text(x + 146, y + 28, FOR[room]),
            text(x + w - 14, y + 28, many, 13, QUIET, text_anchor='end')]
    return out + ([text(x + 16, y + 50, ' · '.join(names), 12.5, QUIET)] if len(names) > 1 else [])

def side_of(a, b):
    "Where an arrow goes around: -1 left, 1 right, by the room that does not fill its floor; 0: either."
    for x, _, w, *_ in (b, a):
        if w < WIDTH - LEFT - RIGHT and (x == LEFT or x + w > WIDTH - RIGHT - 1): return -1 if x == LEFT else 1
    return 0

def bow(a, b, side, n):
    "From one box to the side of a lower one, around what is between; n moves the ends apart."
    (x, y, w, h, i), (u, v, z, k, j) = a, b
    edge, tip, v = (LEFT, u, v) if side < 0 else (WIDTH - RIGHT, u + z, v)
    far, end, v = edge + min(130, 22 + 13*(j - i))*side, tip + 5*side, v + k*.25 + n % 7*3
    if edge in (x, x + w): return f'M{edge:g} {y + h*.62 + n % 5*3:g} C{far:g} {y + h*.62 + n % 5*3:g} {far:g} {v:g} {end:g} {v:g}'
    at, over = x + w/2, y - 26                                       # others stand between: over their roofs
    return (f'M{at:g} {y:g} C{at:g} {over:g} {far - 60*side:g} {over:g} {far - 40*side:g} {y + 6:g} '
            f'S{far:g} {v - 60:g} {end:g} {v:g}')

def arrow(pair, times, place, strong, n):
    "An arrow as a path; straight down to the next floor, otherwise around."
    a, b = (place[room] for room in pair)
    middle = lambda p: p[0] + p[2]/2
    if strong and b[4] == a[4] + 1:
        at = middle(a) if a[2] <= b[2] else middle(b)
        d = f'M{at:g} {a[1] + a[3]:g} L{at:g} {b[1] - 4:g}'
    else: d = bow(a, b, side_of(a, b) or (1 if strong else (-1, 1)[n % 2]), n)
    look = f'stroke="{LINE}" stroke-width="2.4"' if strong else f'stroke="{LINE}" stroke-width="1" stroke-opacity=".28"'
    tip = 'strong' if strong else 'faint'
    said = f'{pair[1]} imports {pair[0]} ({times})'
    return (f'<path class="arrow" data-from="{pair[0]}" data-to="{pair[1]}" d="{d}" fill="none" {look} '
            f'marker-end="url(#{tip})"><title>{said}</title></path>')

def tips():
    def one(name, size, more=''): return (f'<marker id="{name}" viewBox="0 0 8 8" refX="5" refY="4" markerWidth="{size}" '
        f'markerHeight="{size}" orient="auto" markerUnits="userSpaceOnUse"><path d="M0 0 L8 4 L0 8 z" fill="{LINE}"{more}/></marker>')
    return '<defs>' + one('strong', 12) + one('faint', 8, ' fill-opacity=".4"') + '</defs>'

def legend(x, y):
    out = []
    for i, (kind, says) in enumerate(dict(light='loads without torch', middle='learns and measures', ground='puts it together').items()):
        out += [f'<rect x="{x}" y="{y + 21*i - 11}" width="20" height="14" rx="3" fill="{FILLS[kind]}" stroke="{LINE}"/>',
                text(x + 28, y + 21*i, says, 13, QUIET)]
    return out

def picture():
    "The house as SVG."
    names = {room: [] for room in ROOMS}
    for m in modules(): names[room_of(m)].append(name_of(m).split('.', 2)[-1].replace('.', '/'))
    there, pairs = {room: len(n) for room, n in names.items() if n}, arrows()
    strong, (place, low) = needed(pairs), places(floors(there, pairs), there)
    said = 'The rooms of hir from top to bottom; arrows lead from a room to the rooms that import it, always downwards.'
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {low + 10:g}" width="{WIDTH}" height="{low + 10:g}" '
           f'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif" role="img" aria-label="{said}">',
           tips(), f'<rect width="100%" height="100%" rx="12" fill="{PAPER}"/>',
           text(LEFT, 38, 'The house', 24, font_weight='bold'),
           text(LEFT, 62, f'{sum(there.values())} modules in {len(there)} rooms. An arrow leads from a room to one that imports it,', 14, QUIET),
           text(LEFT, 82, 'always down; it is faint where darker ones lead there as well.', 14, QUIET), *legend(WIDTH - RIGHT - 150, 40)]
    order = sorted(pairs, key=lambda p: p in strong)                  # the faint ones below
    out += [arrow(p, pairs[p], place, p in strong, n) for n, p in enumerate(order)]
    for room in there: out += box(room, place[room], names[room])
    return '\n'.join(out + ['</svg>', ''])

# ---- where a module sits

MODULES, MOST = 'nbs/images/modules', 9             # names in a column at most

def short(module): return name_of(module).removeprefix('hir.')

def neighbours(module):
    "(what it imports, what imports it), in the order of the house."
    def sorted_(ms): return sorted(ms, key=lambda m: (ROOMS.index(room_of(m)), m))
    return sorted_(project_imports(module)), sorted_(m for m in modules() if module in project_imports(m))

def column(names, x, y, anchor):
    "Names one below the other, the rest as a number; and the heights of their lines."
    shown = names if len(names) <= MOST else names[:MOST - 1] + [f'and {len(names) - MOST + 1} more']
    top = y - 10*(len(shown) - 1)
    at = [top + 20*i for i in range(len(shown))]
    return [text(x, h + 4.5, n, 13, INK, text_anchor=anchor) for n, h in zip(shown, at)], at

def here(module):
    "A module between what it imports and what imports it, as SVG."
    uses, used = ([*map(short, ms)] for ms in neighbours(module))
    tall = 44 + 20*max(2, *(min(len(names), MOST) for names in (uses, used)))
    y, room = tall/2 + 12, room_of(module)
    said = f'{short(module)} imports {", ".join(uses) or "no module of hir"}; it is imported by {", ".join(used) or "none"}.'
    (left, from_), (right, to) = column(uses, 270, y, 'end'), column(used, 530, y, 'start')
    lines = [f'<path d="M278 {h:g} C310 {h:g} 300 {y:g} 326 {y:g}" fill="none" stroke="{LINE}" stroke-opacity=".6"/>' for h in from_]
    lines += [f'<path d="M474 {y:g} C500 {y:g} 490 {h:g} 522 {h:g}" fill="none" stroke="{LINE}" stroke-opacity=".6"/>' for h in to]
    kind = 'light' if room in LIGHT else 'ground' if ROOMS.index(room) > ROOMS.index('adapters') else 'middle'
    name = short(module).rpartition('.')[2]
    return '\n'.join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 800 {tall:g}" width="800" height="{tall:g}" '
        f'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif" role="img" aria-label="{said}">',
        f'<rect width="100%" height="100%" rx="8" fill="{PAPER}"/>', text(270, 18, 'imports', 12, QUIET, text_anchor='end'),
        text(400, 18, room, 12, QUIET, text_anchor='middle'), text(530, 18, 'is imported by', 12, QUIET), *lines,
        f'<rect x="326" y="{y - 17:g}" width="148" height="34" rx="8" fill="{FILLS[kind]}" stroke="{LINE}" stroke-width="1.6"/>',
        text(400, y + 5, name, 15, INK, text_anchor='middle', font_weight='bold'), *left, *right, '</svg>', ''])

def pictures():
    "Path -> SVG, of every module."
    return {f'{MODULES}/{short(m)}.svg': here(m) for m in modules()}


if __name__ == '__main__':
    (ROOT/PICTURE).write_text(picture(), encoding='utf-8')
    drawn = pictures(); (ROOT/MODULES).mkdir(exist_ok=True)
    for old in (ROOT/MODULES).glob('*.svg'):
        if f'{MODULES}/{old.name}' not in drawn: old.unlink()
    for path, svg in drawn.items(): (ROOT/path).write_text(svg, encoding='utf-8')
    print(f'{PICTURE}: {len(arrows())} arrows, {len(needed(arrows()))} of them needed')
