"""What a GPU would be told to do: operations that launch work, counted by torch's profiler on a CPU.

An operation counts if it has a kernel of its own; one that is put together from others (`aten::linear`) is looked into instead. What
only makes another view of a tensor, or asks for memory, launches nothing: torch says which operators are views, and MEMORY names the
rest. So the count is of operations, and near that of kernels: on a GPU a few operations launch two, and attention is another one.
A round trip is an operation that gives a number to Python, or a tensor whose size hangs on numbers: the CPU waits for it."""
from collections import Counter

import torch
from torch.profiler import ProfilerActivity, profile

MEMORY = {'empty', 'empty_like', 'empty_strided', 'new_empty', 'new_empty_strided', 'resize_', 'resize_as_', 'set_', 'result_type',
          'lift_fresh', 'resolve_conj', 'resolve_neg', 'as_strided_', '_unsafe_view', '_reshape_alias', 'is_nonzero', 'item', 'to',
          'reshape', 'contiguous', 'view_as', 'expand_as', 'detach_', 'promote_types'}
TRIPS = {'_local_scalar_dense', 'nonzero', 'masked_select', '_unique2', 'unique_dim', 'unique_consecutive', 'equal'}


KERNELS = {n.removeprefix('aten::').partition('.')[0] for n in torch._C._dispatch_get_registrations_for_dispatch_key('CPU')}

def _launches_nothing(name):
    packet = getattr(torch.ops.aten, name, None)
    return name in MEMORY or packet is not None and any(getattr(packet, o).is_view for o in packet.overloads())

def _working(event):
    "Names of the operations in an event that launch work."
    name = event.name.removeprefix('aten::')
    mine = event.name.startswith('aten::') and not _launches_nothing(name)
    if mine and name in KERNELS: return [name]
    return [n for child in event.cpu_children for n in _working(child)] or [name]*mine

def counted(work):
    "(operations that a function launches, round trips), each a `Counter` by name."
    with profile(activities=[ProfilerActivity.CPU]) as p: work()
    events = p.events()
    return (Counter(n for e in events if e.cpu_parent is None for n in _working(e)),
            Counter(n for e in events if (n := e.name.removeprefix('aten::')) in TRIPS))

def per_token(draw, short=9, long=17):
    "Launches and round trips that each token more of a batch costs; `draw` takes the number of tokens."
    draw(short), draw(long)
    (few, f), (many, m) = counted(lambda: draw(short)), counted(lambda: draw(long))
    few.subtract(many); f.subtract(m)
    return tuple(Counter({n: -x/(long - short) for n, x in c.items() if x}) for c in (few, f))
