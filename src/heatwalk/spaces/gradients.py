"""Gradients of the heat kernel for torch: the score itself, where chained derivatives would divide zero by zero."""

import torch
from torch.autograd.function import once_differentiable


class LogHeatKernel(torch.autograd.Function):
    """log p_t(x, y) of a space; by symmetry its gradient in x is the score with the points exchanged."""

    @staticmethod
    def forward(ctx, space, x, y, t):
        ctx.space, ctx.t = space, t
        ctx.save_for_backward(x, y)
        return space.log_heat_kernel(x.detach(), y.detach(), t)

    @staticmethod
    @once_differentiable
    def backward(ctx, above):
        x, y = ctx.saved_tensors
        space = ctx.space
        above = above.reshape(above.shape + (1,) * len(space.shape)) * space.slope
        found = [None, None]
        for place, (start, end) in enumerate(((y, x), (x, y))):
            if ctx.needs_input_grad[1 + place]:
                found[place] = (above * space.score(start, end, ctx.t)).sum_to_size(end.shape).to(end.dtype)
        return None, *found, None
