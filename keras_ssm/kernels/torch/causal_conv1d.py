"""The causal convolution as k shifted products.

With `history`, the input behind the state (reversed: before it, with reversed
taps), and `g`, the gradient with respect to `p`:

    p[t] = bias + sum_j weight[j] * history[t + j]
    dhistory[s] = sum_j weight[j] * g[s - j]
    dweight[j] = sum_{b,t} g[t] * history[t + j]        dbias = sum_{b,t} g[t]

Autograd by itself would keep a copy for each tap. `torch.nn.functional.conv1d`
is no faster on a CPU and knows no segments, and its gradients on a GPU are
not the same from run to run.
"""

import torch


def unsupported(*tensors, **options):
    """Nothing: it runs wherever PyTorch does."""
    return None


def causal_conv1d(x, weight, bias, state, resets, *, activation, reverse):
    """The op on canonical tensors; see `keras_ssm.ops.causal_conv1d`."""
    history = x.to(state.dtype)
    if reverse:
        history = torch.cat([history, state.flip(1)], dim=1)
        weight = weight.flip(0)
    else:
        history = torch.cat([state, history], dim=1)
    segments = _segments(resets, weight.shape[0] - 1, reverse)
    y = _Convolution.apply(history, weight, bias, segments, reverse)
    y = torch.nn.functional.silu(y) if activation == "silu" else y
    return y.to(x.dtype)


def _segments(resets, taps, reverse):
    """Numbers the segments of each row of the history, (b, l + k - 1)."""
    if resets is None:
        return None
    count = torch.cumsum(resets.flip(1) if reverse else resets, dim=1)
    count = torch.nn.functional.pad(count, (taps, 0))
    return count.flip(1) if reverse else count


class _Convolution(torch.autograd.Function):
    """`p` and its gradients."""

    generate_vmap_rule = True

    @staticmethod
    def forward(history, weight, bias, segments, reverse):
        k, length = weight.shape[0], history.shape[1] - weight.shape[0] + 1
        p = None
        for j in range(k):
            tap = history[:, j : j + length]
            tap = _seen(tap, segments, j, k, reverse)
            if p is not None:
                p.addcmul_(tap, weight[j])
            elif bias is None:
                p = tap * weight[j]
            else:
                p = torch.addcmul(bias, tap, weight[j])
        return p

    @staticmethod
    def setup_context(ctx, inputs, output):
        history, weight, bias, segments, ctx.reverse = inputs
        ctx.has_bias = bias is not None
        ctx.save_for_backward(history, weight, segments)

    @staticmethod
    def backward(ctx, g):
        history, weight, segments = ctx.saved_tensors
        k, length = weight.shape[0], g.shape[1]
        dhistory, dweight, around = None, [], _pad(g, k)
        for j in range(k):
            seen = g
            if segments is not None:
                seen = _seen(g, segments, j, k, ctx.reverse)
                around = _pad(seen, k)
            # Slices are only read: PyTorch 2.11 compiles wrongly for a GPU
            # what adds to overlapping slices in place.
            moved = around[:, k - 1 - j : 2 * (k - 1) - j + length]
            if dhistory is None:
                dhistory = moved * weight[j]
            else:
                dhistory.addcmul_(moved, weight[j])
            tap = history[:, j : j + length]
            dweight.append((seen * tap).sum((0, 1)))
        dbias = g.sum((0, 1)) if ctx.has_bias else None
        return dhistory, torch.stack(dweight), dbias, None, None


def _pad(g, k):
    """`g` with k - 1 zeros before its first and after its last step."""
    return torch.nn.functional.pad(g, (0, 0, k - 1, k - 1))


def _seen(v, segments, j, k, reverse):
    """`v` where tap j lies in the segment of the step it is seen from."""
    if segments is None:
        return v
    length, current = v.shape[1], 0 if reverse else k - 1
    current = segments[:, current : current + length]
    same = segments[:, j : j + length] == current
    return torch.where(same[..., None], v, 0)
