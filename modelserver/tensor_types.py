"""TensorFlow's element types as they cross the wire: number, name in messages, numpy type, field of ``TensorProto``."""

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class ElementType:
    """One element type.

    Attributes:
        number: Value of TensorFlow's ``DataType`` enum.
        name: TensorFlow's word for it, as in "Expects arg[0] to be float but uint8 is provided".
        dtype: What an array of it is in memory; ``object`` (of ``bytes``) for strings.
        field: The repeated field of ``TensorProto`` that carries its values.
        wire: The numpy type of one entry of that field. Small integers travel as int32, 16-bit floats as the integer
            that has their bits, complex numbers as pairs.
    """

    number: int
    name: str
    dtype: np.dtype[np.generic]
    field: str
    wire: npt.DTypeLike


TYPES = {
    row.number: row
    for row in (
        ElementType(1, "float", np.dtype("f4"), "float_val", "f4"),
        ElementType(2, "double", np.dtype("f8"), "double_val", "f8"),
        ElementType(3, "int32", np.dtype("i4"), "int_val", "i4"),
        ElementType(4, "uint8", np.dtype("u1"), "int_val", "i4"),
        ElementType(5, "int16", np.dtype("i2"), "int_val", "i4"),
        ElementType(6, "int8", np.dtype("i1"), "int_val", "i4"),
        ElementType(7, "string", np.dtype("O"), "string_val", "O"),
        ElementType(8, "complex64", np.dtype("c8"), "scomplex_val", "f4"),
        ElementType(9, "int64", np.dtype("i8"), "int64_val", "i8"),
        ElementType(10, "bool", np.dtype("?"), "bool_val", "?"),
        ElementType(14, "bfloat16", np.dtype(ml_dtypes.bfloat16), "half_val", "i4"),
        ElementType(17, "uint16", np.dtype("u2"), "int_val", "i4"),
        ElementType(18, "complex128", np.dtype("c16"), "dcomplex_val", "f8"),
        ElementType(19, "half", np.dtype("f2"), "half_val", "i4"),
        ElementType(22, "uint32", np.dtype("u4"), "uint32_val", "u4"),
        ElementType(23, "uint64", np.dtype("u8"), "uint64_val", "u8"),
    )
}

BY_DTYPE = {row.dtype: row for row in TYPES.values()}


def type_name(number: int) -> str:
    """Name an element type as TensorFlow's messages do; unknown ones by their number."""
    row = TYPES.get(number)
    return row.name if row else f"dtype {number}"
