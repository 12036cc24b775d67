from google.rpc import status_pb2 as _status_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Dtype(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DTYPE_UNSPECIFIED: _ClassVar[Dtype]
    DTYPE_FLOAT32: _ClassVar[Dtype]
    DTYPE_FLOAT16: _ClassVar[Dtype]
    DTYPE_INT8: _ClassVar[Dtype]
    DTYPE_BINARY: _ClassVar[Dtype]

class OnError(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ON_ERROR_UNSPECIFIED: _ClassVar[OnError]
    ON_ERROR_FAIL: _ClassVar[OnError]
    ON_ERROR_SKIP: _ClassVar[OnError]

class CacheUse(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CACHE_USE_UNSPECIFIED: _ClassVar[CacheUse]
    CACHE_USE_USE: _ClassVar[CacheUse]
    CACHE_USE_REFRESH: _ClassVar[CacheUse]
    CACHE_USE_BYPASS: _ClassVar[CacheUse]
    CACHE_USE_PRIVATE: _ClassVar[CacheUse]

class Priority(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRIORITY_UNSPECIFIED: _ClassVar[Priority]
    PRIORITY_INTERACTIVE: _ClassVar[Priority]
    PRIORITY_BULK: _ClassVar[Priority]

class CacheResult(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CACHE_RESULT_UNSPECIFIED: _ClassVar[CacheResult]
    CACHE_RESULT_HIT: _ClassVar[CacheResult]
    CACHE_RESULT_MISS: _ClassVar[CacheResult]
    CACHE_RESULT_COALESCED: _ClassVar[CacheResult]

class Function(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FUNCTION_UNSPECIFIED: _ClassVar[Function]
    FUNCTION_SOFTMAX: _ClassVar[Function]
    FUNCTION_SIGMOID: _ClassVar[Function]
    FUNCTION_NONE: _ClassVar[Function]
DTYPE_UNSPECIFIED: Dtype
DTYPE_FLOAT32: Dtype
DTYPE_FLOAT16: Dtype
DTYPE_INT8: Dtype
DTYPE_BINARY: Dtype
ON_ERROR_UNSPECIFIED: OnError
ON_ERROR_FAIL: OnError
ON_ERROR_SKIP: OnError
CACHE_USE_UNSPECIFIED: CacheUse
CACHE_USE_USE: CacheUse
CACHE_USE_REFRESH: CacheUse
CACHE_USE_BYPASS: CacheUse
CACHE_USE_PRIVATE: CacheUse
PRIORITY_UNSPECIFIED: Priority
PRIORITY_INTERACTIVE: Priority
PRIORITY_BULK: Priority
CACHE_RESULT_UNSPECIFIED: CacheResult
CACHE_RESULT_HIT: CacheResult
CACHE_RESULT_MISS: CacheResult
CACHE_RESULT_COALESCED: CacheResult
FUNCTION_UNSPECIFIED: Function
FUNCTION_SOFTMAX: Function
FUNCTION_SIGMOID: Function
FUNCTION_NONE: Function

class Image(_message.Message):
    __slots__ = ("data", "url", "text", "crops")
    DATA_FIELD_NUMBER: _ClassVar[int]
    URL_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    CROPS_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    url: str
    text: str
    crops: _containers.RepeatedCompositeFieldContainer[Crop]
    def __init__(self, data: _Optional[bytes] = ..., url: _Optional[str] = ..., text: _Optional[str] = ..., crops: _Optional[_Iterable[_Union[Crop, _Mapping]]] = ...) -> None: ...

class Crop(_message.Message):
    __slots__ = ("x", "y", "width", "height")
    X_FIELD_NUMBER: _ClassVar[int]
    Y_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    x: float
    y: float
    width: float
    height: float
    def __init__(self, x: _Optional[float] = ..., y: _Optional[float] = ..., width: _Optional[float] = ..., height: _Optional[float] = ...) -> None: ...

class EmbedOptions(_message.Message):
    __slots__ = ("model", "version", "outputs", "normalize", "dimensions", "dtype", "on_error", "cache", "priority")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    NORMALIZE_FIELD_NUMBER: _ClassVar[int]
    DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    ON_ERROR_FIELD_NUMBER: _ClassVar[int]
    CACHE_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    outputs: _containers.RepeatedScalarFieldContainer[str]
    normalize: bool
    dimensions: int
    dtype: Dtype
    on_error: OnError
    cache: CacheUse
    priority: Priority
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., outputs: _Optional[_Iterable[str]] = ..., normalize: _Optional[bool] = ..., dimensions: _Optional[int] = ..., dtype: _Optional[_Union[Dtype, str]] = ..., on_error: _Optional[_Union[OnError, str]] = ..., cache: _Optional[_Union[CacheUse, str]] = ..., priority: _Optional[_Union[Priority, str]] = ...) -> None: ...

class EmbedRequest(_message.Message):
    __slots__ = ("options", "images")
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    options: EmbedOptions
    images: _containers.RepeatedCompositeFieldContainer[Image]
    def __init__(self, options: _Optional[_Union[EmbedOptions, _Mapping]] = ..., images: _Optional[_Iterable[_Union[Image, _Mapping]]] = ...) -> None: ...

class EmbedResponse(_message.Message):
    __slots__ = ("model", "results", "towers")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    TOWERS_FIELD_NUMBER: _ClassVar[int]
    model: ModelVersion
    results: _containers.RepeatedCompositeFieldContainer[ImageResult]
    towers: _containers.RepeatedCompositeFieldContainer[ModelVersion]
    def __init__(self, model: _Optional[_Union[ModelVersion, _Mapping]] = ..., results: _Optional[_Iterable[_Union[ImageResult, _Mapping]]] = ..., towers: _Optional[_Iterable[_Union[ModelVersion, _Mapping]]] = ...) -> None: ...

class EmbedStreamRequest(_message.Message):
    __slots__ = ("options", "id", "image", "more", "reads_more")
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    READS_MORE_FIELD_NUMBER: _ClassVar[int]
    options: EmbedOptions
    id: str
    image: Image
    more: _containers.RepeatedCompositeFieldContainer[StreamImage]
    reads_more: bool
    def __init__(self, options: _Optional[_Union[EmbedOptions, _Mapping]] = ..., id: _Optional[str] = ..., image: _Optional[_Union[Image, _Mapping]] = ..., more: _Optional[_Iterable[_Union[StreamImage, _Mapping]]] = ..., reads_more: _Optional[bool] = ...) -> None: ...

class StreamImage(_message.Message):
    __slots__ = ("id", "image")
    ID_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    id: str
    image: Image
    def __init__(self, id: _Optional[str] = ..., image: _Optional[_Union[Image, _Mapping]] = ...) -> None: ...

class EmbedStreamResponse(_message.Message):
    __slots__ = ("id", "model", "result", "more", "max_images", "max_bytes")
    ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    MAX_IMAGES_FIELD_NUMBER: _ClassVar[int]
    MAX_BYTES_FIELD_NUMBER: _ClassVar[int]
    id: str
    model: ModelVersion
    result: ImageResult
    more: _containers.RepeatedCompositeFieldContainer[StreamAnswer]
    max_images: int
    max_bytes: int
    def __init__(self, id: _Optional[str] = ..., model: _Optional[_Union[ModelVersion, _Mapping]] = ..., result: _Optional[_Union[ImageResult, _Mapping]] = ..., more: _Optional[_Iterable[_Union[StreamAnswer, _Mapping]]] = ..., max_images: _Optional[int] = ..., max_bytes: _Optional[int] = ...) -> None: ...

class StreamAnswer(_message.Message):
    __slots__ = ("id", "model", "result")
    ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    id: str
    model: ModelVersion
    result: ImageResult
    def __init__(self, id: _Optional[str] = ..., model: _Optional[_Union[ModelVersion, _Mapping]] = ..., result: _Optional[_Union[ImageResult, _Mapping]] = ...) -> None: ...

class ClassOptions(_message.Message):
    __slots__ = ("top_k", "min_score", "function", "labels", "templates")
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    MIN_SCORE_FIELD_NUMBER: _ClassVar[int]
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    TEMPLATES_FIELD_NUMBER: _ClassVar[int]
    top_k: int
    min_score: float
    function: Function
    labels: _containers.RepeatedScalarFieldContainer[str]
    templates: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, top_k: _Optional[int] = ..., min_score: _Optional[float] = ..., function: _Optional[_Union[Function, str]] = ..., labels: _Optional[_Iterable[str]] = ..., templates: _Optional[_Iterable[str]] = ...) -> None: ...

class ClassifyRequest(_message.Message):
    __slots__ = ("options", "images", "classes")
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    options: EmbedOptions
    images: _containers.RepeatedCompositeFieldContainer[Image]
    classes: ClassOptions
    def __init__(self, options: _Optional[_Union[EmbedOptions, _Mapping]] = ..., images: _Optional[_Iterable[_Union[Image, _Mapping]]] = ..., classes: _Optional[_Union[ClassOptions, _Mapping]] = ...) -> None: ...

class ClassifyResponse(_message.Message):
    __slots__ = ("model", "results", "towers")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    TOWERS_FIELD_NUMBER: _ClassVar[int]
    model: ModelVersion
    results: _containers.RepeatedCompositeFieldContainer[ImageResult]
    towers: _containers.RepeatedCompositeFieldContainer[ModelVersion]
    def __init__(self, model: _Optional[_Union[ModelVersion, _Mapping]] = ..., results: _Optional[_Iterable[_Union[ImageResult, _Mapping]]] = ..., towers: _Optional[_Iterable[_Union[ModelVersion, _Mapping]]] = ...) -> None: ...

class ClassifyStreamRequest(_message.Message):
    __slots__ = ("options", "id", "image", "more", "reads_more", "classes")
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    READS_MORE_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    options: EmbedOptions
    id: str
    image: Image
    more: _containers.RepeatedCompositeFieldContainer[StreamImage]
    reads_more: bool
    classes: ClassOptions
    def __init__(self, options: _Optional[_Union[EmbedOptions, _Mapping]] = ..., id: _Optional[str] = ..., image: _Optional[_Union[Image, _Mapping]] = ..., more: _Optional[_Iterable[_Union[StreamImage, _Mapping]]] = ..., reads_more: _Optional[bool] = ..., classes: _Optional[_Union[ClassOptions, _Mapping]] = ...) -> None: ...

class ClassifyStreamResponse(_message.Message):
    __slots__ = ("id", "model", "result", "more", "max_images", "max_bytes")
    ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    MAX_IMAGES_FIELD_NUMBER: _ClassVar[int]
    MAX_BYTES_FIELD_NUMBER: _ClassVar[int]
    id: str
    model: ModelVersion
    result: ImageResult
    more: _containers.RepeatedCompositeFieldContainer[StreamAnswer]
    max_images: int
    max_bytes: int
    def __init__(self, id: _Optional[str] = ..., model: _Optional[_Union[ModelVersion, _Mapping]] = ..., result: _Optional[_Union[ImageResult, _Mapping]] = ..., more: _Optional[_Iterable[_Union[StreamAnswer, _Mapping]]] = ..., max_images: _Optional[int] = ..., max_bytes: _Optional[int] = ...) -> None: ...

class ModelVersion(_message.Message):
    __slots__ = ("name", "version", "fingerprint", "tower", "space")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    TOWER_FIELD_NUMBER: _ClassVar[int]
    SPACE_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: int
    fingerprint: str
    tower: str
    space: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[int] = ..., fingerprint: _Optional[str] = ..., tower: _Optional[str] = ..., space: _Optional[str] = ...) -> None: ...

class ImageResult(_message.Message):
    __slots__ = ("embeddings", "error", "predictions", "crop", "tower")
    EMBEDDINGS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    PREDICTIONS_FIELD_NUMBER: _ClassVar[int]
    CROP_FIELD_NUMBER: _ClassVar[int]
    TOWER_FIELD_NUMBER: _ClassVar[int]
    embeddings: _containers.RepeatedCompositeFieldContainer[Embedding]
    error: _status_pb2.Status
    predictions: _containers.RepeatedCompositeFieldContainer[Prediction]
    crop: Crop
    tower: str
    def __init__(self, embeddings: _Optional[_Iterable[_Union[Embedding, _Mapping]]] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ..., predictions: _Optional[_Iterable[_Union[Prediction, _Mapping]]] = ..., crop: _Optional[_Union[Crop, _Mapping]] = ..., tower: _Optional[str] = ...) -> None: ...

class Prediction(_message.Message):
    __slots__ = ("output", "labels", "rejected", "cache")
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    CACHE_FIELD_NUMBER: _ClassVar[int]
    output: str
    labels: _containers.RepeatedCompositeFieldContainer[Label]
    rejected: bool
    cache: CacheResult
    def __init__(self, output: _Optional[str] = ..., labels: _Optional[_Iterable[_Union[Label, _Mapping]]] = ..., rejected: _Optional[bool] = ..., cache: _Optional[_Union[CacheResult, str]] = ...) -> None: ...

class Label(_message.Message):
    __slots__ = ("name", "id", "index", "score")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    name: str
    id: str
    index: int
    score: float
    def __init__(self, name: _Optional[str] = ..., id: _Optional[str] = ..., index: _Optional[int] = ..., score: _Optional[float] = ...) -> None: ...

class Embedding(_message.Message):
    __slots__ = ("output", "dtype", "shape", "data", "cache")
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    CACHE_FIELD_NUMBER: _ClassVar[int]
    output: str
    dtype: Dtype
    shape: _containers.RepeatedScalarFieldContainer[int]
    data: bytes
    cache: CacheResult
    def __init__(self, output: _Optional[str] = ..., dtype: _Optional[_Union[Dtype, str]] = ..., shape: _Optional[_Iterable[int]] = ..., data: _Optional[bytes] = ..., cache: _Optional[_Union[CacheResult, str]] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetModelResponse(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: Model
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("name", "ready", "version", "fingerprint", "outputs", "default_output", "max_batch_size", "manifest_json", "versions", "family", "tower", "space", "towers")
    NAME_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_OUTPUT_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_JSON_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    FAMILY_FIELD_NUMBER: _ClassVar[int]
    TOWER_FIELD_NUMBER: _ClassVar[int]
    SPACE_FIELD_NUMBER: _ClassVar[int]
    TOWERS_FIELD_NUMBER: _ClassVar[int]
    name: str
    ready: bool
    version: int
    fingerprint: str
    outputs: _containers.RepeatedCompositeFieldContainer[Output]
    default_output: str
    max_batch_size: int
    manifest_json: str
    versions: _containers.RepeatedScalarFieldContainer[int]
    family: str
    tower: str
    space: str
    towers: _containers.RepeatedCompositeFieldContainer[ModelVersion]
    def __init__(self, name: _Optional[str] = ..., ready: _Optional[bool] = ..., version: _Optional[int] = ..., fingerprint: _Optional[str] = ..., outputs: _Optional[_Iterable[_Union[Output, _Mapping]]] = ..., default_output: _Optional[str] = ..., max_batch_size: _Optional[int] = ..., manifest_json: _Optional[str] = ..., versions: _Optional[_Iterable[int]] = ..., family: _Optional[str] = ..., tower: _Optional[str] = ..., space: _Optional[str] = ..., towers: _Optional[_Iterable[_Union[ModelVersion, _Mapping]]] = ...) -> None: ...

class Output(_message.Message):
    __slots__ = ("name", "layer", "pooling", "shape", "kind", "labels")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    POOLING_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    name: str
    layer: str
    pooling: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    kind: str
    labels: int
    def __init__(self, name: _Optional[str] = ..., layer: _Optional[str] = ..., pooling: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., kind: _Optional[str] = ..., labels: _Optional[int] = ...) -> None: ...
