"The documents say what is so: README.md is nbs/index.ipynb, links lead somewhere, examples run."
import importlib.util, re, subprocess, sys

import pytest

from checkout import ROOT, files

spec = importlib.util.spec_from_file_location('readme', ROOT/'.ci'/'readme.py')
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)

DOCUMENTS = [f for f in files() if re.fullmatch(r'[^/]+\.md', f)]


def test_readme_is_the_index():
    assert (ROOT/'README.md').read_text(encoding='utf-8') == tool.readme(), 'run `make readme`'


@pytest.mark.parametrize('document', DOCUMENTS)
def test_links_lead_to_files_of_the_repository(document):
    text = re.sub(r'^```.*?^```|`[^`\n]+`', '', (ROOT/document).read_text(encoding='utf-8'), flags=re.M | re.S)
    known = set(files()) | {f.rsplit('/', 1)[0] for f in files() if '/' in f}
    for target in re.findall(r'(?:\]\(|\b(?:src|href)=")([^)"\s#]+)', text):
        if not re.match(r'[a-z]+:', target): assert target.rstrip('/') in known, f'{document} links to {target}'


def test_links_are_made_relative_to_the_checkout():
    said = tool.relink('![a](images/a.png) [b](../LICENSE) [c](https://x.org/y) [d](#e) `f[0](g)`\n```\nh[0](i)\n```\n')
    assert said == '![a](nbs/images/a.png) [b](LICENSE) [c](https://x.org/y) [d](#e) `f[0](g)`\n```\nh[0](i)\n```\n'


def test_examples_of_contributing_run(tmp_path):
    "The Python blocks of CONTRIBUTING.md, together and in order."
    blocks = re.findall(r'^```python\n(.*?)^```', (ROOT/'CONTRIBUTING.md').read_text(encoding='utf-8'), re.M | re.S)
    assert blocks
    done = subprocess.run([sys.executable, '-c', '\n'.join(blocks)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
