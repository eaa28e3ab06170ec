"""Hindsight instruction Replay: understand it, run it, extend it."""
__version__ = "0.1.0"

_DOOR = {'Constraint': 'constraints.constraint', 'kind': 'constraints.constraint', 'Instruction': 'instructions.instruction',
         'load_instructions': 'instructions.instruction', 'verify': 'constraints.verifier',
         'hindsight': 'replays.rewrite', 'load_policy': 'policies.policy', 'Method': 'training.method',
         'make_config': 'training.config', 'fit': 'training.trainer', 'evaluate': 'evaluation.evaluate'}
__all__ = list(_DOOR)

TYPE_CHECKING = False
if TYPE_CHECKING:                          # for editors; a program loads a name when it asks for it
    from .constraints.constraint import Constraint, kind
    from .constraints.verifier import verify
    from .evaluation.evaluate import evaluate
    from .instructions.instruction import Instruction, load_instructions
    from .policies.policy import load_policy
    from .replays.rewrite import hindsight
    from .training.config import make_config
    from .training.method import Method
    from .training.trainer import fit


def __getattr__(name):
    "A name of the front door, imported when it is first asked for (PEP 562)."
    from importlib import import_module
    if name not in _DOOR: raise AttributeError(f'hir has no {name!r}' + import_module('hir.schema').nearest(name, _DOOR))
    globals()[name] = found = getattr(import_module(f'hir.{_DOOR[name]}'), name)
    return found


def __dir__(): return sorted([*_DOOR, *(n for n in globals() if n[0] == '_')])
