"""The update on a GPU is that of the CPU: shared prompts, the kernel, sizes by memory, and nobody waits within a micro-batch.

`HIR_WITH_GPU=cpu` rehearses on the CPU, which shows that the tests are sound, not that a card is."""
import os
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from hir.policies.capacity import Room                                                             # noqa: E402
from hir.policies.policy import Policy, cannot_fuse, layout_for, pad_rows                          # noqa: E402
from hir.policies.processes import start                                                           # noqa: E402
from test_scale import ROWS, tiny                                                                  # noqa: E402

REHEARSAL = os.environ.get('HIR_WITH_GPU') == 'cpu'
DEVICE = 'cpu' if REHEARSAL else 'cuda'
pytestmark = pytest.mark.skipif(not (REHEARSAL or torch.cuda.is_available()), reason='no CUDA GPU is found')


def gradients(policy, rows, half=False, device=DEVICE):
    policy.to(device).model.zero_grad()
    at = layout_for(policy, *rows).mapped(lambda x: x.to(device))
    with torch.autocast(device, torch.bfloat16, half): logp = policy(*(x.to(device) for x in rows), .8, False, at)[0]
    (logp*torch.linspace(-1, 1, logp.shape[1], device=device)).sum().backward()
    return logp.detach().cpu(), torch.cat([p.grad.flatten().cpu() for p in policy.model.parameters()])

def near(ours, theirs, eps):
    for x, y in zip(ours, theirs, strict=True): assert (x - y).abs().max() <= eps*y.abs().max()


@pytest.mark.parametrize('family', ['llama', 'qwen2', 'qwen3'])
@pytest.mark.parametrize('share', [True, False])
@pytest.mark.parametrize('half, eps', [(False, 1e-3), (True, 5e-2)])
def test_log_probabilities_and_gradients_are_those_of_the_cpu(family, share, half, eps):
    rows = pad_rows(ROWS, 0)
    plain = gradients(Policy(tiny(family, torch.float32), share=False), rows, device='cpu')
    near(gradients(Policy(tiny(family, torch.float32), share=share), rows, half), plain, eps)


def test_nobody_waits_within_a_micro_batch():
    if REHEARSAL: pytest.skip('only a card can be waited for')
    policy, rows = Policy(tiny('llama', torch.float32)).to(DEVICE), pad_rows(ROWS, 0)
    gradients(policy, rows)                                                # what is set up once may wait
    at, there = layout_for(policy, *rows).mapped(lambda x: x.to(DEVICE)), [x.to(DEVICE) for x in rows]
    torch.cuda.set_sync_debug_mode('error')
    try: policy(*there, .8, False, at)[0].sum().backward()
    finally: torch.cuda.set_sync_debug_mode('default')


def test_the_kernel_is_ours_in_bfloat16():
    policy = Policy(tiny('llama', torch.float32), kernel='liger').to(DEVICE)
    if why := cannot_fuse(policy.model, 'liger'): pytest.skip(why)
    rows = pad_rows(ROWS, 0)
    near(gradients(policy, rows, True), gradients(Policy(tiny('llama', torch.float32)), rows, True), 5e-2)


def test_a_room_is_found_and_what_fits_fits():
    policy, accelerator = Policy(tiny('llama', torch.float32)).to(DEVICE), start(REHEARSAL)
    room = Room()
    assert room.look(policy, None, accelerator) > 100 and policy.chunk >= 1 and room.news
