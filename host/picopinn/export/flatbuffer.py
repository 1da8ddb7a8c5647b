"""A TensorFlow Lite model as bytes, by the schema of the package ``tflite``: one subgraph, no TensorFlow.

A model is tensors, operators that connect them, and the buffers of those that are constant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError

_FILE = b"TFL3"  # identifies the file format
_SCHEMA = 3  # its version
_ALIGNED = 16  # bytes; the schema asks it of buffers
_TYPES = {np.dtype(np.float32): "FLOAT32", np.dtype(np.int32): "INT32", np.dtype(np.int8): "INT8"}


@dataclass(frozen=True)
class Affine:
    """real = scale * (stored - zero)."""

    scale: float
    zero: int = 0


@dataclass(frozen=True, eq=False)
class _Tensor:
    name: str
    shape: tuple[int, ...]  # -1: as many rows as the input has
    dtype: np.dtype[Any]
    affine: Affine | None
    data: NDArray[Any] | None


@dataclass(frozen=True)
class _Operator:
    code: str
    version: int
    inputs: tuple[int, ...]
    output: int
    options: str | None


@dataclass
class Model:
    """A graph under construction; its tensors are known by their numbers."""

    description: str
    _tensors: list[_Tensor] = field(default_factory=list)
    _operators: list[_Operator] = field(default_factory=list)

    def variable(self, name: str, width: int, dtype: type[np.generic], affine: Affine | None = None) -> int:
        """A tensor (n, width), n being the rows of the input."""
        return self._add(_Tensor(name, (-1, width), np.dtype(dtype), affine, None))

    def constant(self, name: str, data: NDArray[Any], affine: Affine | None = None) -> int:
        return self._add(_Tensor(name, data.shape, data.dtype, affine, data))

    def operator(
        self, code: str, inputs: Sequence[int], output: int, options: str | None = None, version: int = 1
    ) -> int:
        """Append an operator of the schema's ``BuiltinOperator``, its options at their defaults; answers ``output``.

        ``version`` is the least in which it takes tensors of these types. An input of -1 is left out.
        """
        self._operators.append(_Operator(code, version, tuple(inputs), output, options))
        return output

    def to_bytes(self, inputs: int, outputs: int) -> bytes:
        """The file of the model that makes tensor ``outputs`` of tensor ``inputs``."""
        return _Writer().write(self, inputs, outputs)

    def _add(self, tensor: _Tensor) -> int:
        self._tensors.append(tensor)
        return len(self._tensors) - 1


def require() -> tuple[Any, Any]:
    """The packages ``flatbuffers`` and ``tflite``; UsageError where they are not installed."""
    try:
        import flatbuffers
        import tflite
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is not installed: pip install 'picopinn[export]'") from None
    return flatbuffers, tflite


class _Writer:
    """Packs a model; flatbuffers are written children first."""

    def __init__(self) -> None:
        flatbuffers, self.schema = require()
        self.builder = flatbuffers.Builder(1 << 14)

    def write(self, model: Model, inputs: int, outputs: int) -> bytes:
        builder = self.builder
        constants = [tensor.data for tensor in model._tensors if tensor.data is not None]
        buffers = [self._table("Buffer"), *(self._table("Buffer", Data=self._data(data)) for data in constants)]
        codes = sorted({(operator.code, operator.version) for operator in model._operators})
        graph = self._table(
            "SubGraph",
            Tensors=self._offsets(self._tensors(model._tensors)),
            Inputs=self._numbers([inputs], "Int32"),
            Outputs=self._numbers([outputs], "Int32"),
            Operators=self._offsets([self._operator(operator, codes) for operator in model._operators]),
            Name=builder.CreateString("main"),
        )
        root = self._table(
            "Model",
            Version=_SCHEMA,
            OperatorCodes=self._offsets([self._code(*code) for code in codes]),
            Subgraphs=self._offsets([graph]),
            Description=builder.CreateString(model.description),
            Buffers=self._offsets(buffers),
        )
        builder.Finish(root, _FILE)
        return bytes(builder.Output())

    def _table(self, kind: str, **fields: int) -> int:
        """A table of the schema with these fields: numbers, or offsets of what was written before."""
        getattr(self.schema, f"{kind}Start")(self.builder)
        for name, value in fields.items():
            getattr(self.schema, f"{kind}Add{name}")(self.builder, value)
        return int(getattr(self.schema, f"{kind}End")(self.builder))

    def _offsets(self, offsets: Sequence[int]) -> int:
        return self._vector(offsets, 4, self.builder.PrependUOffsetTRelative)

    def _numbers(self, numbers: Sequence[float], kind: str) -> int:
        size = 8 if kind == "Int64" else 4
        return self._vector(numbers, size, getattr(self.builder, f"Prepend{kind}"))

    def _vector(self, items: Sequence[Any], size: int, prepend: Any) -> int:
        self.builder.StartVector(size, len(items), size)
        for item in reversed(items):
            prepend(item)
        return int(self.builder.EndVector())

    def _data(self, data: NDArray[Any]) -> int:
        """A vector of bytes that begins where the schema wants it."""
        content = data.astype(data.dtype.newbyteorder("<")).tobytes()
        self.builder.StartVector(1, len(content), _ALIGNED)
        self.builder.head = self.builder.Head() - len(content)
        self.builder.Bytes[self.builder.Head() : self.builder.Head() + len(content)] = content
        return int(self.builder.EndVector())

    def _tensors(self, tensors: Sequence[_Tensor]) -> list[int]:
        offsets, buffer = [], 0
        for tensor in tensors:
            fields = {"Name": self.builder.CreateString(tensor.name), "Type": self._type(tensor.dtype)}
            fields["Shape"] = self._numbers([max(size, 1) for size in tensor.shape], "Int32")
            if -1 in tensor.shape:
                fields["ShapeSignature"] = self._numbers(tensor.shape, "Int32")
            if tensor.affine:
                fields["Quantization"] = self._quantization(tensor.affine)
            if tensor.data is not None:
                fields["Buffer"] = buffer = buffer + 1
            offsets.append(self._table("Tensor", **fields))
        return offsets

    def _type(self, dtype: np.dtype[Any]) -> int:
        return int(getattr(self.schema.TensorType, _TYPES[dtype]))

    def _quantization(self, affine: Affine) -> int:
        scales, zeros = self._numbers([affine.scale], "Float32"), self._numbers([affine.zero], "Int64")
        return self._table("QuantizationParameters", Scale=scales, ZeroPoint=zeros)

    def _code(self, code: str, version: int) -> int:
        """An operator's code, also where older readers look for those below 127."""
        number = getattr(self.schema.BuiltinOperator, code)
        return self._table("OperatorCode", BuiltinCode=number, DeprecatedBuiltinCode=min(number, 127), Version=version)

    def _operator(self, operator: _Operator, codes: Sequence[tuple[str, int]]) -> int:
        fields = {
            "OpcodeIndex": codes.index((operator.code, operator.version)),
            "Inputs": self._numbers(operator.inputs, "Int32"),
            "Outputs": self._numbers([operator.output], "Int32"),
        }
        if operator.options:
            fields["BuiltinOptionsType"] = getattr(self.schema.BuiltinOptions, operator.options)
            fields["BuiltinOptions"] = self._table(operator.options)
        return self._table("Operator", **fields)
