"Settings as keywords: those that are not of the run are the method's."
from hir.training.config import FIELDS, make_config


def dotted(**settings): return {n if n in FIELDS else f'method.{n}': x for n, x in settings.items()}

def changed(cfg, **settings): return make_config(dotted(**settings), base=cfg)
