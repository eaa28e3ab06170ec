"Everything pip needs is read from settings.ini; only the package's layout is said here."
from configparser import ConfigParser
from pathlib import Path
from setuptools import setup, find_packages

cfg = ConfigParser(delimiters=['='])
cfg.read(Path(__file__).parent/'settings.ini', encoding='utf-8')
cfg = cfg['DEFAULT']
setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'],
    long_description=Path('README.md').read_text(encoding='utf-8') if Path('README.md').exists() else '',
    long_description_content_type='text/markdown',
    author=cfg['author'], license='Apache-2.0', keywords=cfg['keywords'].split(),
    python_requires='>=' + cfg['min_python'],
    install_requires=cfg['requirements'].split(),
    extras_require={extra: cfg[f'{extra}_requirements'].split() for extra in (
        'dev', 'judge', 'data', 'widgets', 'gguf', '4bit', 'vllm', 'kernel', 'trl', 'verl', 'verifiers', 'lm_eval')},
    packages=find_packages(include=['hir', 'hir.*']) + ['hir.data'],
    package_dir={'hir.data': 'data'},                    # data/ of the checkout travels as hir/data
    package_data={'hir': ['configs/*', 'configs/recipes/*'], 'hir.data': ['toy/**/*', 'tasks/*', 'smollm2/*', 'logs/**/*', 'train2000.jsonl', 'english.txt', 'verbs.txt']},
    entry_points={
        'console_scripts': ['hir=hir.cli:main'],
        'nbdev': ['hir=hir._modidx:d'],
    },
)
