"""A program of XLA that is nothing but a call of a kernel.

Sizes that are not known yet are found when XLA compiles the program for actual
shapes. What a result's shape is comes with an empty argument, its *mould*, of
shape `(0, *shape)`: it costs nothing and needs no arithmetic in here.
"""


def program(target: str, arguments, results) -> str:
    """The text of a StableHLO module.

    Args:
        target: The name by which XLA knows the kernel.
        arguments: `(shape, type)` of each, where a size may be `None`; those
            of the kernel first, then the moulds.
        results: The same for each result. If a size of any is `None`, all have
            a mould, else none has.
    """
    types = [_tensor(*argument) for argument in arguments]
    returned = [_tensor(*result) for result in results]
    unknown = any(None in shape for shape, _ in results)
    inputs = len(arguments) - unknown * len(results)
    operands = [f"%a{k}" for k in range(inputs)]
    operand_types = types[:inputs]
    attributes = "api_version = 4 : i32"
    lines = []
    for mould in range(inputs, len(arguments)):
        rank = len(arguments[mould][0]) - 1
        lines += _shape_of(mould, types[mould], rank)
        operands.append(f"%shape{mould}")
        operand_types.append(f"tensor<{rank}xi32>")
    if unknown:
        moulds = _list(str(k) for k in range(inputs, len(arguments)))
        attributes += (
            f", indices_of_shape_operands = dense<[{moulds}]> : "
            f"tensor<{len(results)}xi64>"
        )
    parameters = ", ".join(f"%a{k}: {type_}" for k, type_ in enumerate(types))
    outputs = ", ".join(f"%r#{k}" for k in range(len(results)))
    return "\n".join(
        [
            "module attributes {jax.uses_shape_polymorphism = true} {",
            f"func.func public @main({parameters}) -> ({_list(returned)}) {{",
            *lines,
            f"%r:{len(results)} = stablehlo.custom_call "
            f"@{target}({_list(operands)}) "
            f"{{{attributes}}} : "
            f"({_list(operand_types)}) -> ({_list(returned)})",
            f"return {outputs} : {_list(returned)}",
            "}}",
        ]
    )


def _shape_of(mould, type_, rank):
    """Lines that make a vector of the sizes behind a mould's first axis."""
    lines = []
    for axis in range(rank):
        size = f"%size{mould}_{axis}"
        lines += [
            f"{size}_ = stablehlo.get_dimension_size %a{mould}, dim = "
            f"{axis + 1} : ({type_}) -> tensor<i32>",
            f"{size} = stablehlo.reshape {size}_ : "
            "(tensor<i32>) -> tensor<1xi32>",
        ]
    sizes = _list(f"%size{mould}_{axis}" for axis in range(rank))
    ones = _list(["tensor<1xi32>"] * rank)
    lines.append(
        f"%shape{mould} = stablehlo.concatenate {sizes}, dim = 0 : "
        f"({ones}) -> tensor<{rank}xi32>"
    )
    return lines


def _tensor(shape, type_):
    sizes = ("?" if size is None else str(size) for size in shape)
    return f"tensor<{'x'.join([*sizes, type_])}>"


def _list(items):
    return ", ".join(items)
