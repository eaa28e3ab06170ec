"The checkout that is tested: its root, its files, a copy of it."
import shutil, subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def files():
    "Files of the checkout, relative: what git knows or would take, as they lie on disk now."
    listed = subprocess.run(['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'],
                            cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return sorted(f for f in set(listed.split('\0')) if f and (ROOT/f).is_file())


def copy_to(folder):
    "A copy of those files, for what writes into the checkout it works on."
    for f in files():
        (folder/f).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT/f, folder/f)
    return folder
