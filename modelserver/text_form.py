"""Reads protobuf's text format for messages that TensorFlow Serving knows and no package on PyPI ships.

Their few fields are written down as tables where they are used, and the type is built at run time, in a pool of its
own: whoever has the real one loaded keeps it. As there, an unknown field or the wrong form of a known one is an error.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2

Field = tuple[int, str, str]
"""Number, name, and kind: ``int64``, ``bool``, ``string``, ``repeated int64``, a message of the table, or one of
protobuf's wrappers, such as ``Int64Value``."""

_PACKAGE = "modelserver.text_form"
_proto = descriptor_pb2.FieldDescriptorProto
_SCALARS = {"int64": _proto.TYPE_INT64, "bool": _proto.TYPE_BOOL, "string": _proto.TYPE_STRING}


class BadText(Exception):
    """The text is not of the message's form; says what it stumbled over."""


def read(text: str, name: str, tables: Mapping[str, Sequence[Field]]) -> Any:  # noqa: ANN401 (a type made here has no name)
    """Read a message.

    Args:
        text: Its text form.
        name: Which message of ``tables``.
        tables: Fields of the message, and of those within it.

    Returns:
        The protobuf message.

    Raises:
        BadText: The text is not of its form.
    """
    file = descriptor_pb2.FileDescriptorProto(name=f"{_PACKAGE}.proto", package=_PACKAGE, syntax="proto3")
    file.dependency.append(wrappers_pb2.DESCRIPTOR.name)
    for message, fields in tables.items():
        file.message_type.add(name=message, field=[_field(field, tables) for field in fields])
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    message_class = message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))
    try:
        return text_format.Parse(text, message_class())
    except text_format.ParseError as error:
        raise BadText(str(error)) from error


def _field(field: Field, tables: Mapping[str, Sequence[Field]]) -> descriptor_pb2.FieldDescriptorProto:
    number, name, kind = field
    repeated, _, kind = kind.rpartition(" ")
    proto = _proto(name=name, number=number, label=_proto.LABEL_REPEATED if repeated else _proto.LABEL_OPTIONAL)
    if kind in _SCALARS:
        proto.type = _SCALARS[kind]
    else:
        proto.type = _proto.TYPE_MESSAGE
        proto.type_name = f".{_PACKAGE}.{kind}" if kind in tables else f".google.protobuf.{kind}"
    return proto
