"""Maps operators over a further axis: as more rows, or one after the other."""

import torch


def map_over_rows(op, shared=None):
    """Lets `torch.vmap` map an operator whose tensors have rows.

    Args:
        op: The operator.
        shared: The position of an argument that has none, or `None`.
    """

    def rule(info, in_dims, *args):
        size, mapped = info.batch_size, list(zip(args, in_dims, strict=True))
        if shared is None or in_dims[shared] is None:
            rows = [_more_rows(v, dim, size) for v, dim in mapped]
            if shared is not None:
                rows[shared] = args[shared]
            outputs = [v.unflatten(0, (size, -1)) for v in op(*rows)]
        else:
            each = [
                [_select(v, dim, i) for v, dim in mapped] for i in range(size)
            ]
            each = [op(*one) for one in each]
            outputs = [torch.stack(v) for v in zip(*each, strict=True)]
        return tuple(outputs), (0,) * len(outputs)

    op.register_vmap(rule)


def _more_rows(v, dim, size):
    if not isinstance(v, torch.Tensor):
        return v
    v = v.expand(size, *v.shape) if dim is None else v.movedim(dim, 0)
    return v.flatten(0, 1)


def _select(v, dim, i):
    return v if dim is None else v.select(dim, i)
